import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.checkpoints import DIGEST, sample
from trainer.errors import DataError, UnavailableError
from trainer.runs import checkpoint
from trainer.runs.checkpoint import Checkpoint
from trainer.storage.local import LocalStorage

OTHER_DIGEST = hashlib.sha256(b"other settings").hexdigest()
Arrays = dict[str, npt.NDArray[Any]]


def some(step: int = 7, changed: Arrays | None = None) -> Checkpoint:
    arrays: Arrays = {
        "parameters/dense/kernel": np.arange(6, dtype=np.float32).reshape(2, 3) + step,
        "parameters/dense/bias": np.zeros(3, np.float32),
        "buffers/count": np.array(step, np.int64),
    }
    return Checkpoint(step, {**arrays, **(changed or {})}, DIGEST, ((3, 0.5), (step, 0.75)))


GOOD = checkpoint.encode(some())


def store(storage: LocalStorage, *checkpoints: Checkpoint) -> None:
    for each in checkpoints:
        storage.replace(checkpoint.object_name(each.step), checkpoint.encode(each))


# The object's bytes.


def test_everything_comes_back_bit_by_bit() -> None:
    wanted = sample()
    found = checkpoint.decode(checkpoint.encode(wanted), "it")
    assert replace(found, arrays={}) == replace(wanted, arrays={})
    assert found.arrays.keys() == wanted.arrays.keys()
    for name, array in wanted.arrays.items():
        assert found.arrays[name].dtype == array.dtype, name
        assert found.arrays[name].shape == array.shape, name
        assert found.arrays[name].tobytes() == array.tobytes(), name


def test_a_checkpoint_without_validations_and_tensors_comes_back() -> None:
    empty = Checkpoint(0, {}, DIGEST)
    assert checkpoint.decode(checkpoint.encode(empty), "it") == empty


@pytest.mark.process
def test_the_bytes_depend_on_the_state_alone() -> None:
    wanted = sample()
    backwards = replace(wanted, arrays=dict(reversed(list(wanted.arrays.items()))))
    assert checkpoint.encode(backwards) == checkpoint.encode(wanted)
    code = (
        "import hashlib; from tests.support.checkpoints import sample;"
        "from trainer.runs.checkpoint import encode;"
        "print(hashlib.sha256(encode(sample())).hexdigest())"
    )
    for seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[3],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert told.stdout.strip() == hashlib.sha256(checkpoint.encode(wanted)).hexdigest()


@pytest.mark.parametrize(
    "changed",
    [
        replace(some(), step=8),
        replace(some(), config_digest=OTHER_DIGEST),
        replace(some(), validations=((3, 0.5),)),
        some(changed={"buffers/count": np.array(-1, np.int64)}),
    ],
)
def test_other_states_have_other_bytes(changed: Checkpoint) -> None:
    assert checkpoint.encode(changed) != GOOD


def refusal(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        checkpoint.decode(data, "RUN/it")
    message = str(caught.value)
    assert message.startswith(f"RUN/it: damaged checkpoint, {len(data)} bytes: ")
    assert "\n" not in message
    return message


def test_every_flipped_bit_is_noticed() -> None:
    for position in range(len(GOOD)):
        for bit in range(8):
            bad = bytearray(GOOD)
            bad[position] ^= 1 << bit
            refusal(bytes(bad))


def test_every_cut_is_noticed() -> None:
    for size in range(len(GOOD)):
        refusal(GOOD[:size])
    refusal(GOOD + b"\0")
    refusal(GOOD + GOOD)


@given(st.data())
def test_swapped_bytes_are_noticed(data: st.DataObject) -> None:
    bad = bytearray(GOOD)
    positions = st.integers(0, len(GOOD) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        a, b = data.draw(positions), data.draw(positions)
        bad[a], bad[b] = bad[b], bad[a]
    if bytes(bad) != GOOD:
        refusal(bytes(bad))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_refused(content: bytes, framed: bool) -> None:
    refusal(struct.pack("<Q", len(content)) + content if framed else content)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"__metadata__": 1}',
        b'{"__metadata__": {"trainyard": "[]"}}',
        b'{"__metadata__": {"trainyard": "{\\"sha256\\": 7}"}}',
        b'{"__metadata__": {"trainyard": "{\\"sha256\\": \\"\\"}"}}',
    ],
)
def test_a_header_of_another_form_is_refused(header: bytes) -> None:
    assert refusal(struct.pack("<Q", len(header)) + header)


