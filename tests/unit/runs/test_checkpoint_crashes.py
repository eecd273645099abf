"""Checkpoints while processes die at every request to the store, alone and with others at work.

A failure names the seed of its random schedule, and TRAINYARD_SCHEDULE_SEED runs that one alone.
"""

import contextlib
import itertools
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import pytest

from tests.support import crashes, series
from tests.support.crashes import Bucket, Client, DiedError, Fate, Gang, Plan
from trainer.errors import DataError, UnavailableError
from trainer.runs import checkpoint
from trainer.runs.checkpoint import Checkpoint
from trainer.storage.base import Entries, Entry

pytestmark = pytest.mark.long

SCHEDULES = series.length(500, 100_000)
ONLY = os.environ.get("TRAINYARD_SCHEDULE_SEED")
CONTROLS = 500  # schedules within which a broken protocol must be found out
VERBS = ("read", "create", "replace", "list", "delete")


# Where nobody else is at work, what a dead process sent has arrived before the next one starts.
FATES = set(Fate) - {Fate.DONE, Fate.DIES_IN_FLIGHT, Fate.GIVES_UP_IN_FLIGHT}


class Script:
    """Fates by the number of the request; all others are done."""

    def __init__(self, fates: Mapping[int, Fate]) -> None:
        self.fates = fates
        self.requests: list[str] = []

    def __call__(self, _process: str, verb: str, _name: str) -> Fate:
        self.requests.append(verb)
        return self.fates.get(len(self.requests) - 1, Fate.DONE)


def run_alone(
    plan: Plan, damaged: tuple[int, ...], survivor: int | None, fates: Mapping[int, Fate]
) -> list[str]:
    """Run a gang to its end and return the verbs of its requests.

    Args:
        plan: of the run.
        damaged: steps whose objects are damaged before it starts.
        survivor: which of the steps it may hold a survivor does; None for no survivors.
        fates: by the number of the request.
    """
    script, bucket = Script(fates), Bucket(plan)
    bucket.metrics_first = survivor is None
    for step in damaged:
        bucket.objects[checkpoint.object_name(step)] = b"damaged"

    def lost(gang: Gang) -> None:
        if survivor is not None:
            with contextlib.suppress(DiedError, UnavailableError):
                gang.snapshot(
                    Client(bucket, "survivor", script), gang.held[min(survivor, len(gang.held) - 1)]
                )

    try:
        Gang(Client(bucket, "rank 0", script)).run(lost)
        assert bucket.restore(Client(bucket, "later", Script({}))) == plan.total
    except AssertionError as error:
        raise AssertionError(
            f"{plan}, damaged {damaged}, survivor {survivor}, {fates}: {error}"
        ) from error
    return script.requests


Run = tuple[Plan, tuple[int, ...], int | None]
SMALL_RUNS: list[Run] = [(Plan(total=2, keep=1), (), 1), (Plan(total=2, keep=1), (2,), None)]
RUNS: list[Run] = [
    (plan, damaged, survivor)
    for plan in (Plan(), Plan(keep=1), Plan(eval_steps=2, keep_best=True, salt=2))
    for damaged in ((), (2, 4))
    for survivor in (None, 0, 1, 2)
]


def test_every_fate_of_every_request() -> None:
    reached = set()
    for run in RUNS:
        for number, verb in enumerate(run_alone(*run, {})):
            for fate in FATES:
                run_alone(*run, {number: fate})
                reached.add((verb, fate))
    assert reached == set(itertools.product(VERBS, FATES))


@pytest.mark.parametrize("run", [*SMALL_RUNS, *(RUNS if SCHEDULES >= 100_000 else [])])
def test_every_pair_of_fates(run: Run) -> None:
    for number in range(len(run_alone(*run, {}))):
        for fate in FATES:
            after = range(number + 1, len(run_alone(*run, {number: fate})))
            for second, other in itertools.product(after, FATES):
                run_alone(*run, {number: fate, second: other})


class Listing(Client):
    """Also lists a checkpoint that nobody can read."""

    def list(self, prefix: str = "") -> Entries:
        return [*super().list(prefix), Entry(checkpoint.object_name(9), 1)]


@pytest.mark.parametrize("client", [Client, Listing])
def test_restore_finds_what_came_instead_of_the_pruned(client: type[Client]) -> None:
    bucket = Bucket(Plan(keep=1))
    other = Gang(Client(bucket, "other", Script({})))
    other.save(1)

    def prune(_process: str, verb: str, name: str) -> Fate:
        if verb == "read" and name == checkpoint.object_name(1):
            other.save(2)
        return Fate.DONE

    assert bucket.restore(client(bucket, "restoring", prune)) == 2


