"""The straight line from configuration to result, in process, on a tiny real model."""

import copy
import dataclasses
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from tests.support.samples import delivered
from trainer import classification, progress, schedule
from trainer.cluster_spec import ALONE, Cluster
from trainer.config import TrainConfig, parse
from trainer.data import dataset, idx, sampler, shards, stream
from trainer.data.dataset import Dataset, Split
from trainer.errors import ConfigError, PeerLostError, StoppedError, UnavailableError
from trainer.runs import checkpoint, run_folder
from trainer.storage.base import open_storage
from trainer.storage.local import LocalStorage
from trainer.train import lost_peer, metrics_lines, peer_connections, saver
from trainer.train.devices import make_strategy
from trainer.train.loop import Loop
from trainer.train.replicas import Replicas
from trainer.train.resume import resume
from trainer.train.run import Run
from trainer.train.scoring import Scorer
from trainer.train.state import check_losses
from trainer.train.trainer import Trainer, assemble

pytestmark = pytest.mark.tensorflow

RNG = np.random.default_rng(5)
CENTRES = RNG.integers(0, 200, (4, 6, 6, 1))


def split(images: int) -> Split:
    labels = RNG.integers(0, 4, images).astype(np.int32)
    noise = RNG.integers(0, 56, (images, 6, 6, 1))
    wrong = RNG.random(images) < 0.2  # so that no accuracy is perfect
    seen = np.where(wrong, RNG.integers(0, 4, images), labels)
    return Split((CENTRES[seen] + noise).astype(np.uint8), labels)


DATA = Dataset(train=split(130), validation=split(37), test=split(41), classes=4, sha256="0" * 64)
SETTINGS: dict[str, Any] = {
    "model": "tiny_models:noisy",
    "batch_size": 16,
    "steps": 24,
    "chunk_steps": 4,
    "checkpoint_steps": 4,
    "eval_epochs": 0.9,
    "learning_rate": 1e-3,
    "xla": "off",  # whose compiler takes longer than all steps; test_loop has both
}


# What a run may change without changing what its loop computes.
OF_THE_RUN = {
    *("data", "run", "steps", "learning_rate", "checkpoint_steps", "keep_checkpoints"),
    *("eval_epochs", "validation", "keep_best", "early_stopping", "shuffle_shards"),
}
loops: dict[str, Loop] = {}


