import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.names import HARD
from trainer.config import TrainConfig, parse
from trainer.data.description import names_fault
from trainer.errors import ConfigError, DataError
from trainer.failure import KINDS, Failure, Kind
from trainer.gang.attempts import GangAttempt
from trainer.runs import run_folder
from trainer.storage.base import Entry
from trainer.storage.local import LocalStorage

DATA = "d" * 64
FINE = sorted({*KINDS} - {"config", "data"})  # kinds of failures after which settings stay
FLAGS: dict[str, Any] = {"preset": "softmax", "data": "gs://b/mnist"}


def config(**changes: Any) -> TrainConfig:
    return parse({**FLAGS, **changes})


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path / "run"))


def test_the_folders_name_is_filled_in() -> None:
    name = run_folder.uri(config(run="gs://b/{preset}/{digest}"))
    assert name == f"gs://b/softmax/{run_folder.digest(config().identity())[:8]}"
    assert run_folder.uri(config(run="plain")) == "plain"
    assert run_folder.uri(config()) != run_folder.uri(config(seed=2))
    assert run_folder.uri(config()) == run_folder.uri(config(workers=2))


def test_a_digest_does_not_depend_on_the_order_of_names() -> None:
    assert run_folder.digest({"a": 1, "b": [2.5, None]}) == run_folder.digest(
        {"b": [2.5, None], "a": 1}
    )
    assert run_folder.digest({"a": 1}) != run_folder.digest({"a": 2})


def test_a_new_folder_is_claimed(storage: LocalStorage) -> None:
    digest = run_folder.claim(storage, config(), DATA, (28, 28, 1), 10)
    told = {"data": "gs://b/mnist", "input_shape": [28, 28, 1], "classes": 10}
    decisive = {**config().identity(), "data_sha256": DATA}
    assert run_folder.read_config(storage) == {**decisive, **told}
    assert digest == run_folder.digest(decisive)


def test_a_folder_that_must_not_have_a_run_stays_as_it_was(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaces(self: LocalStorage, name: str, data: bytes) -> bool:
        self.replace(name, data)
        return True

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "create", replaces)
        with pytest.raises(ConfigError, match="takes a second write for a name"):
            run_folder.claim(storage, config(), DATA, (28, 28, 1), 10)
        assert storage.list() == []
    storage.create("probe-1", b"")  # of another machine, which looks at the same time
    run_folder.claim(storage, config(), DATA, (28, 28, 1), 10)


def test_names_of_classes_are_for_readers(storage: LocalStorage) -> None:
    digest = run_folder.claim(storage, config(), DATA, (28, 28, 1), 10, class_names=HARD)
    before = storage.read(run_folder.CONFIG)
    stored = run_folder.read_config(storage)
    assert stored is not None
    assert stored["class_names"] == list(HARD)
    assert digest == run_folder.digest({**config().identity(), "data_sha256": DATA})
    for names in ((), HARD[::-1]):  # of the same images, named otherwise
        assert run_folder.claim(storage, config(), DATA, class_names=names) == digest
    assert storage.read(run_folder.CONFIG) == before


def test_the_longest_names_can_be_read_again(storage: LocalStorage) -> None:
    names = [f"{n:03}" + "\U0001f600" * 97 for n in range(256)]
    assert names_fault(names) is None
    run_folder.claim(storage, config(), DATA, (1, 1, 1), 256, class_names=names)
    assert (run_folder.read_config(storage) or {})["class_names"] == names


def test_the_same_run_finds_its_folder_again(storage: LocalStorage) -> None:
    digest = run_folder.claim(storage, config(), DATA)
    before = storage.read(run_folder.CONFIG)
    storage.create("checkpoints/step-00000100.safetensors", b"")
    moved = config(data="elsewhere", workers=2, chunk_steps=7, checkpoint_steps=9, port=4000)
    assert run_folder.claim(storage, moved, DATA) == digest
    assert storage.read(run_folder.CONFIG) == before


def test_a_folder_with_logs_only_is_new(storage: LocalStorage) -> None:
    storage.create("logs/rank-0.txt", b"")
    run_folder.claim(storage, config(), DATA)


def test_a_folder_of_something_else_is_refused(storage: LocalStorage) -> None:
    storage.create("thesis.txt", b"mine")
    for ask in (
        lambda: run_folder.check(storage, config(), DATA, None),
        lambda: run_folder.claim(storage, config(), DATA),
    ):
        with pytest.raises(ConfigError) as caught:
            ask()
        assert str(caught.value) == (
            f"run: {storage.uri}: holds 'thesis.txt' but no config.json, so it is no run's folder; "
            "give an empty or new one"
        )
    assert [entry.name for entry in storage.list()] == ["thesis.txt"]