def test_commit_leaves_alone_what_came_instead_of_the_pruned() -> None:
    bucket, verbs = Bucket(Plan(keep=1)), list[str]()
    other = Gang(Client(bucket, "other", Script({})), flavour=1)
    other.save(1)

    def prune(_process: str, verb: str, _name: str) -> Fate:
        verbs.append(verb)
        if verbs == ["create", "read", "read"]:
            other.save(2)
        if len(verbs) == 4:
            other.snapshot(other.client, 1)
        return Fate.DONE

    gang = Gang(Client(bucket, "committing", prune))
    gang.snapshot(gang.client, 1)
    assert bucket.objects[checkpoint.object_name(1)] == crashes.truths(bucket.plan, 1)[1]


class AbandonedError(BaseException):
    """Another program failed, so that this one is not needed any more."""


class Turns:
    """Runs programs in threads of which one runs at a time; the seed decides which.

    Args:
        rng: draws who is next.
        switching: probability that a request gives others a turn.
    """

    def __init__(self, rng: random.Random, switching: float) -> None:
        self._rng = rng
        self._switching = switching
        self._waiting: dict[str, threading.Lock] = {}
        self._current = ""
        self._over = threading.Semaphore(0)
        self.failure: BaseException | None = None

    def start(self, name: str, program: Callable[[], None]) -> None:
        """Start a program, which waits for its first turn."""
        self._waiting[name] = threading.Lock()
        self._waiting[name].acquire()
        threading.Thread(target=self._run, args=(name, program), name=name, daemon=True).start()

    def run(self) -> None:
        """Give turns until all programs have ended; raise what the first failed with."""
        self._pass_on()
        self._over.acquire()
        if self.failure:
            raise self.failure

    def switch(self) -> None:
        """Perhaps give another program a turn, and wait for the next one."""
        if self._rng.random() < self._switching:
            mine = self._waiting[self._current]
            self._pass_on()
            mine.acquire()
        if self.failure:
            raise AbandonedError

    def _pass_on(self) -> None:
        if self._waiting:
            self._current = self._rng.choice(list(self._waiting))
            self._waiting[self._current].release()
        else:
            self._over.release()

    def _run(self, name: str, program: Callable[[], None]) -> None:
        self._waiting[name].acquire()
        try:
            if not self.failure:
                program()
        except AbandonedError:
            pass
        except BaseException as error:
            self.failure = error
        del self._waiting[name]
        self._pass_on()