def loop_again(
    config: TrainConfig,
    data: Dataset,
    replicas: Replicas,
    all_reduce: None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Loop:
    """Stand for ``assemble``, but trace loops that compute the same only once.

    The state of a run is no part of its loop; that a process whose loop is a new one resumes a
    run, too, is for the integration tests to show.
    """
    assert not all_reduce
    key = data.sha256 + config.model_dump_json(exclude=OF_THE_RUN)
    if key not in loops:
        loops[key] = assemble(config, data, replicas, warn=warn)
    return copy.copy(loops[key])  # as tests put something in the place of its methods


@pytest.fixture(autouse=True)
def loops_are_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.train.trainer.assemble", loop_again)


class Listener(progress.Reporter):
    """Keeps what a run says, and asks it to stop after some step."""

    def __init__(self, stop: threading.Event, after: int | None = None) -> None:
        self.warnings: list[str] = []
        self._stop, self._after = stop, after

    def warn(self, message: str, **_: Any) -> None:
        self.warnings.append(message)

    def step(self, record: Mapping[str, Any], total: int) -> None:
        assert record["step"] <= total
        if record["step"] == self._after:
            self._stop.set()


def train(folder: Path, *, stop_after: int | None = None, **settings: Any) -> dict[str, Any]:
    config = parse({**SETTINGS, **settings})
    return train_on(open_storage(str(folder)), config, stop_after)


def train_on(
    storage: Any, config: TrainConfig, stop_after: int | None = None, data: Dataset = DATA
) -> dict[str, Any]:
    stop = threading.Event()
    listener = Listener(stop, stop_after)
    digest = run_folder.claim(storage, config, data.sha256)
    run = Run(config, ALONE, data, storage, digest, listener)
    return Trainer(run).train(stop, started=0.0)


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics lines without what depends on time."""
    timed = ("train_seconds", "images_per_second", "time")
    return [{k: v for k, v in line.items() if k not in timed} for line in read_lines(folder)]


def test_stopped_after_any_chunk_a_run_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    ends = [line["step"] for line in records(tmp_path / "whole") if "loss" in line]
    # The first steps, chunks, and validations every 7 steps.
    assert ends == [1, 2, 4, 7, 8, 12, 14, 16, 20, 21, 24]
    for end in (4, 7, 21):
        folder = tmp_path / str(end)
        with pytest.raises(StoppedError, match=f"stopped at step {end} of 24"):
            train(folder, stop_after=end)
        assert checkpoint.steps(open_storage(str(folder)))[0] == end
        result = train(folder)
        assert result["weights_sha256"] == whole["weights_sha256"]
        assert result["test_loss"] == whole["test_loss"]
        assert records(folder) == records(tmp_path / "whole")


@pytest.mark.parametrize("other_seed", [None, 9])
def test_a_folder_that_is_deleted_while_it_trains_is_made_again_or_left_to_another_run(
    tmp_path: Path, other_seed: int | None
) -> None:
    whole = train(tmp_path / "whole")
    folder, config = tmp_path / "run", parse(SETTINGS)
    storage = open_storage(str(folder))
    digest = run_folder.claim(storage, config, DATA.sha256)

    class Deleting(Listener):
        def step(self, record: Mapping[str, Any], total: int) -> None:
            super().step(record, total)
            if record["step"] == 12:
                while folder.exists():  # while a checkpoint may be stored there
                    shutil.rmtree(folder, ignore_errors=True)
                if other_seed:
                    other = parse({**SETTINGS, "seed": other_seed})
                    run_folder.claim(storage, other, DATA.sha256)

    listener, settings = Deleting(threading.Event()), run_folder.config(storage)
    trainer = Trainer(Run(config, ALONE, DATA, storage, digest, listener, settings))
    if other_seed:
        with pytest.raises(ConfigError, match="was deleted while this run trained, and another"):
            trainer.train(threading.Event(), started=0.0)
        assert run_folder.read_result(storage) is None
        assert not checkpoint.steps(storage)
    else:
        trainer.train(threading.Event(), started=0.0)
        assert run_folder.config(storage) == settings
        assert checkpoint.steps(storage)[0] == 24
        assert train(folder)["weights_sha256"] == whole["weights_sha256"]


def test_the_first_steps_have_lines_that_average_the_steps_since_the_line_before(
    tmp_path: Path,
) -> None:
    for chunk in (1, 8):
        train(tmp_path / str(chunk), steps=8, chunk_steps=chunk, eval_epochs=1)
    single = {each["step"]: each["loss"] for each in records(tmp_path / "1") if "loss" in each}
    lines = [each for each in records(tmp_path / "8") if "loss" in each]
    assert [each["step"] for each in lines] == [1, 2, 4, 8]
    means = [(single[1]), (single[2]), (single[3] + single[4]) / 2]
    assert [each["loss"] for each in lines[:3]] == pytest.approx(means, rel=1e-5)
    validated = records(tmp_path / "8")[-1]
    assert validated["training_loss"] == pytest.approx(sum(single.values()) / 8, rel=1e-5)
    assert 0 < validated["training_accuracy"] < 1
    reported = ["images_per_second" in each for each in read_lines(tmp_path / "8")]
    assert reported == [False, False, False, True, False]


def test_where_the_time_went_is_told_at_checkpoints_if_somebody_may_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("trainer.train.trainer.assemble", assemble)  # most of the time is compiling
    monkeypatch.setattr(saver, "tell_parent", lambda **event: told.append(event))
    train(tmp_path / "alone")
    assert not [event for event in told if event["event"] == "goodput"]
    result = train(tmp_path / "asked", metrics_port=9400)
    found = [event for event in told if event["event"] == "goodput"]
    times = [event["productive"] for event in found]
    assert 0 < max(times) < result["train_seconds"] / 2
    assert found[-1]["lost"]["starting"] == pytest.approx(
        result["lost_seconds"]["starting"], rel=0.01
    )


def test_a_validation_at_the_end_alone_is_in_the_result_and_in_the_events(tmp_path: Path) -> None:
    result = train(tmp_path, steps=8, eval_epochs=0)
    assert 0 < result["validation_accuracy"] < 1
    for kind in ("validation", "test"):
        [part] = (tmp_path / "events" / kind).iterdir()
        assert part.suffix == ".00000008"


def test_training_means_start_again_after_a_validation() -> None:
    lines: list[dict[str, Any]] = [
        {"step": 1, "loss": 5.0, "accuracy": 0.1},
        {"step": 4, "loss": 1.0, "accuracy": 0.5},
        {"step": 4, "validation_loss": 1.0},
        {"step": 6, "loss": 0.5, "accuracy": 0.6},
        {"step": 7, "loss": 0.2, "accuracy": 0.9},
    ]
    first = metrics_lines.training_means(lines[:2])
    assert first == pytest.approx({"training_loss": 2.0, "training_accuracy": 0.4})
    second = metrics_lines.training_means(lines)
    assert second == pytest.approx({"training_loss": 0.4, "training_accuracy": 0.7})
    assert metrics_lines.training_means([]) == {}


def spoil_tail(folder: Path) -> None:
    whole = (folder / run_folder.METRICS).read_bytes()
    (folder / run_folder.rank_metrics(2)).write_bytes(whole[:-30])
    lines = whole.splitlines(keepends=True)
    (folder / run_folder.METRICS).write_bytes(b"".join(lines[:5]))


def spoil_line(folder: Path) -> None:
    whole = (folder / run_folder.METRICS).read_bytes()
    (folder / run_folder.METRICS).write_bytes(whole.replace(b'"step": 8', b'"step": "8', 1))


@pytest.mark.parametrize(
    ("spoil", "lost", "words"),
    [
        (spoil_tail, {8}, "metrics-rank-2.jsonl: 1 of 9 lines are damaged"),
        (spoil_line, {5}, "metrics.jsonl: 1 of 9 lines are damaged"),
        (
            lambda folder: (folder / run_folder.METRICS).write_bytes(b"\xff"),
            set(range(9)),
            "1 of 1 lines",
        ),
    ],
)
def test_damaged_metrics_cost_these_alone(
    tmp_path: Path, spoil: Callable[[Path], object], lost: set[int], words: str
) -> None:
    whole = train(tmp_path / "whole")
    folder = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(folder, stop_after=14)
    spoil(folder)
    listener = Listener(threading.Event(), None)
    storage, config = open_storage(str(folder)), parse(SETTINGS)
    digest = run_folder.claim(storage, config, DATA.sha256)
    trainer = Trainer(Run(config, ALONE, DATA, storage, digest, listener))
    result = trainer.train(threading.Event(), started=0.0)
    assert result["weights_sha256"] == whole["weights_sha256"]
    assert [words in warning for warning in listener.warnings] == [True]

    def without_means(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leave out what is computed from lines before, which may be lost."""
        return [{k: v for k, v in each.items() if "training_" not in k} for each in records]

    kept = [line for k, line in enumerate(records(tmp_path / "whole")) if k not in lost]
    assert without_means(records(folder)) == without_means(kept)


COUNTS = (50, 20, 40, 57)  # DATA's training and validation images, cut


@pytest.fixture
def in_shards(tmp_path: Path) -> Dataset:
    """DATA in shards, the images for validation first, as in the whole."""
    parts, whole = tmp_path / "data", (DATA.validation, DATA.train)
    parts.mkdir()
    images = np.concatenate([part.images for part in whole])[..., 0]
    labels = np.concatenate([part.labels for part in whole]).astype(np.uint8)
    listed, first = [], 0
    for number, count in enumerate(COUNTS):
        pair = images[first : first + count], labels[first : first + count]
        for name, array in zip(shards.names(number, len(COUNTS)), pair, strict=True):
            (parts / name).write_bytes(idx.encode(array))
        listed.append(shards.Shard(count, *(idx.sha256(array) for array in pair)))
        first += count
    index = shards.Index((6, 6, 1), 4, tuple(listed))
    (parts / shards.INDEX).write_bytes(shards.encode(index))
    test = DATA.test.images[..., 0], DATA.test.labels.astype(np.uint8)
    for name, array in zip(dataset.FILES[2:], test, strict=True):
        (parts / name).write_bytes(idx.encode(array))
    return dataset.load(str(parts), validation=37)


@pytest.mark.parametrize("each", [1, 3])
def test_out_of_shards_a_model_is_trained_on_the_order_as_if_all_were_in_memory(
    each: int, in_shards: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse(SETTINGS | {"batch_size": 12, "shuffle_shards": each, "validation": 37})
    found = train_on(open_storage(str(tmp_path / "shards")), config, data=in_shards)
    assert in_shards.shards is not None
    counts = in_shards.shards.counts
    stream = delivered(sampler.Windows(config.seed, counts, each), 12, 0, 24)
    starts = [0, *np.cumsum(counts)]
    wanted = np.array([[starts[shard] + row for shard, row in step] for step in stream], np.int32)

    def batches(_: int, samples: int, batch: int, first: int, count: int) -> sampler.Indices:
        assert (samples, batch) == (130, 12)
        return wanted[first : first + count]

    monkeypatch.setattr(sampler, "batches", batches)
    whole = train_on(open_storage(str(tmp_path / "whole")), config)
    for name in ("weights_sha256", "test_loss", "train_accuracy", "train_accuracy_images"):
        assert found[name] == whole[name]
    assert found["validation_accuracy"] == whole["validation_accuracy"]
    assert found["epochs"] == whole["epochs"]


def test_stopped_within_any_window_a_run_ends_as_if_nothing_had_happened(
    in_shards: Dataset, tmp_path: Path
) -> None:
    config = parse(SETTINGS | {"batch_size": 12, "validation": 37})
    whole = train_on(open_storage(str(tmp_path / "whole")), config, data=in_shards)
    ends = [line["step"] for line in records(tmp_path / "whole") if "loss" in line]
    of_windows = [end for end in ends[:-1] if end % 4]
    assert len(set(of_windows)) > 2
    for end in {4, of_windows[-1]}:
        storage = open_storage(str(tmp_path / str(end)))
        with pytest.raises(StoppedError, match=f"stopped at step {end} of 24"):
            train_on(storage, config, end, in_shards)
        result = train_on(storage, config, data=in_shards)
        assert result["weights_sha256"] == whole["weights_sha256"]
        assert records(tmp_path / str(end)) == records(tmp_path / "whole")


def test_early_stopping_leaves_the_windows_in_order(
    in_shards: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SCORED", 20)  # the first two shards
    config = parse(SETTINGS | {"batch_size": 12, "validation": 37, "early_stopping": 1})
    config = config.model_copy(update={"steps": 2000, "learning_rate": 0.1})
    result = train_on(open_storage(str(tmp_path / "run")), config, data=in_shards)
    assert result["steps"] < 2000
    assert result["train_accuracy_images"] == 33
    assert result["train_accuracy"] > 0.5


@pytest.mark.parametrize(
    ("model", "accuracy", "warned"), [("noisy", 0.01, 1), ("noisy", 0.5, 0), ("linear", 0.01, 0)]
)
def test_averages_of_batch_normalization_that_lag_behind_cost_a_warning(
    model: str, accuracy: float, warned: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    monkeypatch.setattr(Scorer, "training_accuracy", lambda *_: (accuracy, 130))
    monkeypatch.setattr(Run, "warn", lambda _, message: found.append(message))
    train(tmp_path, model=f"tiny_models:{model}", learning_rate=0.05)
    about = [each for each in found if "lag behind after only 24 steps; train for more" in each]
    assert len(about) == warned
    assert all(each.startswith("accuracy on the training images: 1.00% with ") for each in about)


def test_the_result_is_exact_over_all_samples(tmp_path: Path) -> None:
    config = parse({**SETTINGS, "model": "tiny_models:linear"})
    result = train(tmp_path, model=config.model)
    loop = assemble(config, DATA, Replicas(make_strategy(ALONE)))
    digest = run_folder.digest({**config.identity(), "data_sha256": DATA.sha256})
    template = loop.named(loop.initial_state())
    last = checkpoint.load(open_storage(str(tmp_path)), 24, template, digest)
    weights = {
        name.rpartition("/")[2]: array
        for name, array in last.arrays.items()
        if name.startswith("parameters/")
    }
    out = DATA.test.images.reshape(41, -1) / 255 @ weights["kernel"] + weights["bias"]
    assert result["test_accuracy"] == np.mean(out.argmax(axis=1) == DATA.test.labels)
    by_hand = classification.losses(out.astype(np.float32), DATA.test.labels).mean()
    assert result["test_loss"] == pytest.approx(by_hand, rel=1e-4)


def test_keep_best_ends_with_the_weights_of_the_best_validation(tmp_path: Path) -> None:
    # The learning rate is so high that the last weights are not the best ones.
    settings: dict[str, Any] = {"learning_rate": 0.3, "steps": 60, "keep_checkpoints": 2}
    result = train(tmp_path, keep_best=True, **settings)
    validations = {
        line["step"]: line["validation_accuracy"]
        for line in records(tmp_path)
        if "validation_accuracy" in line
    }
    best = max(validations, key=lambda step: (validations[step], -step))
    assert best != 60
    assert result["selected_step"] == best
    assert result["validation_accuracy"] == validations[best]
    last = train(tmp_path / "last", **settings)
    assert result["weights_sha256"] != last["weights_sha256"]
    assert set(checkpoint.steps(open_storage(str(tmp_path)))) >= {60, best}


def test_early_stopping_ends_after_so_many_validations_without_a_better_one(
    tmp_path: Path,
) -> None:
    result = train(tmp_path, early_stopping=2, steps=400, keep_best=True)
    accuracies = [
        line["validation_accuracy"] for line in records(tmp_path) if "validation_accuracy" in line
    ]
    assert result["steps"] < 400
    assert max(accuracies) == accuracies[-3] > max(accuracies[-2:], default=0) - 1e-9
    assert accuracies.index(max(accuracies)) == len(accuracies) - 3


def test_a_store_that_fails_for_a_while_costs_a_warning_and_one_that_stays_down_the_run(
    tmp_path: Path,
) -> None:
    class Failing(LocalStorage):
        failures = 1

        def create(self, name: str, data: bytes) -> bool:
            if name.startswith(checkpoint.PREFIX) and self.failures:
                self.failures -= 1
                raise UnavailableError("store: out of reach")
            return super().create(name, data)

    config = parse(SETTINGS)
    whole = train(tmp_path / "whole")
    assert (
        train_on(Failing(str(tmp_path / "a")), config)["weights_sha256"]
        == (whole["weights_sha256"])
    )
    down = Failing(str(tmp_path / "b"))
    down.failures = 10**6
    with pytest.raises(UnavailableError, match="out of reach"):
        train_on(down, config)
    assert not (tmp_path / "b" / "result.json").exists()


def test_weights_that_are_no_numbers_are_never_stored(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"at step \d+; lower learning_rate \(1e\+30\)"):
        train(tmp_path, learning_rate=1e30, optimizer="sgd")
    for step in checkpoint.steps(open_storage(str(tmp_path))):
        data = (tmp_path / checkpoint.object_name(step)).read_bytes()
        assert all(np.isfinite(a).all() for a in checkpoint.decode(data, "").arrays.values())


def test_a_loss_that_is_no_number_blames_what_can_be_the_reason(tmp_path: Path) -> None:
    losses = np.array([1, np.nan], np.float32)
    stored, empty = Mock(), Mock()
    stored.storage = open_storage(str(tmp_path))
    empty.storage = open_storage(str(tmp_path / "empty"))
    stored.storage.create(checkpoint.object_name(7), b"")
    with pytest.raises(ConfigError, match="nan at step 1, before any weight has changed") as error:
        check_losses(losses[1:], 0, empty)
    assert "learning_rate" not in str(error.value)
    with pytest.raises(ConfigError, match=r"nan at step 9; lower learning_rate .*; the ") as error:
        check_losses(losses, 7, stored)
    assert str(error.value).endswith(f"the checkpoint of step 7 stays in {tmp_path}")
    with pytest.raises(ConfigError, match=r"nan at step 9; lower learning_rate [^;]*$"):
        check_losses(losses, 7, empty)


def test_batches_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size: 131: more than the 130 training images"):
        schedule.check_batch(131, len(DATA.train.labels), 1)
    with pytest.raises(ConfigError, match="not divisible by the 3 workers' devices; give 15 or 18"):
        schedule.check_batch(16, len(DATA.train.labels), 3)


class Meeting:
    """Lets several trainers gather in threads of one process, each with the whole batch."""

    def __init__(self, trainers: int) -> None:
        self._barrier = threading.Barrier(trainers)
        self._values: dict[int, Any] = {}

    def gather(self, rank: int) -> Any:
        """Return what stands for ``Loop.gather`` on this rank."""

        def gather(values: Any) -> Any:
            self._values[rank] = values
            self._barrier.wait(60)
            rows = np.stack([self._values[r] for r in sorted(self._values)])
            self._barrier.wait(60)
            return rows

        return gather


class Late(LocalStorage):
    """Does not show the newest checkpoint, as if its commit came after the listing."""

    def list(self, prefix: str = "") -> Any:
        """See Storage.list."""
        entries = super().list(prefix)
        return entries[:-1] if prefix == checkpoint.PREFIX else entries


def restored(folder: Path, *, agreed: bool) -> list[int]:
    """Return the steps that two workers start from, the first of which lists too early."""
    config = parse(SETTINGS)
    meeting = Meeting(2)
    pairs = []
    for rank, storage in enumerate((Late(str(folder)), LocalStorage(str(folder)))):
        cluster = Cluster(rank, ("a:1", "b:1"), local=True)
        digest = run_folder.claim(storage, config, DATA.sha256)
        loop = assemble(config, DATA, Replicas(make_strategy(ALONE)))
        if agreed:
            loop.replicas.gather = meeting.gather(rank)  # type: ignore[method-assign]
        else:  # alone, each one picks for itself
            cluster = ALONE
        pairs.append(
            (Run(config, cluster, DATA, storage, digest, Listener(threading.Event())), loop)
        )
    with ThreadPoolExecutor() as pool:
        return [at.step for at in pool.map(lambda pair: resume(*pair), pairs)]


def test_workers_that_list_at_different_moments_restore_the_same_step(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(tmp_path, stop_after=8)
    newest, before, *_ = checkpoint.steps(open_storage(str(tmp_path)))
    assert restored(tmp_path, agreed=True) == [before, before]
    assert restored(tmp_path, agreed=False) == [before, newest]  # so the test sees it


@pytest.mark.parametrize(
    ("model", "kind"), [("tiny_models:noisy", ConfigError), (None, UnavailableError)]
)
def test_weights_of_a_users_model_that_nobody_seeded_are_their_mistake(
    tmp_path: Path, model: str | None, kind: type[Exception]
) -> None:
    loop = assemble(parse(SETTINGS), DATA, Replicas(make_strategy(ALONE)))
    loop.replicas.gather = lambda values: np.stack([values, values + 1])  # type: ignore[method-assign]
    cluster, storage = Cluster(0, ("a:1", "b:1"), local=True), LocalStorage(str(tmp_path))
    config = parse(SETTINGS | {"model": model})
    run = Run(config, cluster, DATA, storage, "0" * 64, Listener(threading.Event()))
    with pytest.raises(kind, match="workers start from different weights: rank 1 has") as caught:
        resume(run, loop)
    assert ("numpy.random.default_rng(0)" in str(caught.value)) == (model is not None)


def test_an_error_means_a_lost_peer_only_in_a_gang() -> None:
    def fail(workers: int, step: int | None = 8) -> None:
        cluster = Cluster(0, ("a:1",) * workers, local=True)
        with lost_peer.stop_if_lost(cluster, rescue=lambda: step):
            raise peer_connections.PeerGoneError("a sum broke off: reset")

    with pytest.raises(PeerLostError) as caught:
        fail(2)
    assert str(caught.value) == (
        "lost a peer (a sum broke off: reset) after step 8; the same command resumes from there"
    )
    with pytest.raises(PeerLostError, match=r"before its first chunk; .* continues the run$"):
        fail(2, None)  # nothing is stored
    with pytest.raises(peer_connections.PeerGoneError):
        fail(1)


def test_survivors_store_the_same_bytes_and_each_the_chunk_it_had_finished(tmp_path: Path) -> None:
    stored = {}
    for rank, finished in ((0, 12), (1, 12), (2, 8)):  # rank 2 had not come as far
        folder = tmp_path / str(rank)
        storage = open_storage(str(folder))
        config = parse({**SETTINGS, "checkpoint_steps": 1000, "eval_epochs": 0})
        digest = run_folder.claim(storage, config, DATA.sha256)
        alone = Run(config, ALONE, DATA, storage, digest, Listener(threading.Event()))
        trainer = Trainer(alone)
        trainer.run = trainer.saver.run = dataclasses.replace(
            alone,
            cluster=Cluster(rank, ("a:1", "b:1", "c:1"), local=True),
            reporter=Faulty(trainer, finished),
        )
        with pytest.raises(LostError):
            trainer.train(threading.Event(), started=0.0)
        assert trainer.saver.rescue() == finished
        [stored[rank]] = [storage.read(e.name) for e in storage.list(checkpoint.PREFIX)]
        assert [line["step"] for line in run_folder.read_metrics(storage, finished)][-1] == finished
    assert stored[0] == stored[1]
    whole = tmp_path / "whole"
    with pytest.raises(StoppedError):
        train(whole, stop_after=8, eval_epochs=0)
    assert stored[2] == (whole / checkpoint.object_name(8)).read_bytes()


class LostError(Exception):
    """Stands for what TensorFlow raises."""


class Faulty(Listener):
    """Loses a peer in the middle of the chunk after some step."""

    def __init__(self, trainer: Trainer, after: int) -> None:
        super().__init__(threading.Event())
        self._trainer, self._last = trainer, after

    def step(self, record: Mapping[str, Any], total: int) -> None:
        super().step(record, total)
        if record["step"] == self._last:

            def lose(*_: Any) -> None:
                raise LostError

            self._trainer.loop.run_chunk = lose  # type: ignore[method-assign,assignment]
