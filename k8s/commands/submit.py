"""``submit``: check a run file and start the run."""

import argparse
import base64
import contextlib
import json
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

from k8s import manifest
from k8s.client.cluster import Cluster
from k8s.client.refusals import ConflictError
from k8s.commands import doctor
from k8s.diagnosis import run_phase
from k8s.run import follow, gather_evidence, run_store, which_run
from k8s.run_file import RunSpec
from trainer.common import yaml_text
from trainer.common.text import called
from trainer.config import TrainConfig
from trainer.errors import ConfigError, UnavailableError, UserError
from trainer.runs import user_code

LEFTOVERS = (
    60.0  # seconds until what an earlier run of this name left is gone; pods have 40 to stop
)
PAUSE = 0.5  # seconds between two requests for it

Say = Callable[[str], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = "Check a run file and start the run, or resume it if it was cancelled."
    which_run.add_run_file(parser)
    parser.add_argument(
        "-f", "--follow", action="store_true", help="Print the run's logs until it ends."
    )
    parser.add_argument(
        "--wait", action="store_true", help="Wait until the run ends, without logs."
    )


def run(options: argparse.Namespace) -> int:
    """Check and submit the run; follow it if asked to."""
    spec = which_run.read(options)
    cluster = which_run.cluster(options, spec)
    if cluster.get("Job", spec.name) is None:  # else it was checked when it was started
        check(cluster, spec)
        send_code(spec)
    submit(cluster, spec, which_run.say)
    if options.follow or options.wait:
        return follow.follow(cluster, spec.name, spec.start_deadline, with_logs=options.follow)
    which_run.say(f"next: {_hint('status', options)}")
    for verb, meaning in (
        ("logs", "prints its log; -f follows"),
        ("result", "prints its result"),
        ("cancel", "asks it to stop with a checkpoint"),
    ):
        which_run.say(f"      {_hint(verb, options):<40}  {meaning}")
    return 0


def check(cluster: Cluster, spec: RunSpec, configs: Sequence[TrainConfig] = ()) -> None:
    """Check all that can be known before submitting, and show what is wrong.

    ``configs`` are those of a sweep's runs, which the data must suit, too.

    Raises:
        ConfigError: a check failed; with the exit code that says how.
    """
    failed = []
    for check in doctor.examine(cluster, spec, configs):
        if check.state == "failed":
            failed.append(check)
        if check.state != "ok":
            doctor.show(check)
    if failed:
        number = len(failed)
        error = ConfigError(f"{spec.name}: not submitted: {number} of the checks failed, see above")
        error.exit_code = doctor.exit_code(failed)
        raise error


def send_code(spec: RunSpec) -> None:
    """Store the user's code in the run's folder, if it is too large for the ConfigMap.

    Raises:
        ConfigError: the folder lies on a volume, which cannot be written from here.
    """
    if spec.archive is None or manifest.carried_code(spec):
        return
    if spec.run_uri.startswith("/"):
        raise ConfigError(
            f"{spec.name}: code: {spec.archive.source}: packed it is larger than "
            f"{manifest.MOST_CODE:,} bytes, which a run on a volume can be sent at most; "
            "put the large files on the volume, or the code into the image"
        )
    spec.archive.store(run_store.of_spec(spec))


def _hint(verb: str, options: argparse.Namespace) -> str:
    flags = "".join(
        f" --{flag} {value}"
        for flag in ("context", "namespace")
        if (value := getattr(options, flag)) is not None
    )
    return f"{called('k8s')} {verb} {shlex.quote(options.run)}{flags}"


def submit(cluster: Cluster, spec: RunSpec, say: Say) -> None:
    """Start a run, or resume it if it is there and was asked to stop.

    Raises:
        ConfigError: another run of this name is there.
        UnavailableError: objects of an earlier one stay.
        ClusterError: the API server refused an object; none is left behind.
    """
    job = cluster.get("Job", spec.name)
    if job is None:
        _start(cluster, spec, say)
    else:
        check_same(cluster, job, spec)
        _resume(cluster, job, spec, say)


def _start(cluster: Cluster, spec: RunSpec, say: Say) -> None:
    """Create the Job suspended, and lift it when it owns all that its pods need.

    So nothing is left behind when the Job is deleted.
    """
    *companions, wanted = manifest.objects(spec)
    _await_leftovers(cluster, spec.name, say)
    wanted["spec"]["suspend"] = True
    try:
        job, ours = cluster.create(wanted), True
    except ConflictError:  # the answer to an earlier try was lost, or somebody was faster
        found, ours = cluster.get("Job", spec.name), False
        if found is None:
            raise UnavailableError(
                f"{spec.name}: was deleted while it was submitted; try again"
            ) from None
        job = found
    check_same(cluster, job, spec)
    try:
        _create_companions(cluster, companions, job, say)
    except UserError:
        if ours:
            cluster.delete("Job", spec.name)
        raise
    _lift(cluster, job, spec)
    names = ", ".join(item["kind"] for item in [*companions, wanted])
    say(f"created {names} {spec.name} in namespace {cluster.namespace}")


def _resume(cluster: Cluster, job: dict[str, Any], spec: RunSpec, say: Say) -> None:
    state = run_phase.phase(job, gather_evidence.pods(cluster, job))
    if state in ("Suspended", "Queued"):  # also a run whose submitting was interrupted
        *companions, _ = manifest.objects(spec)
        _create_companions(cluster, companions, job, say)
    if state == "Suspended":
        _lift(cluster, job, spec)
        # Somebody may have created it a moment ago, or have been interrupted before it began.
        say(f"{spec.name}: starts, from its last checkpoint if it has one")
    elif state in run_phase.OVER:
        how = "" if state == "Ended" else f" ({state})"
        say(
            f"{spec.name}: has finished{how}; to run it again, or to resume from its last "
            f"checkpoint, first: {called('k8s')} delete {spec.name}{cluster.flags}"
        )
    else:
        say(f"{spec.name}: is running already")


def check_same(cluster: Cluster, job: dict[str, Any], spec: RunSpec) -> None:
    """Check that a Job was submitted from this run file.

    Raises:
        ConfigError: it was not; with what differs.
    """
    there = (job["metadata"].get("annotations") or {}).get(manifest.RUN_FILE, "")
    remedy = f"give another name, or first: {called('k8s')} delete {spec.name}{cluster.flags}"
    try:
        differing = difference(there, spec.canonical())
    except ValueError:
        raise ConfigError(
            f"{spec.name}: a Job of this name is there that was not submitted from a run file; "
            "give another name"
        ) from None
    if differing and spec.archive and (before := _code_there(cluster, job, spec)):
        named = f"code ({user_code.few(user_code.changes(before, spec.archive.data))})"
        differing = [named if each.startswith("code (") else each for each in differing]
    if [each.partition(" ")[0] for each in differing] == ["workers"] and spec.config.min_workers:
        remedy = (
            f"{called('k8s')} scale {spec.name} --workers {spec.workers}{cluster.flags} does it"
        )
    if differing:
        raise ConfigError(
            f"{spec.name}: is submitted with other settings: {', '.join(differing)}; {remedy}"
        )


def _code_there(cluster: Cluster, job: dict[str, Any], spec: RunSpec) -> bytes | None:
    """Return the code that a Job was submitted with, None where it cannot be had."""
    reference = json.loads(job["metadata"]["annotations"][manifest.RUN_FILE]).get("code")
    if reference is None or reference == spec.code:
        return None
    carried = ((cluster.get("ConfigMap", spec.name) or {}).get("binaryData") or {}).get(
        manifest.CODE
    )
    with contextlib.suppress(UserError, ValueError):
        if carried:
            return user_code.unzipped(base64.b64decode(carried), reference, spec.name)
        return user_code.fetch(run_store.of_spec(spec), reference)
    return None


def _await_leftovers(cluster: Cluster, name: str, say: Say) -> None:
    """Wait for pods of an earlier run of this name: they would answer to its peers' names.

    A Job of this name means that somebody submits it at the same time, whose pods they are.
    """
    until, said = time.monotonic() + LEFTOVERS, False
    while pods := cluster.list("Pod", labels=manifest.selector(name), most=1):
        if cluster.get("Job", name):
            return
        if time.monotonic() > until:
            pod = pods[0]["metadata"]["name"]
            raise UnavailableError(
                f"{name}: pod {pod} of an earlier run is still there after {LEFTOVERS:g} s; if its "
                f"node is lost: kubectl delete pod {pod} --force --namespace {cluster.namespace}"
            )
        if not said:
            say(f"{name}: waiting for the pods of an earlier run to end")
            said = True
        time.sleep(PAUSE)


def _create_companions(
    cluster: Cluster, items: list[dict[str, Any]], job: dict[str, Any], say: Say
) -> None:
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
        "blockOwnerDeletion": False,
        "controller": True,
    }
    for item in items:
        item["metadata"]["ownerReferences"] = [owner]
        until, said = time.monotonic() + LEFTOVERS, False
        while not _create(cluster, item):
            if time.monotonic() > until:
                raise ConfigError(
                    f"{item['kind']} {item['metadata']['name']} is there and not this run's; "
                    "give the run another name"
                )
            if not said:
                say(f"waiting for an earlier {item['kind']} of this name to go")
                said = True
            time.sleep(PAUSE)


