"""A checkpoint is one object: RUN/checkpoints/step-00000300.safetensors.

It holds every tensor of the state by name, and in its metadata all else that a run continues
from. The object is created, never overwritten, and its bytes are a function of the state alone:
whichever worker commits step k commits the same bytes, so whoever comes first wins.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from trainer.errors import DataError
from trainer.storage.base import ObjectNotFoundError, Storage, read_at_most

PREFIX = "checkpoints/"
_NAME = re.compile(r"step-(\d{8,})\.safetensors")
KEY = "trainyard"  # the one metadata key: safetensors does not keep the order of several
_MOST_HEADER = 1 << 24  # bytes: of about 100,000 tensors
_UNSIGNED = "0" * 64  # stands for the digest while the digest is made
# What reading bytes raises that are no object of ours.
MALFORMED = (
    *(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError),
    safetensors.SafetensorError,
)


@dataclass(frozen=True)
class Checkpoint:
    """All that a run continues from.

    Attributes:
        step: steps done.
        arrays: tensors of the state by name.
        config_digest: of the settings that decide the weights.
        validations: (step, accuracy) of every validation so far, in order.
    """

    step: int
    arrays: Mapping[str, npt.NDArray[Any]]
    config_digest: str
    validations: tuple[tuple[int, float], ...] = field(default=())


def object_name(step: int) -> str:
    """Return the object's name; names sort as steps do."""
    return f"{PREFIX}step-{step:08d}.safetensors"


def encode(checkpoint: Checkpoint) -> bytes:
    """Return the object's bytes: safetensors, with a SHA-256 over all of them.

    The digest is made with 64 zeros in its place, then written there, so that it covers
    header, names, shapes and tensors alike.
    """
    facts = {
        "config": checkpoint.config_digest,
        "sha256": _UNSIGNED,
        "step": checkpoint.step,
        "validations": checkpoint.validations,
    }
    arrays = {name: np.asarray(a, order="C") for name, a in checkpoint.arrays.items()}
    data = safetensors.numpy.save(arrays, {KEY: json.dumps(facts)})
    unsigned, digest = _UNSIGNED.encode(), hashlib.sha256(data).hexdigest().encode()
    return data.replace(unsigned, digest, 1)


def header(data: bytes, most: int) -> tuple[int, Any]:
    """Return the length of a safetensors header, and the facts that ``encode`` puts into it.

    Raises:
        MALFORMED: it is none, or longer than ``most`` bytes.
    """
    size = int.from_bytes(data[:8], "little")
    if size > most:
        raise ValueError
    return size, json.loads(json.loads(data[8 : 8 + size])["__metadata__"][KEY])


def decode(data: bytes, name: str) -> Checkpoint:
    """Return the checkpoint in an object's bytes.

    Raises:
        DataError: any bit is not as it was written.
    """
    try:
        size, facts = header(data, _MOST_HEADER)
        digest = facts["sha256"].encode()
        actual = hashlib.sha256(data[: 8 + size].replace(digest, _UNSIGNED.encode(), 1))
        actual.update(memoryview(data)[8 + size :])
        if len(digest) != len(_UNSIGNED) or actual.hexdigest().encode() != digest:
            raise ValueError("its SHA-256 does not match")
        validations = tuple((int(s), float(a)) for s, a in facts["validations"])
        if type(facts["step"]) is not int or not all(math.isfinite(a) for _, a in validations):
            raise ValueError
        return Checkpoint(
            step=facts["step"],
            arrays=safetensors.numpy.load(data),
            config_digest=facts["config"],
            validations=validations,
        )
    except MALFORMED as error:
        reason = str(error) if "SHA-256" in str(error) else "not readable as a checkpoint"
        raise DataError(f"{name}: damaged checkpoint, {len(data)} bytes: {reason}") from None


