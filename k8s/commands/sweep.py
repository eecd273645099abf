"""``sweep``: the runs of a sweep file, each a Job in a cluster, and their comparison.

What has been done is seen in the cluster and in the runs' folders, so the same command resumes a
sweep that was left: it takes up runs in progress, and starts no finished one again.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k8s import manifest, run_file, stores
from k8s.client.cluster import Cluster
from k8s.commands import cancel, submit
from k8s.diagnosis import run_phase
from k8s.run import gather_evidence, run_store, stored_result, which_run
from k8s.run_file import RunSpec
from trainer.common.command_line import INTERRUPTED
from trainer.common.text import called, one_line
from trainer.errors import ConfigError, UnavailableError
from trainer.runs import run_folder

if TYPE_CHECKING:
    from trainer.gang.sweep_decision import Phase, Scores
    from trainer.gang.sweep_file import Planned, Sweep

LOOK = 2.0  # seconds between two looks at the cluster
CAUSE_LOOK = 15.0  # seconds between two diagnoses of runs that have not started
FAILED = 1  # exit code where runs failed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Train the runs that a sweep file describes, and compare them: with --on in a cluster, "
        "each as a Job of its own, otherwise one after the other on this machine. The same command "
        "skips finished runs and resumes the others."
    )
    parser.add_argument(
        "file", metavar="FILE", help="Read this sweep file, such as docs/sweep.yaml."
    )
    parser.add_argument("--plan", action="store_true", help="Print the runs and train none.")
    parser.add_argument(
        "--on",
        dest="run",
        metavar="RUN",
        help="Train in a cluster, with the image, data, resources and everything else of this run "
        "file.",
    )
    which_run.add_cluster(parser)


def run(options: argparse.Namespace) -> int:
    """Train the runs, or print the plan."""
    # Pages and all else that the comparison needs, so that nothing is missing hours later.
    from trainer.cli import shared
    from trainer.cli import sweep as here
    from trainer.gang import sweep as sweeps
    from trainer.gang import sweep_file

    if options.run is None:
        here.run(options)
        return 0
    sweep, spec = sweep_file.read(options.file), which_run.read(options)
    planned, specs = plan(sweep, spec, options.file)
    if options.plan:
        sys.stdout.write(sweeps.as_text(planned))
        return 0
    os.environ |= stores.from_here(sweep.folder, spec.variables, os.environ)
    cluster = which_run.cluster(options, spec)
    in_cluster = InCluster(cluster, sweep, planned, specs)
    try:
        failed = in_cluster.train_all()
    except KeyboardInterrupt:
        which_run.say("")
        which_run.say(
            f"{spec.name}: its runs in progress continue; the same command resumes the sweep"
        )
        which_run.say(f"or stop it with: {called('k8s')} cancel {spec.name}{cluster.flags}")
        return INTERRUPTED
    sweeps.conclude(sweep, planned, shared.width())
    if failed:
        raise sweeps.SweepFailedError(
            f"{failed} of {len(planned)} runs failed, see above; to try one again, first: "
            f"{called('k8s')} delete NAME{cluster.flags}",
            {FAILED},
        )
    return 0


def plan(sweep: "Sweep", spec: RunSpec, where: str) -> "tuple[list[Planned], list[RunSpec]]":
    """Return the runs of a sweep, and the run file of each.

    Raises:
        ConfigError: a combination is refused, or the sweep gives what is the run file's to give.
    """
    from trainer.gang import sweep_file

    if stores.of(sweep.folder) is None:
        raise ConfigError(
            f"{where}: folder: {sweep.folder!r}: must be {stores.EXAMPLES}, which the pods and "
            "this machine reach"
        )
    for field in sweep.settings.keys() & run_file.OURS.keys():
        raise ConfigError(
            f"{where}: settings.{field}: in a cluster, the run file gives {run_file.OURS[field]}; "
            "take it out"
        )
    train = {**spec.train, **sweep.settings}
    if "epochs" in sweep.settings and "steps" not in sweep.settings:
        train.pop("steps", None)
    placed = {"data": spec.data, "workers": spec.workers}
    placed |= {"code": spec.code} if spec.code else {}
    planned = sweep_file.plan(sweep.model_copy(update={"settings": {**train, **placed}}))
    base = spec.model_dump(exclude_defaults=True)
    specs = []
    for each in planned:
        digest = each.config.run.rpartition("/")[2]
        its = {**sweep_file.defaults(sweep), **train, **each.varied}
        if "epochs" in each.varied:  # which steps of the files below would overrule
            its["steps"] = each.config.steps
        values = {**base, "name": f"{spec.name}-{digest}", "run": each.config.run, "train": its}
        one = run_file.parse(values, where).within(spec.name)
        one = one.with_code(spec.archive) if spec.archive else one
        assert one.config.identity() == each.config.identity()
        specs.append(one)
    return planned, specs


@dataclass
class Run:
    """A run, and what was last seen of it.

    Attributes:
        spec: its run file.
        phase: None before the first look.
        scores: of its validations so far.
        asked: whether this command asked it to stop.
        cause: what was said last of why it does not start.
    """

    spec: RunSpec
    phase: "Phase | None" = None
    scores: "Scores" = ()
    asked: bool = False
    cause: str = ""


class InCluster:
    """Trains the runs of a sweep in a cluster, at most ``parallel`` at a time."""

    def __init__(
        self, cluster: Cluster, sweep: "Sweep", planned: "Sequence[Planned]", specs: list[RunSpec]
    ) -> None:
        self._cluster, self._sweep, self._planned = cluster, sweep, planned
        self._runs = [Run(spec) for spec in specs]
        self._checked = False
        self._looked_for_causes = time.monotonic()
        self._said_unanswered = False

    def train_all(self) -> int:
        """Train what is not finished, and return how many runs failed.

        Raises:
            ConfigError: a Job of one's name has other settings, or the cluster refuses one.
        """
        from trainer.gang.sweep_decision import decide, stopped_early

        while True:
            try:
                self._look()
                known = self._known()
                decision = decide(known, self._sweep.parallel, self._sweep.halving)
                for place in decision.stop:
                    self._stop(place)
                for place in decision.start:
                    self._start(place)
                busy = any(run.phase in ("running", "stopping") for run in self._runs)
                self._said_unanswered = False
            except UnavailableError as error:
                if self._looks_first:
                    raise
                if not self._said_unanswered:
                    which_run.say(f"the runs continue unseen: {one_line(error)}")
                self._said_unanswered = busy = True
            if not busy:
                break
            time.sleep(LOOK)
        for place in sorted(stopped_early(known, self._sweep.halving)):
            self._say(place, f"stopped early: {self._early(place)}")
        return sum(run.phase == "failed" for run in self._runs)

    @property
    def _looks_first(self) -> bool:
        return any(run.phase is None for run in self._runs)

    def _known(self) -> "list[Any]":
        from trainer.gang.sweep_decision import Known

        return [Known(run.phase or "waiting", run.scores) for run in self._runs]

    def _early(self, place: int) -> str:
        from trainer.gang import sweep as sweeps

        assert self._sweep.halving
        return sweeps.early(self._known()[place], self._sweep.halving)

    def _say(self, place: int, words: str) -> None:
        from trainer.gang import sweep as sweeps

        name = self._runs[place].spec.name
        which_run.say(f"{sweeps.head(place, self._planned)}{name}  {words}")

    def _look(self) -> None:
        """See what has become of each run."""
        labels = f"{manifest.SWEEP}={self._runs[0].spec.sweep}"
        there = {job["metadata"]["name"]: job for job in self._cluster.list("Job", labels=labels)}
        late = time.monotonic() - self._looked_for_causes > CAUSE_LOOK
        if late:
            self._looked_for_causes = time.monotonic()
        if self._looks_first:
            self._checked = bool(there)  # when the first of them was started
            for run in self._runs:
                if job := there.get(run.spec.name):
                    submit.check_same(self._cluster, job, run.spec)
        for place, run in enumerate(self._runs):
            if run.phase not in ("finished", "failed", "left"):
                self._see(place, run, there.get(run.spec.name))
                if late and run.phase == "running":
                    self._say_cause(place, run, there[run.spec.name])

    def _see(self, place: int, run: Run, job: dict[str, Any] | None) -> None:
        from trainer.gang import sweep as sweeps

        pods = gather_evidence.pods(self._cluster, job) if job else []
        before, state = run.phase, run_phase.phase(job, pods) if job else ""
        if self._sweep.halving and before != "waiting":
            run.scores = sweeps.scores(run.spec.run_uri, self._sweep.halving.metric)
        # A run that was at its end may have finished before it was suspended.
        still = job is None or (state == "Suspended" and not pods)
        ended = state in run_phase.OVER or (still and before != "waiting")
        if ended and (share := self._accuracy(run)) is not None:
            run.phase = "finished"
            words = f"{share:.2%}" + ("" if before else "  finished before")
            self._say(place, words)
        elif job and state in run_phase.OVER:
            run.phase = "failed"
            self._say(place, f"failed: {self._why(job, pods, state)}")
        elif state == "Suspended" and pods:
            run.phase = "stopping"
        elif job is None or state == "Suspended":
            stopped = before in ("running", "stopping") and not run.asked
            run.phase = "left" if stopped else "waiting"
            if stopped:
                self._say(place, "was stopped or deleted; the same command resumes it")
        else:
            run.phase = "running"
            if before is None:
                self._say(place, "is in progress")

    def _accuracy(self, run: Run) -> float | None:
        """Return the test accuracy of a run, None if it has not finished.

        Raises:
            ConfigError: its folder is another run's.
        """
        folder = run_store.of_spec(run.spec)
        if run_folder.read_result(folder) is None:
            return None
        share = stored_result.read(folder, run.spec.config).get("test_accuracy")
        return share if isinstance(share, float) else None

    def _why(self, job: dict[str, Any], pods: list[dict[str, Any]], phase: str) -> str:
        """Return the first cause of a run that has ended without a result."""
        around = gather_evidence.Around(self._cluster)
        _, cause = gather_evidence.outcome(around, job, pods, phase, run_phase.Progress())
        return cause.message if cause else "no cause is known"

    def _say_cause(self, place: int, run: Run, job: dict[str, Any]) -> None:
        """Say, when it changes, why a run is not running."""
        if (job.get("status") or {}).get("ready") == run.spec.workers:
            return
        pods = gather_evidence.pods(self._cluster, job)
        cause = gather_evidence.cause(gather_evidence.Around(self._cluster), job, pods, trains=True)
        if cause and cause.message != run.cause:
            run.cause = cause.message
            self._say(place, run.cause)

    def _start(self, place: int) -> None:
        run = self._runs[place]
        if not self._checked:  # one stands for all: they differ in settings of the training alone
            submit.check(self._cluster, run.spec, [each.config for each in self._planned])
            self._checked = True
        submit.send_code(run.spec)
        again = run.asked or bool(run.scores)
        submit.submit(self._cluster, run.spec, lambda _: None)
        run.phase, run.asked = "running", False
        self._say(place, "resumes" if again else "started")

    def _stop(self, place: int) -> None:
        run = self._runs[place]
        job = self._cluster.get("Job", run.spec.name)
        if job and run_phase.phase(job, []) not in run_phase.OVER:
            run.asked = True
            cancel.ask(self._cluster, job)
            run.phase = "stopping"
            self._say(place, f"stops early: {self._early(place)}")
