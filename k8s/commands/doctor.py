"""``doctor``: check what can be known before submitting; each failed check names its remedy."""

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from rich.console import Console
from rich.text import Text

from k8s import manifest, pod_security, quantity, volumes
from k8s.client.cluster import Cluster
from k8s.client.refusals import ForbiddenError
from k8s.diagnosis import claims, node_capacity
from k8s.diagnosis.evidence import shorten
from k8s.run import dry_run, model_check, run_store, which_run
from k8s.run.dry_run import Said
from k8s.run.model_check import State
from k8s.run_file import POD_SUFFIX, RunSpec
from k8s.volumes import Volume
from trainer.common.text import one_line, printable
from trainer.config import TrainConfig
from trainer.data import fit
from trainer.data.dataset import Dataset
from trainer.errors import DataError, UnavailableError, UserError
from trainer.runs import run_folder
from trainer.storage import probe

# What the commands do in a namespace, and watch for kubectl wait and get --watch;
# infra/cluster/submitter.yaml grants exactly this.
PERMISSIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("batch", "jobs", ("get", "list", "watch", "create", "patch", "delete")),
    ("", "configmaps", ("get", "create")),
    ("", "services", ("get", "create")),
    ("networking.k8s.io", "networkpolicies", ("get", "list", "create")),
    ("", "pods", ("get", "list", "watch", "delete")),
    ("", "pods/log", ("get",)),
    ("", "events", ("list",)),
    ("", "resourcequotas", ("list",)),
    ("", "limitranges", ("list",)),
    ("", "namespaces", ("get",)),
    ("", "serviceaccounts", ("get",)),
)
VOLUME_PERMISSIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("", "persistentvolumeclaims", ("get",)),
)
QUEUE_PERMISSIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("kueue.x-k8s.io", "localqueues", ("get",)),
    ("kueue.x-k8s.io", "workloads", ("list",)),
)
# Only to ask whether a policy refuses the pods; who may create Jobs can create pods by them.
POD_PERMISSIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (("", "pods", ("create",)),)
ROLE = "infra/cluster/submitter.yaml"
MOST_NODES = 50  # of which all pods are read, to see what is free
# Names of the files in runs/ that everyone replaces.
SAMPLE_IMAGE, SAMPLE_FOLDER = "trainyard:latest", re.compile(r"\w+://my-(bucket|container)(/|$)")
LEVEL = "pod-security.kubernetes.io/enforce"


@dataclass(frozen=True)
class Check:
    """The outcome of one check; a warning does not keep a run from being submitted."""

    name: str
    state: State
    text: str
    exit_code: int = 2  # of a failed one


def failed(name: str, error: UserError) -> Check:
    """Return a check that an error ended."""
    code = error.exit_code if isinstance(error, DataError | UnavailableError) else 2
    return Check(name, "failed", one_line(error), code)


def exit_code(checks: Iterable[Check]) -> int:
    """Return 0 if no check failed, and 2 if they failed in different ways."""
    codes = {check.exit_code for check in checks if check.state == "failed"} or {0}
    return codes.pop() if len(codes) == 1 else 2


MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Check everything that can be checked before a run file is submitted: permissions, quotas, "
        "the image, the data, the run's folder, and whether the API server accepts the objects."
    )
    which_run.add_run_file(parser)
    which_run.add_output(parser)


def run(options: argparse.Namespace) -> int:
    """Print every check; return how they failed, 0 if none did."""
    spec = which_run.read(options)
    done = []
    for check in examine(which_run.cluster(options, spec), spec):
        done.append(check)
        if options.output == "text":
            show(check)
    if options.output == "json":
        which_run.print_json(
            [{"check": each.name, "state": each.state, "text": each.text} for each in done]
        )
    return exit_code(done)


def show(check: Check) -> None:
    """Print one check."""
    mark, style = MARKS[check.state]
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"{mark} ", style) + Text(printable(f"{check.name:<12} {check.text}")))


