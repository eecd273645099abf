"""Images per second in one process: our loop, Keras ``fit``, and loops in PyTorch and JAX.

    python -m benchmarks.throughput --data URI [--only PRESET ...]

Same model, batch, data and update rule on all sides, at the batch size of the preset's source;
nobody logs, validates or stores anything. Each side is a process; they take turns.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import arrays, common
from benchmarks.common import ABSENT, Side, Spread, ratios, table, take_turns
from trainer import presets
from trainer.gang import process
from trainer.presets import PRESETS

WARPED = "cnn-best, warped"
HUGE = ", huge pages"
ROWS = (*PRESETS, WARPED)
SECONDS = 2.0  # of one turn of one side
MORE = 20  # turns at most until the loss has fallen
# One learning rate on all sides: peers' loops would need a schedule of their own.
SAME = {"schedule": "constant", "learning_rate": 1e-3}
# Each peer has its plain loop, and the best of what was tried, in columns of their own.
PEERS = {"keras": "fit", "torch": "PyTorch", "jax": "JAX"}
COLUMNS = [name for peer in PEERS.values() for name in (peer, f"best {peer}")]
HEAD = ("preset", "batch", "trainyard", *COLUMNS)
TIMES = tuple(f"times {name}" for name in COLUMNS)


@dataclass
class Contender:
    """One variant of one side.

    Attributes:
        side: its process.
        variant: as the side calls it.
        batch: images a step.
        steps: of one turn.
        rate: images per second of the last turn.
    """

    side: Side
    variant: str
    batch: int
    steps: int
    rate: float = 0.0

    def turn(self) -> float:
        """Train for one turn and return images per second."""
        answer = self.side.ask(do="train", variant=self.variant, steps=self.steps)
        self.rate = answer["steps"] * self.batch / answer["seconds"]
        return self.rate


def main() -> None:
    """Measure and print."""
    parser = common.options(main.__doc__, rounds=7)
    parser.add_argument("--only", nargs="*", choices=ROWS, default=list(ROWS))
    chosen = common.parse(parser)
    if chosen.quick:
        chosen.only = chosen.only[:1]
    rows, notes = [], []
    for name in chosen.only:
        row, note = measure(name, chosen)
        rows.append(row)
        notes.append(f"- {note}")
        print(f"| {' | '.join(row)} |", file=sys.stderr, flush=True)
    about = (
        f"Images per second in one process: median (least to greatest) of {chosen.rounds} turns "
        "of each side, and the median of the ratios of adjacent turns."
    )
    explanation = (
        "`fit` is Keras's, on arrays in memory, without metrics; best fit has the fastest "
        "`steps_per_execution`. PyTorch is the plain loop over a permutation of tensors of floats "
        "scaled in advance; best PyTorch has the fastest choice of a fused optimizer, one thread "
        "instead of all, torch.compile, and, for convolutions, channels-last. JAX is the loop of "
        "Flax's MNIST example, one jitted call a step; best JAX may be one `lax.scan` over 500 "
        "steps (10 of `cnn-best`, where 500 take minutes), with the images on the device. All "
        "sides have their memory in huge pages; the plain variants were also tried without. "
        "`cnn-best` trains without its random warps on all sides, because PyTorch and JAX do not "
        f"have them; the row `{WARPED}` has them. The benchmark checks that all sides have the "
        "same number of trainable parameters, and that the loss of each falls to less than half."
    )
    body = "\n\n".join([table((*HEAD, *TIMES), rows), explanation, "\n".join(notes)])
    common.publish(chosen, "Throughput", about, body)


def settings_of(name: str) -> dict[str, Any]:
    """Return what makes all sides train the model of a row."""
    settings: dict[str, Any] = {"preset": "cnn-best" if name == WARPED else name}
    if settings["preset"].startswith("cnn"):
        settings |= SAME
    if name == "cnn-best":
        settings["model"] = "benchmarks.tensorflow_side:still"
    return settings


def measure(name: str, chosen: Any) -> tuple[list[str], str]:
    """Return a row of the table, and what was chosen for it."""
    seconds = 0.05 if chosen.quick else SECONDS
    settings = settings_of(name)
    if chosen.quick:
        settings |= {"chunk_steps": 4, "validation": 55_000}
    config = presets.configure({}, settings)
    with sides(settings, chosen.data, with_others=name != WARPED) as found:
        before, variants = check_sides(name, found)
        make = partial(calibrated, batch=config.batch_size, seconds=seconds)
        ours = make(found["ours"], "")
        contenders: dict[str, Contender] = {"trainyard": ours}
        best = []
        for kind, label in PEERS.items():
            if kind not in found:
                continue
            plain = make(found[kind], variants[kind][0])
            tried = {variant: make(found[kind + HUGE], variant) for variant in variants[kind]}
            tried[f"{variants[kind][0]}, in small pages"] = plain
            for each in tried.values():
                each.turn()
            fastest = max(tried, key=lambda variant: tried[variant].rate)
            contenders |= {label: plain, f"best {label}": tried[fastest]}
            best.append(f"best {label}: {fastest}")
        rates = take_turns({k: v.turn for k, v in contenders.items()}, chosen.rounds)
        after = {
            kind: fallen(found[kind], contenders[PEERS.get(kind, "trainyard")], before[kind] / 2)
            for kind in before
        }
    if not chosen.quick:
        stuck = [kind for kind in after if not after[kind] < before[kind] / 2]
        assert not stuck, f"{name}: no loss falls: {stuck}, {before}, {after}"
    missing = "no warp" if name == WARPED else ABSENT
    row = [f"`{name}`", str(config.batch_size), *cells(rates, missing)]
    losses = ", ".join(f"{k} {before[k]:.2f} to {after[k]:.3f}" for k in after)
    return row, f"`{name}`: {'; '.join(best)}; loss: {losses}"


def fallen(side: Side, plain: Contender, limit: float) -> float:
    """Return the loss of a side, after some more turns if it is not below the limit yet.

    The running averages of batch norm, which it is computed with, take some hundred steps.
    """
    loss: float = side.ask(do="loss")["loss"]
    for _ in range(MORE):
        if loss < limit:
            break
        plain.turn()
        loss = side.ask(do="loss")["loss"]
    return loss


def cells(rates: dict[str, list[float]], missing: str) -> list[str]:
    """Return the rates of all sides and our ratios to the peers'."""
    ours = rates["trainyard"]
    speeds = [
        Spread.of(rates[k]).text() if k in rates else missing for k in ("trainyard", *COLUMNS)
    ]
    times = [ratios(ours, rates[k]).text(".2f") if k in rates else missing for k in COLUMNS]
    return speeds + times


