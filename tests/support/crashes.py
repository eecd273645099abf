"""A bucket in memory, gangs that die in it, and an account of what was promised.

``Bucket`` is a store with strong consistency that watches what is done to it. ``Client`` is one
process's way to it, which fails as told, or takes the process with it. ``Gang`` trains as the
trainer does, with the real functions of trainer.runs.checkpoint, on a state that is a pure function
of the step, so that whatever is restored can be checked bit by bit.
"""

import contextlib
import enum
import functools
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from trainer import schedule
from trainer.errors import DataError, UnavailableError
from trainer.runs import checkpoint
from trainer.runs.checkpoint import Checkpoint
from trainer.storage import base
from trainer.storage.base import Entry, ObjectNotFoundError

T = TypeVar("T")
METRICS = "metrics.jsonl"
DIGEST = hashlib.sha256(b"settings").hexdigest()


@dataclass(frozen=True)
class Plan:
    """What is trained: steps, and settings that decide what is kept."""

    total: int = 4
    eval_steps: int = 0
    keep: int = 2
    keep_best: bool = False
    salt: int = 0

    def validations(self, step: int) -> tuple[tuple[int, float], ...]:
        """All that a run which came to this step has validated; some accuracies are equal."""
        steps = [s for s in range(1, step + 1) if self.eval_steps and self._is_validation(s)]
        return tuple((s, (s * 7 + self.salt * 5) % 4 / 4) for s in steps)

    def best(self, step: int) -> int | None:
        return checkpoint.best_step(self.validations(step)) if self.keep_best else None

    def _is_validation(self, step: int) -> bool:
        return step % self.eval_steps == 0 or step == self.total


@functools.cache
def truth(plan: Plan, step: int, flavour: int = 0) -> Checkpoint:
    """The state at a step; gangs of another size, the flavour, come to other last bits."""
    rng = np.random.default_rng(1000 * step + flavour)
    arrays = {"parameters/w": rng.random(4, np.float32), "buffers/n": np.array(step)}
    return Checkpoint(step, arrays, DIGEST, plan.validations(step))


@functools.cache
def truths(plan: Plan, step: int) -> tuple[bytes, bytes]:
    """The bytes of every good object of a step."""
    return checkpoint.encode(truth(plan, step, 0)), checkpoint.encode(truth(plan, step, 1))


LIKE = truth(Plan(), 0).arrays


class Fate(enum.Enum):
    """What becomes of one request to the store, and of the process that made it."""

    DONE = "done"
    REFUSED = "not done, tried again"
    LOST = "done, answer lost, tried again"
    DIES_BEFORE = "not done, process died"
    DIES_AFTER = "done, process died"
    DIES_IN_FLIGHT = "done later, process died"
    GIVES_UP = "not done, given up"
    GIVES_UP_DONE = "done, given up"
    GIVES_UP_IN_FLIGHT = "done later, given up"


class DiedError(BaseException):
    """The process is gone; nothing in it may notice."""