def examine(
    cluster: Cluster, spec: RunSpec, configs: Sequence[TrainConfig] = ()
) -> Iterator[Check]:
    """Yield every check of a run file in a cluster, as it is done.

    ``configs`` are those of a sweep's runs, which the data must suit, too.
    """
    try:
        version = cluster.version()
    except UserError as error:
        yield failed("cluster", error)
        return
    old = dry_run.is_older(version)
    words = f"{version} at {cluster.server}" + (f": older than {dry_run.SUPPORTED}" * old)
    yield Check("cluster", "warning" if old else "ok", words)
    checks = {
        "namespace": _namespace,
        "permissions": _permissions,
        "run file": _run_file,
        "quota": _quota,
        "limits": _limits,
        "nodes": _nodes,
        "queue": _queue,
        "service account": _service_account,
        "volume": _volumes,
        "names": _names,
        "image": _image,
    }
    there = True  # the namespace, without which all that asks in it would fail
    for name, check in checks.items():
        if not there and name not in ("run file", "names", "image"):
            continue
        try:
            for state, words in check(cluster, spec):
                there &= (name, state) != ("namespace", "failed")
                yield Check(name, state, words)
        except UserError as error:
            yield failed(name, error)
    yield from _folders(spec, configs or [spec.config])
    if there:
        yield from _objects(cluster, spec)


def _permissions(cluster: Cluster, spec: RunSpec) -> Iterator[Said]:
    wanted = PERMISSIONS + (QUEUE_PERMISSIONS if spec.queue else ())
    wanted += VOLUME_PERMISSIONS if spec.volumes else ()
    missing = []
    for group, path, verbs in wanted:
        resource, _, subresource = path.partition("/")
        lacking = [
            verb
            for verb in verbs
            if not cluster.can(verb, resource, group=group, subresource=subresource)
        ]
        if lacking:
            missing.append(f"{' '.join(lacking)} {path}{'.' + group if group else ''}")
    if missing:
        yield (
            "failed",
            f"you may not {', '.join(missing)} in namespace {cluster.namespace}; "
            f"have the Role in {ROLE} bound to you",
        )
    else:
        number = sum(len(verbs) for _, _, verbs in wanted)
        yield "ok", f"all {number} in namespace {cluster.namespace}"


def _namespace(cluster: Cluster, _: RunSpec) -> Iterator[Said]:
    try:
        namespace = cluster.get("Namespace", cluster.namespace)
    except ForbiddenError:
        yield "warning", f"{cluster.namespace}: may not be read"
        return
    if namespace is None:
        yield (
            "failed",
            f"{cluster.namespace}: does not exist; create it (kubectl apply -k infra/cluster), or "
            "give another",
        )
        return
    level = (namespace["metadata"].get("labels") or {}).get(LEVEL)
    if level == "restricted":
        yield "ok", f"{cluster.namespace}, Pod Security level restricted"
    else:
        yield (
            "warning",
            f"{cluster.namespace}: Pod Security level {level or 'not set'}; restricted suffices "
            f"for every run (kubectl label namespace {cluster.namespace} {LEVEL}=restricted)",
        )


def _run_file(_: Cluster, spec: RunSpec) -> Iterator[Said]:
    folders = [each for each in (spec.data, spec.run) if SAMPLE_FOLDER.match(each)]
    if left := [SAMPLE_IMAGE] * (spec.image == SAMPLE_IMAGE) + folders:
        text = f"{', '.join(left)}: as in the sample; put in your own image and bucket"
        yield "warning", text
    if found := pod_security.violations(_pod(spec), spec.annotations):
        text = f"patches: beyond the restricted level, which many namespaces enforce: {found[0]}"
        yield "warning", text


def _pod(spec: RunSpec) -> manifest.Object:
    return manifest.pod(manifest.objects(spec)[-1])


def _quota(cluster: Cluster, spec: RunSpec) -> Iterator[Said]:
    asked = demand(spec)
    quotas = cluster.list("ResourceQuota")
    never, later = [], []
    for quota in quotas:
        if quota.get("spec", {}).get("scopes") or quota.get("spec", {}).get("scopeSelector"):
            continue  # for some pods only; which, the API server knows
        status = quota.get("status") or {}
        used = status.get("used") or {}
        for resource, hard in (status.get("hard") or quota["spec"].get("hard") or {}).items():
            if resource not in asked:
                continue
            free = quantity.parse(hard) - quantity.parse(used.get(resource, "0"))
            words = f"{resource} {quantity.show(resource, asked[resource])} asked"
            name = quota["metadata"]["name"]
            if asked[resource] > quantity.parse(hard):
                never.append(f"{words}, {name} allows {hard} in all")
            elif asked[resource] > free:
                later.append(f"{words}, {quantity.show(resource, free)} of {hard} free ({name})")
    if never:
        yield "failed", f"{'; '.join(never)}; ask for less or have the quota raised"
    elif later:
        yield "warning", f"{'; '.join(later)}; pods will wait until others end"
    else:
        yield "ok", "room for all" if quotas else "none set"