class Schedule:
    """Gangs and survivors at work on one bucket."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        self.trace: list[str] = []
        self.counts = Counter[str]()
        self.reached = set[tuple[str, Fate]]()
        self.plan = Plan(
            total=rng.choice([3, 6]),
            eval_steps=rng.choice([0, 1, 2]),
            keep=rng.choice([1, 2, 2, 3]),
            keep_best=rng.random() < 0.5,
            salt=rng.randrange(4),
        )
        self.bucket = Bucket(self.plan)
        self.turns = Turns(rng, rng.choice([0.05, 0.2, 0.6]))
        self.faults = rng.choice([0, 3, 8])  # what is left of them
        gangs = rng.choice([1, 2, 2])
        # Gangs of two sizes write two good objects of one step; a damaged one would be
        # replaced by one and then, the same moment, by the other.
        elastic = gangs == 2 and rng.random() < 0.3
        self.strikes = 0 if elastic else rng.choice([0, 1, 3])
        for step in rng.sample(range(1, self.plan.total + 1), 0 if elastic else rng.choice([0, 2])):
            self.bucket.objects[checkpoint.object_name(step)] = b"damaged"
        for number in range(gangs):
            client = Client(self.bucket, f"gang {number}", self.fate)
            gang = Gang(client, number * elastic, rng.choice([1, 1, 2, 3]), self.chance)
            self.turns.start(client.process, lambda gang=gang: gang.run(self.lost))  # type: ignore[misc]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def lost(self, gang: Gang) -> None:
        """A gang broke; mostly one of its workers stores what it holds, however late."""
        self.counts["broken gangs"] += 1
        if self.chance(0.7):
            self.counts["survivors"] += 1
            step, prunes = self.rng.choice(gang.held), self.chance(0.5)
            survivor = Client(self.bucket, f"survivor {self.counts['survivors']}", self.fate)
            self.turns.start(survivor.process, lambda: self.snapshot(gang, survivor, step, prunes))

    def snapshot(self, gang: Gang, survivor: Client, step: int, prunes: bool) -> None:
        with contextlib.suppress(DiedError, UnavailableError):
            gang.snapshot(survivor, step)
            if prunes:
                checkpoint.prune(survivor, step, self.plan.keep, self.plan.best(step))

    def fate(self, process: str, verb: str, name: str) -> Fate:
        """Let others go first, then decide what becomes of a request."""
        self.turns.switch()
        if self.bucket.in_flight and self.chance(0.2):
            self.bucket.land()
        if self.strikes and self.chance(0.05) and self.bucket.strike(self.rng):
            self.strikes -= 1
            self.counts["damaged objects"] += 1
            self.trace.append("an object is damaged")
        fate = Fate.DONE
        if self.faults and self.chance(0.12):
            self.faults -= 1
            fate = self.rng.choice(list(Fate))
        self.trace.append(f"{process}: {verb} {name}: {fate.value}")
        self.reached.add((verb, fate))
        self.counts[fate.value] += 1
        return fate

    def run(self) -> None:
        self.turns.run()
        while self.bucket.in_flight:
            self.bucket.land()
        found = self.bucket.restore(Client(self.bucket, "later", lambda *_: Fate.DONE))
        assert found == self.plan.total or not self.bucket.is_good(self.plan.total)


def run_schedule(seed: int) -> Schedule:
    schedule = Schedule(seed)
    try:
        schedule.run()
    except Exception as error:
        trace = "\n".join(schedule.trace[-40:])
        raise AssertionError(
            f"schedule {seed}: {error!r}; TRAINYARD_SCHEDULE_SEED={seed} runs it alone; "
            f"{schedule.plan}, its last requests:\n{trace}"
        ) from error
    return schedule


@pytest.mark.skipif(ONLY is not None, reason="one schedule is asked for")
def test_random_schedules() -> None:
    counts, reached = Counter[str](), set[tuple[str, Fate]]()
    for seed in range(SCHEDULES):
        schedule = run_schedule(seed)
        counts.update(schedule.counts)
        reached |= schedule.reached
    print(SCHEDULES, "schedules:", dict(counts))
    assert reached == set(itertools.product(VERBS, Fate))
    assert counts["damaged objects"]
    assert counts["survivors"]


@pytest.mark.skipif(ONLY is None, reason="TRAINYARD_SCHEDULE_SEED names no schedule")
def test_one_schedule() -> None:
    print("\n".join(run_schedule(int(ONLY or 0)).trace))


def test_a_seed_gives_the_same_schedule_again() -> None:
    traces = [run_schedule(seed).trace for seed in range(50)]
    assert [run_schedule(seed).trace for seed in range(50)] == traces
    assert len({tuple(trace) for trace in traces}) > 40


REAL = SimpleNamespace(**vars(checkpoint))


def overwrite(client: Client, name: str, data: bytes) -> bool:
    client.replace(name, data)
    return True


def prune_first(storage: Client, kept: Checkpoint) -> None:
    REAL.prune(storage, kept.step, 0, None)
    REAL.commit(storage, kept)


def first_good(storage: Client, steps: list[int]) -> Checkpoint | None:
    for step in steps:
        with contextlib.suppress(DataError):
            return checkpoint.load(storage, step, crashes.LIKE, crashes.DIGEST)
    return None


BROKEN: dict[str, tuple[object, str, Callable[..., object], str]] = {
    "create overwrites": (Client, "create", overwrite, "was good and was changed"),
    "prune comes before commit": (checkpoint, "commit", prune_first, "none is newer"),
    "commit trusts a taken name": (
        checkpoint,
        "commit",
        lambda storage, kept: storage.create(REAL.object_name(kept.step), REAL.encode(kept)),
        "was acknowledged, but is not there",
    ),
    "decode skips the digest": (
        checkpoint,
        "decode",
        lambda data, name: REAL.decode(crashes.sign(data), name),
        "is not the state at that step",
    ),
    "restore trusts the newest name": (
        checkpoint,
        "newest_good",
        lambda storage, *_: first_good(storage, REAL.steps(storage)[:1]),
        "restored step",
    ),
    "restore lists once": (
        checkpoint,
        "newest_good",
        lambda storage, *_: first_good(storage, REAL.steps(storage)),
        "restored step",
    ),
    "prune forgets the spare": (
        checkpoint,
        "prune",
        lambda storage, newest, keep, _: REAL.prune(storage, newest, keep, None),
        "is the best, but is not there",
    ),
    "prune counts later ones": (
        checkpoint,
        "prune",
        lambda storage, _, *rest: REAL.prune(storage, max(REAL.steps(storage)), *rest),
        "none is newer",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_protocol_is_found_out(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    where, what, part, message = BROKEN[broken]
    monkeypatch.setattr(where, what, part)
    assert any(message in violation(seed) for seed in range(CONTROLS))


def violation(seed: int) -> str:
    try:
        run_schedule(seed)
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("broken", ["prune comes before commit", "commit trusts a taken name"])
def test_a_broken_commit_is_found_out_alone(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    monkeypatch.setattr(checkpoint, "commit", BROKEN[broken][2])
    with pytest.raises(AssertionError, match="acknowledged"):
        test_every_fate_of_every_request()