def test_the_message_tells_a_wrong_digest_from_something_else() -> None:
    changed = GOOD[:-1] + bytes([GOOD[-1] ^ 1])
    assert refusal(changed).endswith("its SHA-256 does not match")
    assert refusal(b"what is this").endswith("not readable as a checkpoint")


# Objects in the run's folder.


def test_object_names_sort_as_steps_do(tmp_path: Path) -> None:
    assert checkpoint.object_name(300) == "checkpoints/step-00000300.safetensors"
    storage = LocalStorage(str(tmp_path))
    store(storage, *(some(step) for step in (5, 40, 300, 123_456_789)))
    for stranger in ("step-0000005.safetensors", "step-00000005.txt", "best.safetensors"):
        storage.create(f"checkpoints/{stranger}", b"")
    assert checkpoint.steps(storage) == [123_456_789, 300, 40, 5]


def test_the_newest_is_restored(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    told: list[str] = []
    assert checkpoint.newest_good(storage, some().arrays, DIGEST, told.append) is None
    store(storage, some(100), some(200))
    found = checkpoint.newest_good(storage, some().arrays, DIGEST, told.append)
    assert found is not None
    assert found.step == 200
    np.testing.assert_equal(dict(found.arrays), dict(some(200).arrays))
    assert told == []


def without(arrays: Checkpoint, name: str) -> Checkpoint:
    return replace(arrays, arrays={k: v for k, v in arrays.arrays.items() if k != name})


BIAS = "parameters/dense/bias"
FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "flipped bit": (
        lambda: (good := checkpoint.encode(some(300)))[:-1] + bytes([good[-1] ^ 4]),
        "damaged checkpoint, .* bytes: its SHA-256 does not match",
    ),
    "torn": (lambda: checkpoint.encode(some(300))[:-5], "its SHA-256 does not match"),
    "empty": (lambda: b"", "damaged checkpoint, 0 bytes: not readable as a checkpoint"),
    "missing tensor": (
        lambda: checkpoint.encode(without(some(300), BIAS)),
        f"tensor '{BIAS}' is missing",
    ),
    "strange tensor": (
        lambda: checkpoint.encode(some(300, {"more": np.zeros(1, np.float32)})),
        "tensor 'more' is not part of this model",
    ),
    "other shape": (
        lambda: checkpoint.encode(some(300, {BIAS: np.zeros((3, 1), np.float32)})),
        rf"tensor '{BIAS}' is float32 \(3, 1\), this model has float32 \(3,\)",
    ),
    "other dtype": (
        lambda: checkpoint.encode(some(300, {BIAS: np.zeros(3, np.int32)})),
        rf"tensor '{BIAS}' is int32 \(3,\), this model has float32 \(3,\)",
    ),
    "other settings": (
        lambda: checkpoint.encode(replace(some(300), config_digest=OTHER_DIGEST)),
        "is of another run or step",
    ),
    "other step": (lambda: checkpoint.encode(some(299)), "is of another run or step"),
}
faults = pytest.mark.parametrize("fault", FAULTS)