def demand(spec: RunSpec) -> quantity.Amounts:
    """Return what a run counts for in quotas, by their names of resources."""
    pod = _pod(spec)
    singles = ("count/jobs.batch", "services", "count/services", "configmaps", "count/configmaps")
    asked = dict.fromkeys(singles, Decimal(1))
    asked |= dict.fromkeys(("pods", "count/pods"), Decimal(spec.workers))
    for name, amount in quantity.asked(pod).items():
        asked[f"requests.{name}"] = amount * spec.workers
        if name in ("cpu", "memory"):
            asked[name] = amount * spec.workers
    limits = quantity.limited(pod).items()
    return asked | {f"limits.{name}": amount * spec.workers for name, amount in limits}


def _limits(cluster: Cluster, spec: RunSpec) -> Iterator[Said]:
    resources = _pod(spec)["containers"][0].get("resources") or {}
    for limits in cluster.list("LimitRange"):
        for item in limits["spec"].get("limits") or []:
            if item.get("type") not in ("Container", "Pod"):
                continue
            for bound, breaks, given in (
                ("max", 1, resources.get("limits") or {}),
                ("min", -1, resources.get("requests") or {}),
            ):
                for resource, value in (item.get(bound) or {}).items():
                    its = given.get(resource, value)
                    if (quantity.parse(its) - quantity.parse(value)) * breaks > 0:
                        most = "most" if bound == "max" else "least"
                        name = limits["metadata"]["name"]
                        text = f"resources.{resource}: {its}: LimitRange {name} allows at {most}"
                        yield "failed", f"{text} {value}"


def _nodes(cluster: Cluster, spec: RunSpec) -> Iterator[Said]:
    """Say whether the pods have room now, where the user may see all nodes and pods."""
    try:
        nodes = cluster.list("Node", most=MOST_NODES + 1)
        pods = cluster.list("Pod", everywhere=True) if len(nodes) <= MOST_NODES else []
    except ForbiddenError:
        return
    if not nodes or len(nodes) > MOST_NODES:
        return
    pod = _pod(spec)
    asked, free = quantity.asked(pod), node_capacity.free(pod, nodes, pods)
    places = {name: node_capacity.pods(asked, amounts) for name, amounts in free.items()}
    fitting = (max if spec.one_node else sum)(places.values() or [0])
    if fitting >= spec.workers:
        yield "ok", "room for all"
        return
    each = _amounts(asked, asked)
    rest = "; ".join(f"{name}: {_amounts(asked, free[name])}" for name in list(free)[:3])
    yield (
        "warning",
        f"{spec.workers} pods ask for {each} each, and there is room for {fitting} now (free on "
        f"{rest or 'no node that takes them'}); the others wait: lower resources or workers if "
        "none will come",
    )


def _amounts(names: Iterable[str], amounts: quantity.Amounts) -> str:
    shown = (f"{quantity.show(n, amounts.get(n, Decimal(0)))} {n}" for n in names if n != "pods")
    return " and ".join(shown)


def _queue(cluster: Cluster, spec: RunSpec) -> Iterator[Said]:
    if spec.queue is None:
        return
    if cluster.get("LocalQueue", spec.queue) is None:
        yield (
            "failed",
            f"{spec.queue}: no such LocalQueue in namespace {cluster.namespace}, or Kueue is not "
            "installed; see infra/queue, or leave queue out",
        )
    else:
        yield "ok", spec.queue


def _service_account(cluster: Cluster, spec: RunSpec) -> Iterator[Said]:
    account = spec.service_account
    if account and cluster.get("ServiceAccount", account) is None:
        yield (
            "failed",
            f"{account}: not in namespace {cluster.namespace}; create it, see infra/README.md",
        )


