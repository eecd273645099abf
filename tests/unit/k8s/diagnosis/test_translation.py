"""The diagnosis reads kinds and never words: every sentence of the trainer is replaced by others.

The records and log lines are made by the trainer's own code, then each of their sentences goes
through a table that leaves no letter as it was.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from k8s.diagnosis import pod_failures, run_phase
from k8s.diagnosis.cause import Cause, diagnose
from k8s.diagnosis.evidence import Observed
from tests.support.pods import NOW, ended, job, pod
from trainer import errors, failure, progress
from trainer.cluster_spec import Cluster
from trainer.common.untrusted_json import json_object
from trainer.failure import Failure
from trainer.gang import found_failures as gangs
from trainer.gang import worker
from trainer.gang.coordinator import Coordinator
from trainer.gang.elastic import Elastic
from trainer.gang.time_limits import SETTLE

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TABLE = str.maketrans(
    LETTERS + LETTERS.upper() + "0123456789:;,.()",
    (LETTERS[7:] + LETTERS[:7]) + (LETTERS[7:] + LETTERS[:7]).upper() + "5678901234!?~-[]",
)
SENTENCES = ("message", "remedy", "warning")
RECORDINGS = sorted((Path(__file__).parents[3] / "data" / "cluster").glob("*.json"))


def translated(value: Any) -> Any:
    """Replace all sentences of a record or log line, at any depth."""
    if not isinstance(value, dict):
        return value
    return {
        key: each.translate(TABLE) if key in SENTENCES else translated(each)
        for key, each in value.items()
    }


def in_other_words(text: str) -> str:
    value = json_object(text)
    return text.translate(TABLE) if value is None else json.dumps(translated(value))


def of_the_supervisor(rank: int) -> list[Failure]:
    """What a supervisor finds itself."""
    gang = Cluster(rank, tuple(f"m-{each}.m:2222" for each in range(4)), local=False)
    return [
        gangs.of_exit(rank, -signal.SIGKILL, "", "limit 512 MiB"),
        gangs.of_exit(rank, -signal.SIGSEGV, "", None),
        gangs.of_exit(rank, 1, "Traceback\nValueError: no\n", None),
        gangs.stalled(rank, "gave no sign of life"),
        gangs.stopped_early(rank),
        gangs.not_loaded(rank, 900.0),
        gangs.port_taken(rank, 2222, "Address already in use"),
        gangs.peers_missing(gang, [1], 300.0, "rank 0 waited for its call"),
    ]


def of_the_rendezvous() -> Iterator[Failure]:
    """What rank 0 records of others."""
    for events in ((), ("stopping",)):
        rendezvous = Coordinator(2, 0)
        for name in ("here", "ready"):
            for rank in (0, 1):
                rendezvous.handle(rank, {"event": name}, 0.0)
        for name in (*events, "gone"):
            rendezvous.handle(1, {"event": name}, 0.0)
        rendezvous.close(0.0)
        [line] = rendezvous.closed
        yield failure.Failure(**line["cause"])
    growing = Coordinator(2, 0, Elastic(least=1, batch_size=2, patience=0.0))
    for rank, name in ((0, "here"), (0, "ready"), (1, "here"), (1, "ready")):
        growing.handle(rank, {"event": name}, 0.0)
    growing.handle(0, {"event": "tick"}, SETTLE)
    growing.close(0.0)
    yield failure.Failure(**growing.closed[0]["cause"])


def failures(rank: int) -> list[Failure]:
    """One of each kind and more, as the trainer reports them."""
    own = [
        failure.of(kind("cannot read what it needs"), rank)
        for kind in (
            errors.ConfigError,
            errors.DataError,
            errors.UnavailableError,
            errors.StoppedError,
            errors.PeerLostError,
            errors.UserError,
        )
    ]
    own.append(failure.of(errors.CorruptError("its weights are wrong", rank)).but(code=71))
    old = Failure(rank=rank, code=1, message=f"rank {rank}: what an earlier trainer said")
    return [*own, *of_the_supervisor(rank), *of_the_rendezvous(), old]


def test_every_kind_of_failure_is_here() -> None:
    assert {each.kind for each in failures(0)} == set(failure.KINDS)
    assert set(pod_failures.KINDS) <= set(get_args(failure.Kind))


def look(pods: list[dict[str, Any]]) -> Cause | None:
    return diagnose(Observed(job(4), pods, [], now=NOW))


def gist(cause: Cause | None) -> tuple[Any, ...] | None:
    return (cause.kind, cause.rank, cause.final, cause.at) if cause else None


def ends_of_a_gang(failed: Failure, translate: bool) -> list[dict[str, Any]]:
    """The pods of a gang that rank 2 has ended; each of the others ends in a way of its own."""
    lost = failure.of(errors.PeerLostError("lost a peer"), 1).but(consequence=True)
    gone = Failure(kind="supervisor_lost", rank=2, code=75, message="its supervisor was lost")
    ends = [
        (0, 75, failed.but(rank=2, consequence=True)),
        (1, 75, lost),
        (2, failed.code, failed),
        (3, 75, gone),
    ]
    words = in_other_words if translate else str
    return [pod(rank, ended(code, words(json.dumps(each.record())))) for rank, code, each in ends]


@pytest.mark.parametrize("failed", failures(2), ids=lambda each: f"{each.kind}: {each.message}")
def test_the_cause_is_found_whatever_the_words(failed: Failure) -> None:
    found, again = (look(ends_of_a_gang(failed, translate)) for translate in (False, True))
    assert gist(again) == gist(found)
    if failed.names_a_cause:
        assert found
        assert found.rank == 2
        assert found.kind == pod_failures.KINDS.get(failed.kind, "Crash")


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_clusters_whose_trainer_spoke_otherwise(path: Path) -> None:
    recorded = json.loads(path.read_text())
    for item in recorded["pods"]:
        for status in item["status"].get("containerStatuses") or []:
            state = status["state"].get("terminated") or {}
            # StartError is containerd's, and its sentence Kubernetes' matter.
            if state.get("message") and state["reason"] != "StartError":
                state["message"] = in_other_words(state["message"])
    expect = recorded.pop("expect")
    recorded["now"] = type(NOW).fromisoformat(recorded["now"])
    cause = diagnose(Observed(**recorded))
    assert (cause and cause.kind) == (expect and expect["kind"])


def test_progress_restarts_and_the_end_are_found_whatever_the_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = progress.create("json")
    killed = gangs.of_exit(1, -signal.SIGKILL, "", None)
    log.say("cnn: 200 steps in 1.20 epochs", event="started", steps=200)
    log.say("resuming at step 20", event="resumed", step=20)
    log.step({"step": 40, "loss": 0.5, "accuracy": 0.9, "images_per_second": 1.0}, 200)
    log.warn("rank 1: killed; starting again", event="restarting", failure=killed.record())
    result = {name: 200 if name == "steps" else 0.5 for name in worker.IN_SHORT}
    log.say("test accuracy 50%", event="finished", **result)
    lines = capsys.readouterr().out.splitlines()
    plain, other = run_phase.Progress(), run_phase.Progress()
    for line in lines:
        assert run_phase.is_report(json.loads(line))
        plain.take("2026-11-20T14:00:00Z", run_phase.parse_line(line))
        other.take("2026-11-20T14:00:00Z", run_phase.parse_line(in_other_words(line)))
    for seen in (plain, other):
        assert (seen.trains, seen.ended, seen.restarts, seen.step) == (True, True, 1, 40)
        assert seen.failure
        assert (seen.failure.kind, seen.failure.rank) == ("killed", 1)
        assert seen.accuracy() == 0.5
    assert plain.failure != other.failure