@faults
def test_restore_falls_back_and_names_the_object(tmp_path: Path, fault: str) -> None:
    make, reason = FAULTS[fault]
    storage = LocalStorage(str(tmp_path))
    store(storage, some(100), some(200))
    storage.create(checkpoint.object_name(300), make())
    told: list[str] = []
    found = checkpoint.newest_good(storage, some().arrays, DIGEST, told.append)
    assert found is not None
    assert found.step == 200
    [warning] = told
    assert warning.startswith(f"{tmp_path}/checkpoints/step-00000300.safetensors: ")
    assert warning.endswith("; going back to the checkpoint before")
    with pytest.raises(DataError, match=reason):
        checkpoint.load(storage, 300, some().arrays, DIGEST)


def test_every_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    for step in (100, 200, 300):
        storage.create(checkpoint.object_name(step), b"")
    told: list[str] = []
    assert checkpoint.newest_good(storage, some().arrays, DIGEST, told.append) is None
    assert [Path(warning.split(": ")[0]).name for warning in told] == [
        "step-00000300.safetensors",
        "step-00000200.safetensors",
        "step-00000100.safetensors",
    ]


def test_storage_that_does_not_answer_is_no_damaged_checkpoint(tmp_path: Path) -> None:
    class Unreachable(LocalStorage):
        def read(self, name: str) -> bytes:
            raise UnavailableError(f"cannot read {name}")

    storage = Unreachable(str(tmp_path))
    store(storage, some(100))
    # Starting over here would throw the run's work away.
    with pytest.raises(UnavailableError):
        checkpoint.newest_good(storage, some().arrays, DIGEST, print)


def test_loading_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"step-00000005\.safetensors"):
        checkpoint.load(LocalStorage(str(tmp_path)), 5, some().arrays, DIGEST)


@faults
def test_committing_replaces_an_object_that_restore_passes_over(tmp_path: Path, fault: str) -> None:
    storage = LocalStorage(str(tmp_path))
    name = checkpoint.object_name(300)
    storage.create(name, FAULTS[fault][0]())
    checkpoint.commit(storage, some(300))
    assert storage.read(name) == checkpoint.encode(some(300))


def test_committing_leaves_a_good_object_alone(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    first = replace(some(300), validations=())
    checkpoint.commit(storage, first)
    checkpoint.commit(storage, some(300))  # same step and tensors, other bytes
    assert storage.read(checkpoint.object_name(300)) == checkpoint.encode(first)


def test_pruning_keeps_the_newest_and_the_spared(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    store(storage, *(some(step) for step in (100, 200, 300, 400, 500)))
    storage.create("checkpoints/notes.txt", b"mine")
    checkpoint.prune(storage, 500, 2, spare=200)
    assert checkpoint.steps(storage) == [500, 400, 200]
    checkpoint.prune(storage, 500, 2, spare=None)
    assert checkpoint.steps(storage) == [500, 400]
    checkpoint.prune(storage, 500, 9, spare=None)
    assert checkpoint.steps(storage) == [500, 400]
    assert storage.read("checkpoints/notes.txt") == b"mine"


def test_damaged_checkpoints_do_not_drive_out_the_good_ones(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    store(storage, some(100), some(200))
    for damaged in (300, 400):
        storage.create(checkpoint.object_name(damaged), b"torn")
    # Resumed from 200, the run commits 250 first.
    checkpoint.commit(storage, some(250))
    checkpoint.prune(storage, 250, 2, spare=None)
    found = checkpoint.newest_good(storage, some().arrays, DIGEST, lambda _: None)
    assert found is not None
    assert found.step == 250
    assert checkpoint.steps(storage) == [400, 300, 250, 200]


@pytest.mark.parametrize(
    ("validations", "best"),
    [
        ((), None),
        (((100, 0.5),), 100),
        (((100, 0.5), (200, 0.9), (300, 0.7)), 200),
        (((100, 0.9), (200, 0.9)), 100),
        (((100, 0.0), (200, 0.0)), 100),
    ],
)
def test_the_best_step_is_the_first_of_the_highest_accuracy(
    validations: tuple[tuple[int, float], ...], best: int | None
) -> None:
    assert checkpoint.best_step(validations) == best
