"""Damaged checkpoints: each is named, and the one before is used, bit by bit.

TRAINYARD_MUTATION_SEED sets the seed of the series. A failure names the seed and index that make
its damage again.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.support import crashes, series
from trainer.runs import checkpoint
from trainer.runs.checkpoint import Checkpoint
from trainer.storage.base import Storage
from trainer.storage.local import LocalStorage

COUNT = series.length(500, 20_000)
SEED = series.seed("TRAINYARD_MUTATION_SEED")
CONTROLS = 1000  # damages within which a missing digest check must be found out

DIGEST = hashlib.sha256(b"settings").hexdigest()
OTHER_DIGEST = hashlib.sha256(b"other settings").hexdigest()
STEPS = (100, 200, 300, 400)
SMALL, LARGE = 3, 400  # a side of the largest tensor; LARGE makes objects of 2 MB

Random = random.Random


@cache
def state(step: int, side: int = SMALL, digest: str = DIGEST) -> Checkpoint:
    rng = np.random.default_rng(step + len(digest) + (digest == OTHER_DIGEST))
    arrays = {
        f"{group}/dense/{name}": rng.standard_normal(shape, np.float32)
        for group in ("parameters", "momentum", "velocity")
        for name, shape in (("kernel", (side, side)), ("bias", (side,)))
    }
    validations = tuple((s, s / 1000) for s in STEPS if s <= step)
    return Checkpoint(step, arrays, digest, validations)


@cache
def good(step: int, side: int = SMALL, digest: str = DIGEST) -> bytes:
    return checkpoint.encode(state(step, side, digest))


# Damages of an object's bytes.


def header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def some_range(data: bytes, rng: Random) -> tuple[int, int]:
    start, end = sorted(rng.sample(range(len(data) + 1), 2))
    return start, end if rng.random() < 0.3 else min(end, start + rng.randint(1, 64))


def flip_bits(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    # The header is a small part of an object, yet the one with a meaning of its own.
    end = rng.choice([8, header_end(data), len(data), len(data)])
    for _ in range(rng.choice([1, 1, 2, 9])):
        changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.choice([rng.randrange(len(data)), len(data) - rng.randint(1, 9)])]


def extend(data: bytes, rng: Random) -> bytes:
    return data + rng.choice([b"\0", rng.randbytes(rng.randint(1, 99)), bytes(4096), data])


def cut_out(data: bytes, rng: Random) -> bytes:
    start, end = some_range(data, rng)
    return data[:start] + data[end:]


def clear(data: bytes, rng: Random) -> bytes:
    start, end = some_range(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


def swap_ranges(data: bytes, rng: Random) -> bytes:
    """Two ranges of one length change places, as two tensors of one shape might."""
    size = rng.choice([1, 4, 4 * SMALL, 4 * SMALL * SMALL])
    first, second = sorted(rng.sample(range(0, len(data) - size), 2))
    second = max(second, first + size)
    a, b = data[first : first + size], data[second : second + size]
    return data[:first] + b + data[first + size : second] + a + data[second + size :]


def splice(data: bytes, rng: Random) -> bytes:
    """The header of one step, the tensors of another."""
    other = good(rng.choice(STEPS), SMALL if len(data) < 10_000 else LARGE)
    return data[: header_end(data)] + other[header_end(other) :]


DAMAGES = [flip_bits, flip_bits, truncate, extend, cut_out, clear, swap_ranges, splice]


# Damages of a folder, whose objects are given by step.

Folder = dict[int, bytes]


def harm_the_newest(folder: Folder, rng: Random, _side: int) -> None:
    for step in STEPS[-rng.choice([1, 1, 1, 2, 3, 4]) :]:
        folder[step] = rng.choice(DAMAGES)(folder[step], rng)


def swap_steps(folder: Folder, rng: Random, _side: int) -> None:
    other = rng.choice(STEPS[:-1])
    folder[400], folder[other] = folder[other], folder[400]


def copy_a_step(folder: Folder, rng: Random, _side: int) -> None:
    folder[400] = folder[rng.choice(STEPS[:-1])]


def rename(folder: Folder, rng: Random, _side: int) -> None:
    folder[rng.choice([401, 4000])] = folder.pop(400)


def swap_runs(folder: Folder, rng: Random, side: int) -> None:
    for step in rng.choice([STEPS[-1:], STEPS[-2:], STEPS]):
        folder[step] = good(step, side, OTHER_DIGEST)


def swap_models(folder: Folder, _rng: Random, side: int) -> None:
    folder[400] = good(400, side + 1)


KINDS: dict[str, tuple[Callable[[Folder, Random, int], None], int]] = {
    "bytes": (harm_the_newest, 12),  # of 17
    "two steps swapped": (swap_steps, 1),
    "a step copied": (copy_a_step, 1),
    "a step renamed": (rename, 1),
    "from another run": (swap_runs, 1),
    "from another model": (swap_models, 1),
}


def make_folder(index: int, side: int) -> tuple[Folder, str]:
    """A folder with some damage, and what was done to it."""
    rng = Random(f"{SEED}:{index}")
    intact = {step: good(step, side) for step in STEPS}
    folder, kind = dict(intact), ""
    while folder.get(STEPS[-1]) == intact[STEPS[-1]]:
        folder = dict(intact)
        [kind] = rng.choices(list(KINDS), [weight for _, weight in KINDS.values()])
        KINDS[kind][0](folder, rng, side)
    return folder, kind


def restore(storage: Storage, folder: Folder, side: int) -> list[str]:
    """Restore, check the state and the warnings, and return the reasons given."""
    like, told = state(100, side).arrays, list[str]()
    found = checkpoint.newest_good(storage, like, DIGEST, told.append)
    whole = max((s for s in folder if s in STEPS and folder[s] == good(s, side)), default=0)
    if found is None:
        assert not whole, f"step {whole} is good, but none was found"
    else:
        assert checkpoint.encode(found) == good(whole, side), f"step {found.step} was accepted"
    passed = [
        f"{storage.uri}/{checkpoint.object_name(step)}: "
        for step in sorted(folder, reverse=True)
        if step > whole
    ]
    assert len(told) == len(passed)
    end = "; going back to the checkpoint before"
    for warning, start in zip(told, passed, strict=True):
        assert warning.startswith(start)
        assert warning.endswith(end)
    return [w.removeprefix(p).removesuffix(end) for w, p in zip(told, passed, strict=True)]


def in_memory(folder: Folder) -> Storage:
    bucket = crashes.Bucket(crashes.Plan())
    bucket.objects = {checkpoint.object_name(step): data for step, data in folder.items()}
    return crashes.Client(bucket, "restore", lambda *_: crashes.Fate.DONE)


def check(index: int, side: int, store: Callable[[Folder], Storage] = in_memory) -> Counter[str]:
    """Try one damage and count what was done and told."""
    folder, kind = make_folder(index, side)
    try:
        reasons = restore(store(folder), folder, side)
    except Exception as error:
        raise AssertionError(f"seed {SEED}, index {index}, {kind}: {error!r}") from error
    return Counter([kind, *(reason.rpartition(": ")[2].split(" '")[0] for reason in reasons)])


def test_every_damage_is_noticed() -> None:
    seen = Counter[str]()
    for index in range(COUNT):
        seen += check(index, SMALL)
    print(COUNT, "damages:", dict(seen))
    told = {
        "its SHA-256 does not match",
        "not readable as a checkpoint",
        "is of another run or step",
        "tensor",
    }
    assert seen.keys() == KINDS.keys() | told


def test_every_damage_of_large_objects_is_noticed() -> None:
    for index in range(COUNT // 100):
        check(index, LARGE)


def test_every_damage_of_files_is_noticed(tmp_path: Path) -> None:
    for index in range(COUNT // 100):
        storage = LocalStorage(str(tmp_path / str(index)))

        def store(folder: Folder, storage: LocalStorage = storage) -> Storage:
            for step, data in folder.items():
                storage.create(checkpoint.object_name(step), data)
            return storage

        check(index, SMALL, store)


@pytest.mark.long
def test_damage_is_accepted_without_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = checkpoint.decode
    monkeypatch.setattr(checkpoint, "decode", lambda data, name: decode(crashes.sign(data), name))
    accepted = 0
    for index in range(CONTROLS):
        try:
            check(index, SMALL)
        except AssertionError as error:
            accepted += "was accepted" in str(error)
    print(accepted, "of", CONTROLS, "damages are accepted without the digest")
    assert accepted > CONTROLS // 20