def test_a_folder_of_another_run_is_refused_with_the_differing_fields(
    storage: LocalStorage,
) -> None:
    run_folder.claim(storage, config(), DATA)
    before = storage.read(run_folder.CONFIG)
    with pytest.raises(ConfigError) as caught:
        run_folder.claim(storage, config(seed=2, learning_rate=0.25), "e" * 64)
    assert str(caught.value) == (
        f"run: {storage.uri}: belongs to a run with other settings: "
        'data_sha256 ("ddddddddd...ddd" there, "eeeeeeeee...eee" here), '
        "learning_rate (0.001 there, 0.25 here), seed (1 there, 2 here); "
        "give another run folder or the same settings"
    )
    assert storage.read(run_folder.CONFIG) == before


def _ended(storage: LocalStorage, kind: Kind, *, over: bool = True, attempt: int = 1) -> None:
    cause = Failure(kind=kind, rank=0, code=2, message="bad model")
    record = GangAttempt(number=attempt, start=1.0, first_step=0, workers=1, failures=[cause])
    line = record.record(2.0, 0, over=over)
    storage.replace(run_folder.ATTEMPTS, run_folder.lines([line]))
    storage.replace(run_folder.RANKS, b"{}\n")


@pytest.mark.parametrize("kind", ["config", "data"])
def test_a_run_that_was_refused_may_come_again_corrected(storage: LocalStorage, kind: Kind) -> None:
    run_folder.claim(storage, config(model="own:net", learning_rate=1.0), DATA)
    _ended(storage, "crashed")
    _ended(storage, kind)
    corrected = config(model="own:net", seed=2)
    before = storage.read(run_folder.CONFIG)
    run_folder.check(storage, corrected, DATA, None)
    assert storage.read(run_folder.CONFIG) == before
    digest = run_folder.claim(storage, corrected, DATA, (28, 28, 1), 10)
    decisive = {**corrected.identity(), "data_sha256": DATA}
    told = {"data": "gs://b/mnist", "input_shape": [28, 28, 1], "classes": 10}
    assert run_folder.read_config(storage) == {**decisive, **told}
    assert digest == run_folder.digest(decisive) == run_folder.claim(storage, corrected, DATA)
    with pytest.raises(ConfigError, match="belongs to a run with other settings: seed"):
        run_folder.claim(storage, config(model="own:net", seed=3), DATA)


def test_a_run_that_comes_again_as_it_was_leaves_no_room_for_another(
    storage: LocalStorage,
) -> None:
    run_folder.claim(storage, config(), DATA)
    _ended(storage, "config")
    digest = run_folder.claim(storage, config(), DATA, begins=True)
    other = config(seed=2)
    for ask in (
        lambda: run_folder.claim(storage, other, DATA, begins=True),
        lambda: run_folder.check(storage, other, DATA, None),
    ):
        with pytest.raises(ConfigError, match="belongs to a run with other settings: seed"):
            ask()
    assert run_folder.claim(storage, config(), DATA, begins=True) == digest
    _ended(storage, "config", attempt=2)  # refused once more
    run_folder.claim(storage, other, DATA, begins=True)
    with pytest.raises(ConfigError, match="belongs to a run with other settings: seed"):
        run_folder.claim(storage, config(), DATA, begins=True)


class Interleaved(LocalStorage):
    """Runs something else, once, before the given call of this worker."""

    def __init__(self, folder: str, at: int, other: Callable[[], object]) -> None:
        super().__init__(folder)
        self._left, self._other = at, other

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._other()

    def list(self, prefix: str = "") -> list[Entry]:
        self._count()
        return super().list(prefix)

    def read_part(self, name: str, start: int, size: int) -> bytes:
        self._count()
        return super().read_part(name, start, size)

    def create(self, name: str, data: bytes) -> bool:
        self._count()
        return super().create(name, data)

    def replace(self, name: str, data: bytes) -> None:
        self._count()
        super().replace(name, data)


CALLS = 5  # of a storage with which a run follows a refused one


@pytest.mark.parametrize("at", range(1, CALLS + 2))
@pytest.mark.parametrize("there", [0, 1, 2], ids=["otherwise", "as it was", "alike"])
def test_of_two_that_follow_a_refused_run_at_once_one_trains(
    tmp_path: Path, at: int, there: int
) -> None:
    plain = LocalStorage(str(tmp_path))
    run_folder.claim(plain, config(seed=1), DATA)
    _ended(plain, "config")
    begun: list[int] = []

    def begin(storage: LocalStorage, seed: int) -> None:
        with contextlib.suppress(ConfigError):
            run_folder.claim(storage, config(seed=seed), DATA, begins=True)
            begun.append(seed)

    begin(Interleaved(str(tmp_path), at, lambda: begin(plain, there)), 2)
    if at > CALLS:
        begin(plain, there)
    seeds = {*begun}
    assert len(seeds) == 1
    assert len(begun) == (2 if there == 2 else 1)
    assert (run_folder.read_config(plain) or {})["seed"] == seeds.pop()