class Bucket:
    """Objects by name; every change that breaks a promise is an AssertionError.

    Attributes:
        objects: what is stored.
        acknowledged: steps promised to be there: their commit returned, or one before was
            deleted because of them. Damage ends the promise, a newer good one allows deletion.
        in_flight: requests that nobody waits for any more, each with its process.
        metrics_first: whether no checkpoint may come before the figures up to its step, which
            holds where a gang is alone.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.objects: dict[str, bytes] = {}
        self.acknowledged: set[int] = set()
        self.in_flight: list[tuple[str, Callable[[], object]]] = []
        self.metrics_first = False
        self._restores = 0

    def read(self, name: str) -> bytes:
        if name not in self.objects:
            raise ObjectNotFoundError(f"no object {name}")
        return self.objects[name]

    def entries(self, prefix: str) -> base.Entries:
        return sorted(Entry(n, len(d)) for n, d in self.objects.items() if n.startswith(prefix))

    def insert(self, name: str, data: bytes) -> bool:
        """Write what is not there yet."""
        if name in self.objects:
            return False
        self.put(name, data)
        return True

    def put(self, name: str, data: bytes) -> None:
        if step := _step(name):
            assert data in truths(self.plan, step), f"{name} was committed with wrong bytes"
            old = self.objects.get(name)
            assert not self.is_good(step) or old == data, f"{name} was good and was changed"
            until = int(self.objects.get(METRICS, b"0"))
            assert not self.metrics_first or until >= step, f"{name} came before its figures"
        self.objects[name] = data

    def delete(self, name: str) -> None:
        step = _step(name)
        self.objects.pop(name, None)
        if step in self.acknowledged:
            self.acknowledged.remove(step)
            heir = max(filter(self.is_good, map(_step, self.objects)), default=0)
            assert heir > step, f"{name} was acknowledged and deleted, and none is newer"
            self.acknowledged.add(heir)

    def is_good(self, step: int) -> bool:
        return self.objects.get(checkpoint.object_name(step)) in truths(self.plan, step)

    def promised(self) -> int:
        """The step that a restore must find, or a newer one."""
        return max(self.acknowledged, default=0)

    def acknowledge(self, step: int) -> None:
        """A commit of this step returned."""
        assert self.is_good(step), f"step {step} was acknowledged, but is not there"
        self.acknowledged.add(step)

    def restore(self, client: "Client") -> int:
        """Restore as rank 0 does and return the step; it must be what was promised, or newer."""
        floor = self.promised()
        self._restores += 1
        try:
            found = checkpoint.newest_good(client, LIKE, DIGEST, lambda _: None)
        finally:
            self._restores -= 1
        step = found.step if found else 0
        if found:
            good = checkpoint.encode(found) in truths(self.plan, step)
            assert good, f"what was restored as step {step} is not the state at that step"
        assert step >= floor, f"restored step {step}, but {floor} was acknowledged"
        return step

    def strike(self, rng: random.Random) -> bool:
        """Damage one good checkpoint, unless that could be more than keeping two can repair.

        The promise is that the one before is used, so another one must be there, no other
        damage, and no restore under way: it may have seen an earlier one.
        """
        good = [s for s in sorted(self.acknowledged) if self.is_good(s)]
        names = [n for n in self.objects if _step(n)]
        whole = all(self.is_good(_step(n)) for n in names)
        if self.plan.keep < 2 or len(good) < 2 or not whole or self._restores:
            return False
        victim, other = rng.sample(good, 2)
        name = checkpoint.object_name(victim)
        self.objects[name] = damage(rng, self.objects[name], truths(self.plan, other)[0])
        self.acknowledged.remove(victim)
        return True

    def land(self, process: str | None = None) -> None:
        """Let what is in flight arrive: of one process all, or the oldest of any."""
        for sent in [f for f in self.in_flight if process in (None, f[0])]:
            self.in_flight.remove(sent)
            with contextlib.suppress(ObjectNotFoundError):
                sent[1]()
            if process is None:
                return


def damage(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Change an object: a bit of a tensor, its length, or all of it for another step's."""
    bit = bytearray(data)
    bit[-1 - rng.randrange(16)] ^= 1 << rng.randrange(8)
    return rng.choice(
        [bytes(bit), bytes(bit), data[: rng.randrange(len(data))], data + b"\0", other]
    )


def sign(data: bytes) -> bytes:
    """Put the right digest into whatever bytes, so that no digest check refuses them."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        size = 8 + int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8:size])["__metadata__"]["trainyard"])
        unsigned = data[:size].replace(facts["sha256"].encode(), b"0" * 64, 1) + data[size:]
        return unsigned.replace(b"0" * 64, hashlib.sha256(unsigned).hexdigest().encode(), 1)
    return data


def _step(name: str) -> int:
    """The step of a checkpoint's name, or 0."""
    if not name.startswith(checkpoint.PREFIX):
        return 0
    return int(name.removeprefix(f"{checkpoint.PREFIX}step-").removesuffix(".safetensors"))