def check_fits(checkpoint: Checkpoint, template: Mapping[str, npt.NDArray[Any]], name: str) -> None:
    """Check that names, shapes and dtypes are those of ``template``.

    Raises:
        DataError: they are not; names the first that differs.
    """
    for key in sorted(template.keys() | checkpoint.arrays.keys()):
        if key not in checkpoint.arrays:
            raise DataError(f"{name}: tensor {key!r} is missing")
        if key not in template:
            raise DataError(f"{name}: tensor {key!r} is not part of this model")
        found, wanted = checkpoint.arrays[key], template[key]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise DataError(
                f"{name}: tensor {key!r} is {found.dtype} {found.shape}, "
                f"this model has {wanted.dtype} {wanted.shape}"
            )


def steps(storage: Storage) -> list[int]:
    """Return the steps of all checkpoint objects, newest first."""
    names = (entry.name.removeprefix(PREFIX) for entry in storage.list(PREFIX))
    return sorted((int(m[1]) for m in map(_NAME.fullmatch, names) if m), reverse=True)


def commit(storage: Storage, checkpoint: Checkpoint) -> None:
    """Store a checkpoint unless a good one of its step is there."""
    name, data = object_name(checkpoint.step), encode(checkpoint)
    while not storage.create(name, data):
        try:
            load(storage, checkpoint.step, checkpoint.arrays, checkpoint.config_digest)
        except ObjectNotFoundError:
            continue  # pruned by another gang; a third may create it, which must not be replaced
        except DataError:
            # An object that restore passed over holds the name of the step done again.
            storage.replace(name, data)
        return


def load(
    storage: Storage,
    step: int,
    template: Mapping[str, npt.NDArray[Any]] | None,
    config_digest: str,
    most: int | None = None,
) -> Checkpoint:
    """Read one checkpoint of at most ``most`` bytes; check that it fits ``template``, if given.

    Raises:
        DataError: it is missing, damaged, of another model or of another run.
    """
    name = object_name(step)
    if template is not None:
        most = _MOST_HEADER + sum(array.nbytes for array in template.values())
    data = storage.read(name) if most is None else read_at_most(storage, name, most)
    checkpoint = decode(data, f"{storage.uri}/{name}")
    if template is not None:
        check_fits(checkpoint, template, f"{storage.uri}/{name}")
    if checkpoint.config_digest != config_digest or checkpoint.step != step:
        raise DataError(f"{storage.uri}/{name}: is of another run or step")
    return checkpoint


def newest_good(
    storage: Storage,
    template: Mapping[str, npt.NDArray[Any]] | None,
    config_digest: str,
    warn: Callable[[str], None],
    most: int | None = None,
) -> Checkpoint | None:
    """Return the newest checkpoint that is whole and fits, or None where there is none.

    Args:
        storage: the run's folder.
        template: arrays whose names, shapes and dtypes the checkpoint must have; None for any.
        config_digest: of the run's settings.
        warn: called for every checkpoint passed over.
        most: bytes of a checkpoint, where ``template`` does not say.
    """
    gone: set[int] = set()
    listed = steps(storage)
    while listed:
        step = listed.pop(0)
        try:
            return load(storage, step, template, config_digest, most)
        except ObjectNotFoundError:
            # Another gang pruned it since, so it has committed a newer one. The
            # earlier ones may be gone too; trying them could end with none and start the run over.
            gone.add(step)
            listed = [step for step in steps(storage) if step not in gone]
        except DataError as error:
            warn(f"{error}; going back to the checkpoint before")
    return None


def best_step(validations: Sequence[tuple[int, float]]) -> int | None:
    """Return the first step of the highest validation accuracy, or None without validations."""
    return max(validations, key=lambda v: (v[1], -v[0]))[0] if validations else None


def prune(storage: Storage, newest: int, keep: int, spare: int | None) -> None:
    """Delete all but the newest ``keep`` checkpoints up to step ``newest`` and that of ``spare``.

    Args:
        storage: the run's folder.
        newest: a step just committed, so that it is good. Later ones that restore passed over
            do not count: they would drive out the good ones.
        keep: how many to keep, this one included.
        spare: a step that stays in any case.
    """
    for step in [s for s in steps(storage) if s <= newest][keep:]:
        if step != spare:
            storage.delete(object_name(step))