@pytest.mark.parametrize("case", [*FINE, "starts again", "trained", "damaged", "empty", "other"])
def test_a_run_that_is_at_work_or_has_trained_keeps_its_folder(
    storage: LocalStorage, case: str
) -> None:
    run_folder.claim(storage, config(), DATA)
    if case in FINE:
        _ended(storage, case)
    else:
        _ended(storage, "config", over=case != "starts again")
    if case == "trained":
        storage.create("checkpoints/step-00000100.safetensors", b"")
    if case in ("damaged", "empty", "other"):
        data = {"damaged": b"{\xff", "empty": b"", "other": b'{"over": true, "cause": [7]}\n'}
        storage.replace(run_folder.ATTEMPTS, data[case])
    for ask in (
        lambda: run_folder.check(storage, config(seed=2), DATA, None),
        lambda: run_folder.claim(storage, config(seed=2), DATA),
    ):
        with pytest.raises(ConfigError, match="belongs to a run with other settings: seed"):
            ask()


def test_a_folder_of_a_run_on_other_data_is_refused_with_the_remedy(storage: LocalStorage) -> None:
    run_folder.claim(storage, config(data="gs://b/d"), DATA)
    start = f"run: {storage.uri}: belongs to a run on other data: data_sha256 ("
    start += '"ddddddddd...ddd" there, "eeeeeeeee...eee" here); '
    for data, remedy in (
        (
            "gs://b/d",
            "gs://b/d has changed since; put the old data back, or give another run folder",
        ),
        ("gs://b/e", "give another run folder, or its data: gs://b/d"),
    ):
        with pytest.raises(ConfigError) as caught:
            run_folder.claim(storage, config(data=data), "e" * 64)
        assert str(caught.value) == start + remedy


def test_a_setting_that_one_side_does_not_know_differs(storage: LocalStorage) -> None:
    run_folder.claim(storage, config(), DATA)
    stored = run_folder.read_config(storage) or {}
    storage.replace(run_folder.CONFIG, run_folder.pretty({**stored, "cutout": 8}))
    with pytest.raises(ConfigError, match=r"other settings: cutout \(8 there, null here\);"):
        run_folder.claim(storage, config(), DATA)


class Contested(LocalStorage):
    """Lets a peer claim the folder between this worker's first look and its second."""

    def __init__(self, folder: str, peer: TrainConfig) -> None:
        super().__init__(folder)
        self.peer: TrainConfig | None = peer

    def list(self, prefix: str = "") -> list[Entry]:
        if self.peer is not None:
            peer, self.peer = self.peer, None
            run_folder.claim(self, peer, DATA)
        return super().list(prefix)


def test_workers_may_claim_the_folder_at_the_same_moment(tmp_path: Path) -> None:
    contested = Contested(str(tmp_path), config())
    assert run_folder.claim(contested, config(), DATA) == run_folder.claim(
        contested, config(), DATA
    )


def test_of_two_runs_that_claim_a_folder_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seed \(2 there, 1 here\)"):
        run_folder.claim(Contested(str(tmp_path), config(seed=2)), config(), DATA)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe\x00"])
def test_a_damaged_object_is_named(storage: LocalStorage, content: bytes) -> None:
    for name, read in (
        (run_folder.CONFIG, run_folder.read_config),
        (run_folder.RESULT, run_folder.read_result),
    ):
        assert read(storage) is None
        storage.create(name, content)
        with pytest.raises(DataError) as caught:
            read(storage)
        assert str(caught.value) == (
            f"{storage.uri}/{name}: damaged: must be a JSON object; give another run folder"
        )
    with pytest.raises(DataError, match=r"config\.json: damaged"):
        run_folder.claim(storage, config(), DATA)


def test_the_result_is_read_back(storage: LocalStorage) -> None:
    storage.replace(run_folder.RESULT, run_folder.pretty({"test_accuracy": 0.5}))
    assert run_folder.read_result(storage) == {"test_accuracy": 0.5}


def test_metrics_of_steps_that_are_done_again_are_dropped(storage: LocalStorage) -> None:
    assert run_folder.read_metrics(storage, 100) == []
    records: list[dict[str, Any]] = [
        {"step": 100, "loss": 0.5},
        {"step": 100, "validation_loss": 0.4},
        {"step": 200, "loss": 0.3},
    ]
    storage.replace(run_folder.METRICS, run_folder.lines(records))
    assert run_folder.read_metrics(storage, 0) == []
    assert run_folder.read_metrics(storage, 100) == records[:2]
    assert run_folder.read_metrics(storage, 199) == records[:2]
    assert run_folder.read_metrics(storage, 200) == records