class Client:
    """A process's way to the bucket, with the retries of storage.GCSStorage.

    Args:
        bucket: the store.
        process: its name.
        fate: called before every request with its process, verb and name; others may act on the
            bucket meanwhile.
    """

    uri = "memory://run"

    def __init__(self, bucket: Bucket, process: str, fate: Callable[[str, str, str], Fate]) -> None:
        self.bucket = bucket
        self.process = process
        self._fate = fate

    def read(self, name: str) -> bytes:
        return self._request("read", name, partial(self.bucket.read, name))

    def read_part(self, name: str, start: int, size: int) -> bytes:
        return self.read(name)[start : start + size]

    def create(self, name: str, data: bytes) -> bool:
        while not self._request("create", name, partial(self.bucket.insert, name, data)):
            with contextlib.suppress(ObjectNotFoundError):  # deleted meanwhile
                return self.read(name) == data
        return True

    def replace(self, name: str, data: bytes) -> None:
        self._request("replace", name, partial(self.bucket.put, name, data))

    def list(self, prefix: str = "") -> base.Entries:
        return self._request("list", prefix, partial(self.bucket.entries, prefix))

    def delete(self, name: str) -> None:
        self._request("delete", name, partial(self.bucket.delete, name))

    def _request(self, verb: str, name: str, effect: Callable[[], T]) -> T:
        while True:
            fate = self._fate(self.process, verb, name)
            if fate in (Fate.DIES_IN_FLIGHT, Fate.GIVES_UP_IN_FLIGHT):
                self.bucket.in_flight.append((self.process, effect))
            elif fate not in (Fate.REFUSED, Fate.DIES_BEFORE, Fate.GIVES_UP):
                answer = effect()
            if fate in (Fate.DIES_BEFORE, Fate.DIES_AFTER, Fate.DIES_IN_FLIGHT):
                raise DiedError
            if fate in (Fate.GIVES_UP, Fate.GIVES_UP_DONE, Fate.GIVES_UP_IN_FLIGHT):
                raise UnavailableError(f"cannot {verb} {name}")
            if fate is Fate.DONE:
                return answer


class Gang:
    """Workers of one run, started again until the run is done.

    Args:
        client: rank 0's, and in restore the others'.
        flavour: see ``truth``.
        chunk: steps of a chunk.
        chance: draws what else may happen, given its probability.
    """

    def __init__(
        self,
        client: Client,
        flavour: int = 0,
        chunk: int = 1,
        chance: Callable[[float], bool] = lambda _: False,
    ) -> None:
        self.client = client
        self.bucket = client.bucket
        self.plan = client.bucket.plan
        self.flavour = flavour
        self.chunk = chunk
        self.chance = chance
        self.held: list[int] = []

    def run(self, lost: Callable[["Gang"], None]) -> None:
        """Train to the end through all deaths.

        Args:
            lost: called at each; survivors may hold the state at any step of ``held``.
        """
        while True:
            self.held = []
            try:
                return self.train()
            except (DiedError, UnavailableError):
                if self.held:
                    lost(self)
                self.bucket.land(self.client.process)

    def train(self) -> None:
        """One life, as trainer.train goes through it."""
        at = saved = self.restore()
        while at < self.plan.total:
            before, at = at, self._chunk_end(at)
            best = self.plan.best(at) == at
            # Who survives may not have finished this chunk; or, while it is uploaded behind the
            # training's back, the next one.
            ahead = at if best or at == self.plan.total else self._chunk_end(at)
            self.held = [step for step in (before, at, ahead) if step]
            if best:
                self.save(at)
                saved = at
            elif at > saved and not self.chance(0.2):  # else an earlier one is on its way
                with contextlib.suppress(UnavailableError):  # the next one will do
                    self.save(at)
                saved = at
        self.held = [self.plan.total]
        self.save(self.plan.total)
        self.select()

    def restore(self) -> int:
        """Agree on rank 0's choice."""
        step = self.bucket.restore(self.client)
        if step and self.chance(0.5):
            try:
                checkpoint.load(self.client, step, LIKE, DIGEST)
            except DataError:
                # Pruned by another gang, or damaged, since rank 0 read it: they start again.
                raise UnavailableError(f"rank 1 cannot read step {step}") from None
        return step

    def save(self, step: int) -> None:
        self.client.replace(METRICS, b"%d" % step)
        self.snapshot(self.client, step)
        checkpoint.prune(self.client, step, self.plan.keep, self.plan.best(step))

    def snapshot(self, client: Client, step: int) -> None:
        checkpoint.commit(client, truth(self.plan, step, self.flavour))
        self.bucket.acknowledge(step)

    def select(self) -> None:
        """Read the best weights, with which the run ends."""
        best = self.plan.best(self.plan.total)
        if best is not None:
            try:
                checkpoint.load(self.client, best, LIKE, DIGEST)
            except ObjectNotFoundError:
                raise AssertionError(f"step {best} is the best, but is not there") from None
            except DataError:
                assert not self.bucket.is_good(best), "the best was refused, but is good"

    def _chunk_end(self, at: int) -> int:
        return schedule.chunk_end(at, self.plan.total, self.chunk, self.plan.eval_steps)
