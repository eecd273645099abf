"""Whatever is observed has one answer in one line, and recorded clusters their own."""

import itertools
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.causes import (
    CREATING,
    POLICY,
    QUOTA,
    event,
    failure,
    look,
    lost,
    missing,
    suspended,
    waiting,
)
from tests.support.pods import RUNNING, Object, ended, holds, job, pod
from trainer.failure import KINDS, Kind

RECORDED = Path(__file__).parents[3] / "data" / "cluster"


RECORDINGS = sorted(RECORDED.glob("*.json"))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_objects(path: Path) -> None:
    """Each file holds an Observed's fields, and the expected fields of the Cause, or null.

    The clusters ran a trainer that left sentences; most of them were replaced by its records.
    bad-data and crash keep the sentences, which still have to be shown.
    """
    recorded = json.loads(path.read_text())
    expect = recorded.pop("expect")
    recorded["now"] = datetime.fromisoformat(recorded["now"])
    cause = look(recorded.pop("job"), recorded.pop("pods"), *recorded.pop("events"), **recorded)
    if expect is None:
        assert cause is None
        return
    assert cause
    for each in expect.pop("words", []):
        assert each in cause.message
    assert {name: getattr(cause, name) for name in expect} == expect
    # The sentences of that trainer name the rank once more.
    line = cause.message.replace(" UTC: rank 0: ", " UTC: ")
    assert f"| {line} |\n" in (RECORDED.parents[2] / "docs/e2e.md").read_text()


def test_there_are_recordings() -> None:
    if not RECORDED.exists():
        pytest.skip(f"no {RECORDED.name} folder: nothing is recorded yet")
    assert RECORDINGS


CONSEQUENCES = ("", lost(9), failure("killed", 9), *(failure(kind, 1) for kind in KINDS))


STATES = st.one_of(
    st.sampled_from([{}, RUNNING, CREATING, ended(0), ended(0, reason="OOMKilled")]),
    st.builds(
        waiting,
        st.sampled_from(["ErrImagePull", "CreateContainerConfigError", "RunContainerError", "Odd"]),
        st.text(max_size=400),
    ),
    st.builds(
        ended,
        st.sampled_from([1, 2, 65, 69, 71, 75, 126, 137, 139, 143]),
        st.one_of(st.text(max_size=400), st.sampled_from([*CONSEQUENCES, missing(0, 1)])),
        st.sampled_from(["14:02:11", "14:02:12", "14:03:00"]),
        st.sampled_from(["", "OOMKilled", "StartError"]),
    ),
)


CONDITIONS = st.builds(
    holds,
    st.sampled_from(["PodScheduled", "DisruptionTarget", "Ready", "Failed", "FailureTarget"]),
    st.sampled_from(["PreemptionByScheduler", "DeletionByTaintManager", "DeadlineExceeded", "Odd"]),
    st.one_of(st.text(max_size=400), st.sampled_from([POLICY, "0/1: 1 Insufficient cpu."])),
    st.sampled_from(["True", "False", "Unknown"]),
)


PODS = st.lists(
    st.builds(
        pod,
        st.integers(0, 3),
        STATES,
        CONDITIONS,
        phase=st.sampled_from(["", "Pending", "Running", "Failed", "Unknown"]),
        suffix=st.sampled_from(["aaaaa", "bbbbb"]),
        deletionTimestamp=st.sampled_from([None, "2026-11-20T14:02:11Z"]),
    ),
    max_size=6,
)


EVENTS = st.lists(
    st.builds(
        event,
        st.sampled_from([job(), pod(0), pod(1), pod(3, suffix="ddddd")]),
        st.sampled_from(
            ["FailedCreate", "FailedMount", "FailedScheduling", "Failed", "NodeNotReady"]
        ),
        st.one_of(st.text(max_size=400), st.sampled_from([QUOTA, 'Failed to pull image "x": no'])),
    ),
    max_size=4,
)


JOBS = st.one_of(
    st.none(),
    st.just(suspended()),
    st.builds(job, st.integers(1, 4), CONDITIONS, failedIndexes=st.sampled_from(["", "0-2,3"])),
)


def without(item: Any, keep: Any) -> Any:
    """Leave out parts of an object at random, as older or odd servers do."""
    if isinstance(item, dict):
        return {key: without(each, keep) for key, each in item.items() if keep()}
    if isinstance(item, list):
        return [without(each, keep) for each in item]
    return item


@given(item=JOBS, pods=PODS, events=EVENTS, random=st.randoms(use_true_random=False))
def test_any_observation_has_an_answer_in_one_line(
    item: Object | None, pods: list[Object], events: list[Object], random: Any
) -> None:
    look(item, pods, *events, trains=random.random() < 0.5)
    for chance in (0.9, 0.5):
        torn = without([item, pods, events], lambda chance=chance: random.random() < chance)
        look(torn[0], torn[1], *torn[2])


@pytest.mark.parametrize("field", ["status", "spec", "metadata"])
def test_missing_parts_raise_nothing(field: str) -> None:
    empties: tuple[Object | None, ...] = ({}, None)
    for state, empty in itertools.product((RUNNING, CREATING, ended(1), ended(69)), empties):
        part = pod(1, state)
        part[field] = empty
        failed = job(2, holds("Failed", "PodFailurePolicy"))
        for item in (job(2), failed, {**failed, field: empty}):
            look(item, [part, pod(0)])


CAUSES: list[tuple[Kind | None, Object]] = [
    ("out_of_memory", ended(1, "", "14:02:10")),
    (None, ended(137, "", "14:02:10", "OOMKilled")),
    ("crashed", ended(1, "", "14:02:10")),
    ("config", ended(2, "", "14:02:10")),
    ("data", ended(65, "", "14:02:10")),
    ("unavailable", ended(69, "", "14:02:10")),
    (None, ended(128, 'exec: "x": not found', "14:02:10", "StartError")),
    (None, waiting("ErrImagePull", "not found")),
]


@given(
    cause=st.sampled_from(CAUSES),
    rank=st.integers(0, 3),
    followers=st.lists(
        st.tuples(
            st.sampled_from(["", "supervisor", "echo", "peer"]), st.sampled_from([1, 65, 75])
        ),
        min_size=3,
        max_size=3,
    ),
    at=st.sampled_from(["14:02:09", "14:02:10", "14:02:30"]),
    failed=st.booleans(),
    order=st.permutations(range(4)),
)
@settings(max_examples=200)
def test_a_rank_that_only_followed_is_never_blamed(
    cause: tuple[Kind | None, Object],
    rank: int,
    followers: list[tuple[str, int]],
    at: str,
    failed: bool,
    order: list[int],
) -> None:
    kind, state = cause
    state = json.loads(json.dumps(state))
    if kind:
        state["terminated"]["message"] = failure(kind, rank)
    pods = [pod(rank, state)]
    for other, (how, code) in zip(sorted({0, 1, 2, 3} - {rank}), followers, strict=True):
        messages = {
            "supervisor": lost(rank),
            "echo": failure(kind or "killed", rank, consequence=True),
            "peer": failure("peer_lost", other, code=75, consequence=True),
        }
        # Without a record, only the code says that it followed.
        pods.append(pod(other, ended(code if how else 75, messages.get(how, ""), at)))
    conditions = [holds("Failed", "FailedIndexes")] if failed else []
    found = look(job(4, *conditions, failedIndexes="0-3"), [pods[each] for each in order])
    assert found
    assert found.rank == rank
    assert found.kind not in ("Stopped", "Failed")
