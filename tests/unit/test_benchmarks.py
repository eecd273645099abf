"""The parts of the benchmarks that figures go through."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path

import pytest

from benchmarks import (
    common,
    distance,
    recovery,
    safeties,
    scaling,
    throughput,
    time_to_accuracy,
    workers,
)
from benchmarks.__main__ import NAMES
from benchmarks.common import Side, Spread
from benchmarks.recovery import Step
from benchmarks.time_to_accuracy import NEVER, Reached

pytestmark = [pytest.mark.tensorflow, pytest.mark.process]

ECHO = """
from benchmarks.common import serve
def work(value):
    print("a library's own words")
    return {"double": 2 * value, "rest": 1 / value}
serve(work)
"""


def test_a_spread_has_the_median_and_the_ends_or_the_middle_half() -> None:
    values = [5.0, 1.0, 2.0, 100.0, 3.0]
    assert Spread.of(values) == Spread(3.0, 1.0, 100.0)
    assert Spread.middle(values) == Spread(3.0, 2.0, 5.0)
    assert Spread.of(values).text(".1f", " s") == "3.0 s (1.0 s to 100.0 s)"


def test_ratios_are_of_turns_next_to_each_other() -> None:
    # The machine is ten times as slow in the second round.
    assert common.ratios([200.0, 20.0, 220.0], [100.0, 10.0, 110.0]) == Spread(2.0, 2.0, 2.0)


def test_turns_go_there_and_back() -> None:
    order: list[str] = []

    def work(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = common.take_turns({"a": lambda: work("a"), "b": lambda: work("b")}, 3)
    assert "".join(order) == "abbaab"
    assert found == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_a_table_is_markdown_of_as_many_columns() -> None:
    assert common.table(["x", "y"], [[1, "b"]]) == "| x | y |\n| --- | --- |\n| 1 | b |"
    with pytest.raises(AssertionError):
        common.table(["x", "y"], [[1]])


def test_a_section_takes_the_place_of_its_namesake_and_no_other() -> None:
    text = common.with_section(common.HEAD, "One", "## One\n\nfirst\n\n### Part\n")
    text = common.with_section(text, "Two", "## Two\n\nsecond\n")
    text = common.with_section(text, "One", "## One\n\nagain\n")
    assert text == common.HEAD + "\n## One\n\nagain\n\n## Two\n\nsecond\n"


def test_a_side_answers_and_tells_what_went_wrong() -> None:
    with Side([sys.executable, "-c", ECHO]) as side:
        assert side.ask(value=2) == {"double": 4, "rest": 0.5}
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            side.ask(value=0)


def test_a_side_that_does_not_answer_is_killed() -> None:
    with Side([sys.executable, "-c", "import time; time.sleep(600)"]) as side:
        side.send(value=1)
        with pytest.raises(RuntimeError, match="did not answer"):
            side.receive(limit=0.2)
        assert side._process.returncode == -signal.SIGKILL


def test_kill_takes_all_below_also_in_other_sessions() -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        common.kill(process)
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def test_a_command_tells_what_it_and_its_children_used() -> None:
    fill = "b'x' * 50_000_000"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {fill!r}])"
    assert common.run([sys.executable, "-c", code], 60).ru_maxrss > 50_000_000 / 1024
    with pytest.raises(RuntimeError, match="exit code 3"):
        common.run([sys.executable, "-c", "raise SystemExit(3)"], 60)
    with pytest.raises(RuntimeError, match="exit code -9"):
        common.run([sys.executable, "-c", "import time; time.sleep(600)"], 0.2)


def alive(pid: int) -> bool:
    """A process that nobody waits for stays as a zombie."""
    path = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return path.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_environment_of_ours_makes_nobody_a_member_of_a_gang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setenv("TRAINYARD_WORKERS", "2")
    found = common.environment({"TRAINYARD_PORT": "20000"})
    assert {k for k in found if k.startswith(("JOB_", "TRAINYARD"))} == {"TRAINYARD_PORT"}


def test_peers_are_absent_where_their_interpreter_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_PYTHON", "/nowhere/python")
    common.peer_version.cache_clear()
    assert common.peer_python("torch") is None is common.peer_python("jax")
    assert f"PyTorch {common.ABSENT}, JAX {common.ABSENT}" in common.machine()
    common.peer_version.cache_clear()


def test_absent_peers_leave_their_columns_to_say_so() -> None:
    rates = {"trainyard": [300.0], "fit": [100.0], "best fit": [150.0]}
    found = throughput.cells(rates, common.ABSENT)
    assert len(found) == len(throughput.HEAD) + len(throughput.TIMES) - 2
    rest = len(throughput.COLUMNS) - 2
    speeds, times = found[: 3 + rest], found[3 + rest :]
    assert [text.split()[0] for text in speeds[:3]] == ["300", "100", "150"]
    assert [text.split()[0] for text in times[:2]] == ["3.00", "2.00"]
    assert speeds[3:] == times[2:] == [common.ABSENT] * rest


def test_a_rate_leaves_out_the_first_chunk_and_validations() -> None:
    lines = (
        '{"step": 10, "images_per_second": 1.0}\n'
        '{"step": 10, "validation_accuracy": 0.5}\n'
        '{"step": 20, "images_per_second": 100.0}\n'
        '{"step": 30, "images_per_second": 300.0}\n'
    )
    assert workers.rate(lines, batch=30) == pytest.approx(600 / (3 + 1))


def test_seconds_to_an_accuracy_say_how_many_seeds_reached_it() -> None:
    cell = time_to_accuracy.cell
    assert cell([3.0, 1.0, 2.0]) == "2.0 (1.0 to 3.0)"
    assert cell([3.0, 1.0, NEVER]) == "3.0 (1.0 to 3.0), 2 of 3"
    assert cell([1.0, NEVER, NEVER]) == "never, 1 of 3"
    assert cell([NEVER]) == "never (1 seed)"


def test_a_peer_that_stops_before_a_target_is_not_held_against_it() -> None:
    ours = [Reached(2.0, 4.0, 0.996)] * 3
    keras = [
        {0.99: Reached(40.0, 50.0, 0.99)},
        {0.99: Reached(60.0, 70.0, 0.99)},
        {0.99: Reached(80.0, 90.0, 0.99)},
    ]
    peers = {"keras": keras, "torch": []}
    row = time_to_accuracy.row(0.99, "", ours, peers)
    assert row[4:6] == ["60.0 (40.0 to 80.0)", "30.0"]
    row = time_to_accuracy.row(0.995, "", ours, peers)
    assert row[4:] == ["not tried"] * 2 + [common.ABSENT] * 2


def test_every_safety_has_as_many_stretches_on_either_side_and_neither_is_always_later() -> None:
    guards, labels = safeties.plan(4)
    assert len(guards) == len(labels) == 1 + 4 * 2 * len(safeties.PAIRS)
    for name, (with_, without) in safeties.PAIRS.items():
        sides = [on for label, on in labels if label == name]
        assert sides == [True, False, False, True] * 2
        found = {on: g for g, (label, on) in zip(guards, labels, strict=True) if label == name}
        assert found == {True: with_, False: without}


def test_the_products_of_a_step_are_all_there_and_can_be_computed() -> None:
    import tensorflow as tf

    from benchmarks import arithmetic
    from trainer import presets
    from trainer.train import models

    def of(preset: str, batch: int) -> list[arithmetic.Product]:
        config = presets.configure({}, {"preset": preset})
        return arithmetic.products(models.build(config, (28, 28, 1), 10), batch, reordered=True)

    dense = of("mlp-100", 32)
    assert [p.name for p in dense] == ["forward", "weights", "forward", "weights", "input"]
    assert [p.flops for p in dense] == [2 * 32 * 78400.0] * 2 + [2 * 32 * 1000.0] * 3
    chain = of("linear-512-256-128", 128)  # its layers are multiplied with each other first
    assert [p.flops for p in chain] == [
        *[2 * 784 * 512 * 10.0] * 3,
        *[2 * 512 * 256 * 10.0] * 3,
        *[2 * 256 * 128 * 10.0] * 3,
        *[2 * 128 * 784 * 10.0] * 2,
    ]
    convolutions = of("cnn", 2)
    assert len(convolutions) == 2 + 3 * 3
    # 12 x 12 outputs of 16 filters, each of 5 x 5 products of one channel.
    assert convolutions[0].flops == 2 * 2 * 12 * 12 * 16 * 5 * 5
    for product in [*dense, *chain, *convolutions, *of("cnn-best", 2)]:
        result = product.compute(*map(tf.zeros, product.shapes))
        assert result.shape.num_elements() > 0


def test_the_costs_of_a_step_are_found_again_in_steps_that_they_make() -> None:
    costs = scaling.Costs(step=1e-3, image=60e-6, hop=40e-6)
    measured = {
        (count, batch): scaling.step_seconds(costs, count, batch, crowd=scaling.crowd(count, 2))
        for count in scaling.WORKERS
        for batch in scaling.BATCHES
    }
    assert measured[1, 96] == pytest.approx(1e-3 + 96 * 60e-6)
    assert measured[4, 96] == pytest.approx(2 * (1e-3 + 24 * 60e-6) + 2 * 40e-6)
    assert astuple(scaling.fit(measured, 2)) == pytest.approx(astuple(costs))


def test_what_a_sum_over_a_distance_costs_is_found_again() -> None:
    measured = {}
    for delay in distance.DELAYS:
        for ranks in distance.RANKS:
            whole = ranks < 8
            hops, vectors = distance.way(ranks, whole=whole)
            measured[delay, ranks, whole] = hops * (delay + 150e-6) + ranks * vectors * 300e-6
    told = distance.fitted(measured)
    assert "150 us for an exchange beside its delay, and 300 us of these cores" in told
    assert told.count("+0%") + told.count("-0%") == len(measured)


def test_a_sum_takes_the_faster_of_few_exchanges_and_few_bytes() -> None:
    free = scaling.Costs(0.0, 0.0, 0.0)
    slow = scaling.Network(latency=0.0, bandwidth=4e6)  # a million floats a second
    for count in (1, 2, 4):
        seconds = scaling.step_seconds(free, count, 4, floats=1000, network=slow)
        assert seconds == pytest.approx(2e-3 * (count - 1) / count)
    far = scaling.Network(latency=1e-4, bandwidth=float("inf"))
    assert scaling.step_seconds(free, 64, 64, network=far) == pytest.approx(6e-4)
    assert scaling.step_seconds(free, 65, 65, network=far) == pytest.approx(14e-4)


def test_a_kill_costs_the_steps_that_are_done_again_whether_reported_or_not() -> None:
    # Chunks of 100 steps a second; the kill comes after 30 more, and step 200 was stored.
    before = [Step(at, 10 + rank, rank, 2, 100 * at) for at in (1, 2) for rank in (0, 1)]
    assert recovery.recovered(before, 2.3, 100) is None
    back = [Step(6.3, 20 + rank, rank, 2, 300) for rank in (0, 1)]
    found = recovery.recovered([*before, *back], 2.3, 100)
    assert found == pytest.approx((4.0, 4.0, 30, 0))
    # Reported step by step, of which the survivor ends one more; step 1 was stored.
    steps = [Step(at / 10, 10 + rank, rank, 2, at) for at in (1, 2, 3) for rank in (0, 1)]
    steps += [Step(0.4, 10, 0, 2, 4), Step(5.35, 20, 0, 2, 2), Step(5.35, 21, 1, 2, 2)]
    assert recovery.recovered(steps, 0.35, 1) == pytest.approx((5.0, 5.0, 3, 0))


def test_a_survivor_goes_on_alone_after_a_step_that_does_not_count() -> None:
    steps = [Step(at / 10, 10 + rank, rank, 2, at) for at in (1, 2, 3) for rank in (0, 1)]
    steps += [Step(0.5, 10, 0, 0, 3), Step(1.35, 10, 0, 1, 4), Step(1.4, 10, 0, 1, 5)]
    assert recovery.recovered(steps, 0.35, 1) is None
    # The new one takes over the state of step 6, and takes part in step 7.
    steps += [Step(2.0, 10, 0, 1, 6), Step(2.0, 21, 1, 1, 6)]
    steps += [Step(2.35, 10, 0, 2, 7), Step(2.35, 21, 1, 2, 7)]
    assert recovery.recovered(steps, 0.35, 1) == pytest.approx((1.0, 2.0, 1, 3))
    # Had it not survived, the first new one would begin at the checkpoint, of step 1 here.
    restarted = [Step(5.35, 20, 0, 1, 2), Step(6.35, 20, 0, 2, 3), Step(6.35, 21, 1, 2, 3)]
    assert recovery.recovered(steps[:6] + restarted, 0.35, 1) == pytest.approx((5.0, 6.0, 2, 1))


def test_steps_of_a_peer_are_read_once_and_whole(tmp_path: Path) -> None:
    look = recovery.reports(tmp_path / "steps")
    assert list(look()) == []
    (tmp_path / "steps").write_text("1.5 10 0 2 1\n2.5 11")
    assert list(look()) == [Step(1.5, 10, 0, 2, 1)]
    with (tmp_path / "steps").open("a") as file:
        file.write(" 1 0 1\n")
    assert list(look()) == [Step(1.5, 10, 0, 2, 1), Step(2.5, 11, 1, 0, 1)]


def test_all_benchmarks_are_there() -> None:
    folder = Path(common.__file__).parent
    assert all((folder / f"{name}.py").exists() for name in NAMES)
