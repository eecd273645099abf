"""Which claims the pods of a run can mount all at once."""

from typing import Any

import pytest

from k8s.diagnosis import claims
from tests.support import runfiles

ONCE, MANY = "ReadWriteOnce", "ReadWriteMany"
READ, POD = "ReadOnlyMany", "ReadWriteOncePod"


def claim(*modes: str, phase: str = "Bound", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "team", "uid": "u", **metadata},
        "spec": {"accessModes": list(modes)},
        "status": {"phase": phase},
    }


def fault(its: dict[str, Any], *, read_only: bool = False, **changes: Any) -> str | None:
    volume = {"claim": "team", "mount": "/data", "read_only": read_only}
    return claims.fault(its, runfiles.spec(volumes=[volume], **changes))


@pytest.mark.parametrize(
    ("modes", "workers", "read_only", "one_node", "words"),
    [
        ((MANY,), 2, False, False, None),
        ((ONCE, MANY), 2, False, False, None),
        ((READ,), 2, True, False, None),
        ((ONCE, READ), 2, True, False, None),
        ((ONCE,), 1, False, False, None),
        ((ONCE,), 2, False, True, None),
        ((POD,), 1, False, False, None),
        ((ONCE,), 2, False, False, "is ReadWriteOnce, for one node at a time, and 2 workers may"),
        ((ONCE,), 2, True, False, "give one_node: true, or take a ReadWriteMany claim"),
        ((ONCE, READ), 2, False, False, "is ReadWriteOnce and ReadOnlyMany, for one node"),
        ((POD,), 2, False, True, "is ReadWriteOncePod, for one pod, and the run has 2 workers"),
        ((READ,), 1, False, False, "is ReadOnlyMany; give read_only: true"),
    ],
)
def test_access_modes_and_workers(
    modes: tuple[str, ...], workers: int, read_only: bool, one_node: bool, words: str | None
) -> None:
    said = fault(claim(*modes), read_only=read_only, workers=workers, one_node=one_node)
    assert (said is None) == (words is None)
    assert (words or "") in (said or "")


def test_claims_that_are_going_or_gone() -> None:
    assert "being deleted" in (fault(claim(MANY, deletionTimestamp="now")) or "")
    assert "volume is gone" in (fault(claim(MANY, phase="Lost")) or "")
    assert fault(claim(MANY, phase="Pending")) is None


def test_the_last_event_about_a_claim_says_why_it_waits() -> None:
    def event(uid: str, reason: str, at: str) -> dict[str, Any]:
        return {
            "involvedObject": {"uid": uid},
            "reason": reason,
            "message": f"because of {reason}",
            "lastTimestamp": at,
        }

    events = [event("u", "B", "2026-11-20T14:01:00Z"), event("u", "A", "2026-11-20T14:00:00Z")]
    other = event("v", "C", "2026-11-20T14:02:00Z")
    assert claims.waiting(claim(ONCE), [*events, other]) == ("B", "because of B")
    assert claims.waiting(claim(ONCE), [other])[1] == "no reason is known yet"
