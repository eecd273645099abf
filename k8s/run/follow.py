"""Watch a run until it ends, and print what it does."""

import contextlib
import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from k8s.client.cluster import Cluster
from k8s.client.informer import Informer
from k8s.diagnosis import evidence, pod_pending, run_phase
from k8s.diagnosis.cause import Cause
from k8s.diagnosis.job_blocked import TERMINATING
from k8s.run import gather_evidence, log_streams, which_run
from k8s.run.screen import WARNING, Screen
from trainer.common.command_line import INTERRUPTED
from trainer.common.text import called, duration, one_line
from trainer.errors import UnavailableError, UserError

LOOK = 1.0  # seconds between two requests for the run
CAUSE_LOOK = 5.0  # seconds between two diagnoses of what keeps it from running, at least
SHARE = 10  # times as long as a diagnosis took, that the next one waits
SILENT = 10.0  # seconds until it is said what a rank 0 that runs and logs nothing is at
SAID_AT_THE_END = (TERMINATING, "Suspended")  # kinds of causes
SUCCEEDED, FAILED, UNPROVEN, DEADLINE, NEVER_STARTED = 0, 1, 69, 124, 125


def follow(
    cluster: Cluster,
    name: str,
    start_deadline: float,
    *,
    with_logs: bool,
    rank: int | None = None,
) -> int:
    """Follow a run until it ends or the user leaves it; return the exit code that says how."""
    try:
        return Follower(cluster, name, start_deadline, with_logs, rank).run()
    except KeyboardInterrupt:
        which_run.say("")
        which_run.say(
            f"{name} continues; come back with: {called('k8s')} logs {name} -f{cluster.flags}"
        )
        which_run.say(f"or stop it with: {called('k8s')} cancel {name}{cluster.flags}")
        return INTERRUPTED