def _volumes(cluster: Cluster, spec: RunSpec) -> Iterator[Said]:
    for name in dict.fromkeys(each.claim for each in spec.volumes):
        claim = cluster.get("PersistentVolumeClaim", name)
        if claim is None:
            yield (
                "failed",
                f"{name}: no such claim in namespace {cluster.namespace}; create it, or correct "
                "volumes",
            )
        elif fault := claims.fault(claim, spec):
            yield "failed", fault
        elif claims.bound(claim):
            yield "ok", f"{name}: {' and '.join(claims.modes(claim))}"
        else:
            about = f"involvedObject.uid={claim['metadata']['uid']}"
            reason, words = claims.waiting(claim, cluster.list("Event", fields=about))
            state: State = "ok" if reason in claims.WAITS else "warning"
            text = f"{name}: not bound, and pods wait until it is: {shorten(words, 120)}"
            yield state, text


def _names(_: Cluster, spec: RunSpec) -> Iterator[Said]:
    last = f"{spec.name}-{spec.workers - 1}"
    yield "ok", f"up to {last}-xxxxx, {len(last) + POD_SUFFIX} of 63 characters"


def _image(_: Cluster, spec: RunSpec) -> Iterator[Said]:
    if spec.pinned():
        yield "ok", spec.image
    else:
        yield (
            "warning",
            f"{spec.image}: not pinned, so a pod that is started again may run another version; "
            "give a tag of its own or a digest",
        )


def _folders(spec: RunSpec, configs: Sequence[TrainConfig]) -> Iterator[Check]:
    config, sha256 = spec.config, None
    state: State
    try:
        if volume := volumes.holding(spec.data, spec.volumes):
            yield Check("data", "ok", f"{spec.data}: {_later(volume)}")
        else:
            source = run_store.open_folder(spec.data, spec.variables)
            data = fit.load(source, configs, spec.workers * max(1, spec.resources.gpus))
            sha256 = data.sha256
            yield Check("data", "ok", _described(spec, data))
            if config.model is not None:
                state, text = model_check.examine(spec, data.input_shape, data.classes)
                yield Check("model", state, text)
    except UnavailableError as error:
        yield Check("data", "warning", f"not seen from here: {one_line(error)}")
        yield Check("run folder", "warning", f"{config.run}: not seen from here either")
        return
    except UserError as error:
        yield failed("data", error)
        return
    if volume := volumes.holding(config.run, spec.volumes):
        yield Check("run folder", "ok", f"{config.run}: {_later(volume)}")
        return
    try:
        _claim(spec, sha256)
    except UserError as error:
        if isinstance(error, UnavailableError):
            yield Check("run folder", "warning", one_line(error))
        else:
            yield failed("run folder", error)
    else:
        yield Check("run folder", "ok", f"{config.run}: can be written, once where it must")


def _later(volume: Volume) -> str:
    return f"on claim {volume.claim}, which only pods see; the run checks it first of all"


def _described(spec: RunSpec, data: Dataset) -> str:
    training = data.samples + len(data.validation.images)
    images = f"{training:,} training and {len(data.test.images):,} test images"
    return f"{spec.data}: {images}, sha256 {data.sha256[:12]}"


def _claim(spec: RunSpec, data_sha256: str | None) -> None:
    """Check that the run's folder is no other run's, and its store good; leave it as it was.

    ``data_sha256`` is None where the data are not seen from here.
    """
    folder = run_store.of_spec(spec)
    if data_sha256:
        run_folder.check(folder, spec.config, data_sha256, spec.archive)
    probe.check(folder)


def _objects(cluster: Cluster, spec: RunSpec) -> Iterator[Check]:
    try:
        if cluster.get("Job", spec.name) is not None:
            yield Check("objects", "ok", f"{spec.name} is there already")
        else:
            examined = dry_run.examine(cluster, manifest.objects(spec))
            said_before = f'serviceaccount "{spec.service_account}" not found'
            yield from (Check(*said) for said in examined if said_before not in said[2])
    except UserError as error:
        yield failed("objects", error)