def calibrated(side: Side, variant: str, batch: int, seconds: float) -> Contender:
    """Return a contender that is compiled and warm, with as many steps as fill a turn."""
    contender = Contender(side, variant, batch, steps=4)
    contender.turn()
    for part in (0.1, 1.0):  # as a few steps tell little of a fast side
        contender.turn()
        wanted = round(part * contender.rate * seconds / batch)
        contender.steps = max(contender.steps, wanted)
    return contender


def check_sides(name: str, found: dict[str, Side]) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Return the loss before training and the variants of each side.

    All sides must have the same number of trainable parameters.
    """
    told = {kind: side.ask(do="variants") for kind, side in found.items()}
    counts = {kind: answer["parameters"] for kind, answer in told.items()}
    assert len(set(counts.values())) == 1, f"{name}: not the same model: {counts}"
    losses = {k: side.ask(do="loss")["loss"] for k, side in found.items() if not k.endswith(HUGE)}
    return losses, {kind: answer["variants"] for kind, answer in told.items()}


@contextmanager
def sides(settings: dict[str, Any], data: str, *, with_others: bool) -> Iterator[dict[str, Side]]:
    """Start the sides' processes; those of PyTorch and JAX where these are installed and wanted.

    Of each peer there is one as it comes and one with memory in huge pages, which a worker of ours
    has.
    """
    with ExitStack() as stack:
        commands: dict[str, list[str]] = {
            kind: [
                *(sys.executable, "-m", "benchmarks.tensorflow_side"),
                *(kind, json.dumps(settings), data),
            ]
            for kind in ("ours", "keras")
        }
        for kind in ("torch", "jax") if with_others else ():
            if python := common.peer_python(kind):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                commands[kind] = peer_command(python, kind, settings, data, folder)
        huge = process.huge_pages(os.environ)
        made = {"ours": stack.enter_context(Side(commands.pop("ours"), env=huge))}
        for kind, command in commands.items():
            made[kind] = stack.enter_context(Side(command))
            made[kind + HUGE] = stack.enter_context(Side(command, env=huge))
        yield made


def peer_command(
    python: str, kind: str, settings: dict[str, Any], data: str, folder: Path
) -> list[str]:
    """Return the command of a side in ``torch`` or ``jax``, whose data are put into a folder."""
    config = presets.configure({}, settings)
    path = arrays.save(data, config.validation, folder)
    return [python, "-m", f"benchmarks.{kind}_side", json.dumps(config.model_dump()), path]


if __name__ == "__main__":
    main()