def _create(cluster: Cluster, item: dict[str, Any]) -> bool:
    """Create an object, or see that it is ours; False while another one has the name."""
    try:
        cluster.create(item)
    except ConflictError:
        there = cluster.get(item["kind"], item["metadata"]["name"])
        owners = (there or {}).get("metadata", {}).get("ownerReferences") or []
        uid = item["metadata"]["ownerReferences"][0]["uid"]
        ours = any(owner.get("uid") == uid for owner in owners)
        if ours and there and item["kind"] == "ConfigMap":
            _check_unedited(cluster, there, item)
        return ours
    return True


def _check_unedited(cluster: Cluster, there: dict[str, Any], sent: dict[str, Any]) -> None:
    """Check that a run's ConfigMap still has the settings that it was submitted with.

    Raises:
        ConfigError: somebody has edited it, so that the run's folder would refuse the run.
    """
    name, file = sent["metadata"]["name"], "config.yaml"
    wanted = yaml_text.parse(sent["data"][file])
    try:
        found = yaml_text.parse((there.get("data") or {}).get(file, ""))
    except ConfigError:
        found = None
    found = found if isinstance(found, dict) else {}
    names = sorted(wanted.keys() | found.keys(), key=str)
    if differing := [each for each in names if wanted.get(each) != found.get(each)]:
        raise ConfigError(
            f"{name}: its ConfigMap was edited after it was submitted ({file}: "
            f"{', '.join(map(str, differing))}); "
            f"first: {called('k8s')} delete {name}{cluster.flags}"
        )


def _lift(cluster: Cluster, job: dict[str, Any], spec: RunSpec) -> None:
    if spec.queue is None:
        cluster.patch("Job", job["metadata"]["name"], {"spec": {"suspend": False}})


def difference(there: str, here: str) -> list[str]:
    """Return what differs between two runs' canonical texts, as ``field (X there, Y here)``.

    Raises:
        ValueError: one of them is no such text.
    """
    old, new = json.loads(there), json.loads(here)
    if not isinstance(old, dict):
        raise ValueError("not a mapping")
    fields = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return [
        f"{name} ({_short(old.get(name))} there, {_short(new.get(name))} here)" for name in fields
    ]


def _short(value: Any) -> str:
    text = "the default" if value is None else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:25]}...{text[-12:]}"