@dataclass
class Follower:
    """Follows a run, and the logs of a rank or all; a start may take ``start_deadline`` seconds."""

    cluster: Cluster
    name: str
    start_deadline: float
    with_logs: bool
    rank: int | None = None

    def __post_init__(self) -> None:
        self._job = which_run.job(self.cluster, self.name)
        self._pods = Informer(self.cluster, "Pod", gather_evidence.owner(self._job))
        self._screen = Screen(run_phase.workers(self._job))
        self._streams = log_streams.Streams(self.cluster)
        self._progress = run_phase.Progress()
        self._phase = ""
        self._cause: Cause | None = None
        self._look_again = float("-inf")
        self._began = time.monotonic()
        self._said_unanswered = False
        self._silent_since: float | None = None
        shown = self._shown(self._job)
        if self.with_logs and len(shown) > log_streams.STREAMS:
            self._screen.say(f"{self.name}: {log_streams.not_all(len(shown))}")

    def _shown(self, job: dict[str, Any]) -> Sequence[int]:
        return range(run_phase.workers(job)) if self.rank is None else (self.rank,)

    def _followed(self, job: dict[str, Any]) -> set[int]:
        """Return the ranks to read the logs of, in any case rank 0, whose has the progress."""
        return {0, *self._shown(job)[: log_streams.STREAMS]} if self.with_logs else {0}

    def run(self) -> int:
        """Follow until the run ends and return the exit code that says how."""
        try:
            return self._run()
        finally:
            self._pods.close()
            self._streams.close()
            self._screen.close()

    def _run(self) -> int:
        seen: dict[str, dict[str, Any]] = {}  # by uid
        while True:
            try:
                job = self.cluster.get("Job", self.name)
                there = self._pods.now() if job else []
            except UnavailableError as error:
                self._say_unanswered(error)
                continue
            self._said_unanswered = False
            # Kept after they are gone: a Job that has ended removes its pods, and what they said.
            seen |= {pod["metadata"]["uid"]: pod for pod in there}
            pods = there or list(seen.values())
            if job is None or job["metadata"]["uid"] != self._job["metadata"]["uid"]:
                self._show_rest()
                self._screen.say(f"{self.name}: was removed from the cluster; its folder stays")
                return FAILED
            followed = self._followed(job)
            self._streams.follow([pod for pod in pods if evidence.rank(pod) in followed])
            phase = run_phase.phase(job, pods, trains=self._progress.trains)
            if phase in run_phase.OVER:
                with contextlib.suppress(UserError):  # what is watched may lag behind
                    pods = gather_evidence.pods(self.cluster, job) or pods
                return self._end(job, pods, phase)
            self._show_phase(phase, there)
            self._show_cause(job, pods)
            self._show_silence(there)
            if phase == "Suspended" and not there:
                self._show_rest()
                self._screen.say(f"{self.name}: was asked to stop; submit it again to resume")
                return FAILED
            if self._cause and self._cause.kind == TERMINATING:
                self._show_rest()
                self._screen.say(f"{self.name}: {self._cause.message}", WARNING)
                return FAILED
            waited = time.monotonic() - self._began
            if not self._progress.trains and waited > self.start_deadline:
                return self._give_up(job, waited)
            self._show_lines(LOOK)

    def _say_unanswered(self, error: UserError) -> None:
        if not self._said_unanswered:
            self._screen.say(f"{self.name}: continues unseen: {one_line(error)}", WARNING)
        self._said_unanswered = True
        self._show_lines(LOOK)

    def _show_lines(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._show_line(*self._streams.lines.get(timeout=left))

    def _show_rest(self) -> None:
        self._streams.finish()
        while not self._streams.lines.empty():
            self._show_line(*self._streams.lines.get())
        self._screen.close()

    def _show_line(self, rank: int, at: str, text: str) -> None:
        facts = run_phase.parse_line(text)
        if rank == 0:
            self._progress.take(at, facts)
        if self.rank in (None, rank) and (self.with_logs or "warning" in facts):
            self._screen.line(rank, facts, self._progress)

    def _show_phase(self, phase: str, pods: list[dict[str, Any]]) -> None:
        if phase != self._phase:
            self._phase = phase
            states = {run_phase.pod_state(pod) for pod in run_phase.current(pods).values()} - {
                phase
            }
            more = f" ({', '.join(sorted(states))})" if states - {"Running"} else ""
            self._screen.say(f"{self.name}: {phase}{more}", "bold")

    def _show_cause(self, job: dict[str, Any], pods: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        if now < self._look_again:
            return
        found: Cause | None = None
        with contextlib.suppress(UserError):  # the run is watched, whatever fails here
            around = gather_evidence.Around(self.cluster)
            found = gather_evidence.cause(around, job, pods, trains=self._progress.trains)
        self._look_again = now + max(CAUSE_LOOK, SHARE * (time.monotonic() - now))
        new = found and (self._cause is None or found.message != self._cause.message)
        if found and new and found.kind not in SAID_AT_THE_END:
            self._screen.say(f"{self.name}: {found.message}", WARNING)
        if self._cause and self._cause.kind == "NodeLost" and not found:
            self._screen.say(f"{self.name}: the node is back, and all ranks run", "bold")
        self._cause = found

    def _show_silence(self, pods: list[dict[str, Any]]) -> None:
        """Say once what rank 0 is at before its first line."""
        leader = run_phase.current(pods).get(0)
        running = leader and evidence.dig(evidence.status_of(leader), "state", "running")
        if not running or self._progress.trains:
            self._silent_since = None
            return
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since > SILENT:
            self._silent_since = float("inf")
            others = (
                ", then it waits for the other ranks" if run_phase.workers(self._job) > 1 else ""
            )
            self._screen.say(
                f"{self.name}: rank 0 imports TensorFlow and loads its data{others}; its first "
                "line comes when all are ready"
            )

    def _give_up(self, job: dict[str, Any], waited: float) -> int:
        cause = self._cause.message if self._cause else "; ".join(pod_pending.no_trainer(job))
        self._screen.say(
            f"{self.name}: not started within {waited:.0f} s: {cause}; it stays submitted "
            f"({called('k8s')} delete {self.name}{self.cluster.flags} removes it)",
            WARNING,
        )
        return NEVER_STARTED

    def _end(self, job: dict[str, Any], pods: list[dict[str, Any]], phase: str) -> int:
        self._show_rest()
        took = ""
        status = job.get("status", {})
        ends = [each.at for pod in pods if (each := evidence.end(pod))]  # the Job's may be to come
        last = status.get("completionTime") or (evidence.condition(job, "Failed") or {}).get(
            "lastTransitionTime", max(ends, default="")
        )
        if status.get("startTime") and last:
            seconds = run_phase.seconds_between(status["startTime"], datetime.fromisoformat(last))
            took = f" after {duration(seconds)}"
        found = None
        with contextlib.suppress(UserError):  # the run has ended, whatever fails here
            around = gather_evidence.Around(self.cluster)
            phase, found = gather_evidence.outcome(around, job, pods, phase, self._progress)
        if phase == "Succeeded":
            more = f": {found.message}" if found else ""
            self._screen.say(f"{self.name}: {phase}{took}{more}", "bold green")
            return SUCCEEDED
        message = found.message if found else f"no cause is known; see {called('k8s')} logs"
        self._screen.say(f"{self.name}: {phase}{took}: {message}", "bold red")
        return {"DeadlineExceeded": DEADLINE, "Unproven": UNPROVEN}.get(phase, FAILED)