@pytest.mark.parametrize(
    "content", [b'{"step": 1}\n{"st', b"[1]\n", b"7\n", b'{"loss": 1}\n', b"\xff"]
)
def test_damaged_metrics_are_named(storage: LocalStorage, content: bytes) -> None:
    storage.create(run_folder.METRICS, content)
    with pytest.raises(DataError) as caught:
        run_folder.read_metrics(storage, 1)
    assert str(caught.value) == (
        f"{storage.uri}/metrics.jsonl: damaged: must be one JSON object a line; delete it"
    )


@pytest.mark.parametrize(
    ("line", "good"),
    [
        (b'{"step": 1, "train_seconds": 0.5, "loss": NaN}', True),
        (b'{"step": 1}', True),
        (b'{"step": 1.0}', False),
        (b'{"step": true}', False),
        (b'{"step": -1}', False),
        (b'{"step": 9007199254740993}', False),
        (b'{"step": 1, "train_seconds": NaN}', False),
        (b'{"step": 1, "train_seconds": "1"}', False),
        (b'{"step": ' + b"9" * 5000 + b"}", False),
        (b'{"step": 1, "loss": ' + b"[" * 100_000, False),
    ],
)
@pytest.mark.parametrize("name", [run_folder.METRICS, run_folder.rank_metrics(3)])
def test_damaged_lines_are_left_out_with_a_warning(
    storage: LocalStorage, name: str, line: bytes, good: bool
) -> None:
    storage.create(name, b'{"step": 0}\n' + line + b'\n{"step": 2}\n')
    warnings: list[str] = []
    found = run_folder.read_metrics(storage, 5, warnings.append)
    steps = [1, 2] if good else [2]
    assert [each["step"] for each in found] == ([0] if name == run_folder.METRICS else []) + steps
    assert warnings == (
        []
        if good
        else [
            f"{storage.uri}/{name}: 1 of 3 lines are damaged; continuing without their metrics",
        ]
    )


@pytest.mark.parametrize("name", [run_folder.METRICS, run_folder.rank_metrics(3)])
def test_metrics_that_cannot_be_had_cost_themselves(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    warnings: list[str] = []
    storage.create(name, b'{"step": 1}\n' * 3)
    monkeypatch.setattr(run_folder, "MOST_LINES", 2)
    assert run_folder.read_metrics(storage, 5, warnings.append) == []
    monkeypatch.setattr(run_folder, "MOST_METRICS", 35)
    assert run_folder.read_metrics(storage, 5, warnings.append) == []
    (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / name).symlink_to(name)
    assert run_folder.read_metrics(storage, 5, warnings.append) == []
    words = ["more than 2 lines", "36 bytes, above the limit of 35", "circle"]
    assert [word in warning for word, warning in zip(words, warnings, strict=False)] == [True] * (
        len(warnings)
    )
    assert len(warnings) >= 2


def test_a_damaged_result_is_made_again(storage: LocalStorage) -> None:
    warnings: list[str] = []
    assert run_folder.find_result(storage, warnings.append) is None
    figures = dict.fromkeys(
        ("test_accuracy", "test_loss", "steps", "train_seconds", "images_per_second"), 1
    )
    storage.create(run_folder.RESULT, run_folder.pretty(figures))
    assert run_folder.find_result(storage, warnings.append) == figures
    assert not warnings
    for damaged in (b'{"test_accuracy": 0.', b"{}", run_folder.pretty({**figures, "steps": "9"})):
        storage.replace(run_folder.RESULT, damaged)
        assert run_folder.find_result(storage, warnings.append) is None
        assert warnings.pop().endswith("; making it from the newest checkpoint")


@pytest.mark.parametrize("name", [run_folder.CONFIG, run_folder.RESULT])
def test_what_is_too_large_or_too_deep_is_not_read(storage: LocalStorage, name: str) -> None:
    read = run_folder.read_config if name == run_folder.CONFIG else run_folder.read_result
    for content in (
        b'{"a":' + b"[" * 30 + b"]" * 30 + b"}",
        b'{"a": "' + b"x" * run_folder.MOST_OBJECT + b'"}',
    ):
        storage.replace(name, content)
        with pytest.raises(DataError, match=f"{name}: damaged"):
            read(storage)


json_values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.lists(st.dictionaries(st.text(), json_values)))
def test_records_are_one_line_each(records: list[dict[str, Any]]) -> None:
    written = run_folder.lines(records).decode()
    assert written.count("\n") == len(records)
    assert [json.loads(line) for line in written.splitlines()] == records


@pytest.mark.parametrize("uri", ["data", "gs://bucket/data"])
def test_the_data_are_found_from_another_working_directory(
    uri: str, storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_folder.claim(storage, config(data=uri), DATA)
    kept = (run_folder.read_config(storage) or {})["data"]
    assert kept == (str(tmp_path / "data") if uri == "data" else uri)
