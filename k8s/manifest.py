"""The objects of a run: the manifests of this folder, filled in. Pure but for reading them."""

import base64
import copy
import functools
import gzip
from pathlib import Path
from typing import Any

import yaml

from k8s import patches, quantity, stores, volumes
from k8s.run_file import RunSpec
from trainer.common import yaml_text
from trainer.runs import user_code

Object = dict[str, Any]

FOLDER = Path(__file__).parent / "manifests"
FILES = ("config.yaml", "networkpolicy.yaml", "service.yaml", "job.yaml")
INSTANCE = "app.kubernetes.io/instance"
QUEUE = "kueue.x-k8s.io/queue-name"  # https://kueue.sigs.k8s.io/docs/tasks/run/jobs/
RUN_FILE = "trainyard/run-file"  # annotation with the run file, as RunSpec.canonical writes it
ENDED = "trainyard/ended"  # annotation that says how a run ended, of who looked first
SWEEP = "trainyard/sweep"  # label with the name of the sweep that a run is a part of
GPU = "nvidia.com/gpu"
# https://azure.github.io/azure-workload-identity/docs/topics/service-account-labels-and-annotations.html
AZURE_IDENTITY = "azure.workload.identity/use"
CODE = "code.tar.gz"  # of the ConfigMap
MOST_CODE = 900_000  # bytes; the API server takes ConfigMaps of 1 MiB


@functools.cache
def _manifests() -> tuple[Object, ...]:
    return tuple(yaml_text.parse((FOLDER / name).read_text(encoding="utf-8")) for name in FILES)


def objects(spec: RunSpec) -> list[Object]:
    """Return ConfigMap, NetworkPolicy, Service and Job of a run, in this order.

    Raises:
        ConfigError: a patch does not apply, or breaks the gang.
    """
    config, policy, service, job = copy.deepcopy(_manifests())
    for item in (config, policy, service, job):
        _name(item, spec)
    config["data"] = {"config.yaml": settings(spec)}
    if packed := carried_code(spec):
        config["binaryData"] = {CODE: base64.b64encode(packed).decode()}
    from_own_pods = policy["spec"]["ingress"][0]["from"][0]
    for each in (policy["spec"], from_own_pods):
        each["podSelector"]["matchLabels"][INSTANCE] = spec.name
    service["spec"]["selector"][INSTANCE] = spec.name
    _fill_job(job, spec)
    if port := spec.config.metrics_port:
        _serve_metrics(policy, job, port)
    return patches.apply([config, policy, service, job], spec.patches)


def as_yaml(items: list[Object]) -> str:
    """Return objects as YAML documents, the same text for the same objects."""
    text: str = yaml.dump_all(
        items, Dumper=yaml_text.Dumper, sort_keys=False, width=100, explicit_start=True
    )
    return text


def settings(spec: RunSpec) -> str:
    """Return the trainer's settings as it reads them: what the run file gives, and no default."""
    given = dict(spec.train)
    if spec.config.model is None:  # its settings would come with its name
        given = {"preset": spec.config.preset, **given}
    if spec.code:
        given["code"] = spec.code
    placed = {"data": spec.data, "run": spec.run_uri, "workers": spec.workers, "ship_logs": True}
    placed["log_format"] = "json"  # which status and diagnosis read
    text: str = yaml.dump({**given, **placed}, Dumper=yaml_text.Dumper)
    return text


def carried_code(spec: RunSpec) -> bytes | None:
    """Return the user's code as the ConfigMap carries it; None if there is none, or too much.

    The run's folder holds what is too large, before the Job starts.
    """
    packed = b"" if spec.archive is None else gzip.compress(spec.archive.data, mtime=0)
    return packed if 0 < len(packed) <= MOST_CODE else None


def selector(name: str | None = None) -> str:
    """Return the label selector of one run's objects, or of all runs'."""
    ours = "app.kubernetes.io/name=trainyard"
    return f"{ours},{INSTANCE}={name}" if name else ours


def pod(job: Object) -> Object:
    """Return the spec of a Job's pods."""
    return dict(job["spec"]["template"]["spec"])


def _name(item: Object, spec: RunSpec) -> None:
    metadata = item["metadata"]
    metadata["name"] = spec.name
    if spec.namespace:
        metadata["namespace"] = spec.namespace
    _describe(metadata, spec)


def _describe(metadata: Object, spec: RunSpec) -> None:
    metadata["labels"] |= spec.labels | {INSTANCE: spec.name}
    if spec.annotations:
        metadata.setdefault("annotations", {}).update(spec.annotations)


def _fill_job(job: Object, spec: RunSpec) -> None:
    job["metadata"]["annotations"][RUN_FILE] = spec.canonical()
    if spec.queue:
        job["metadata"]["labels"][QUEUE] = spec.queue
    if spec.sweep:
        job["metadata"]["labels"][SWEEP] = spec.sweep
    body = job["spec"]
    body["completions"] = body["parallelism"] = spec.workers
    body["backoffLimitPerIndex"] = spec.retries
    body["activeDeadlineSeconds"] = spec.deadline
    body["ttlSecondsAfterFinished"] = spec.ttl
    if spec.config.min_workers:  # the run has ended when rank 0 has, whoever is away
        body["successPolicy"] = {"rules": [{"succeededIndexes": "0"}]}
    if spec.queue:
        body["suspend"] = True  # Kueue lifts it when it admits the run
    _describe(body["template"]["metadata"], spec)
    labels = body["template"]["metadata"]["labels"]
    if spec.service_account and stores.AZURE in map(stores.of, (spec.data, spec.run)):
        labels[AZURE_IDENTITY] = "true"
    _fill_pod(body["template"]["spec"], spec)


def _fill_pod(pod: Object, spec: RunSpec) -> None:
    pod["subdomain"] = spec.name
    pod["volumes"][0]["configMap"]["name"] = spec.name
    if spec.node_selector:
        pod["nodeSelector"] = dict(spec.node_selector)
    pod["tolerations"] += [each.model_dump(exclude_none=True) for each in spec.tolerations]
    if spec.resources.gpus:  # as nodes with GPUs are tainted, by most clouds
        pod["tolerations"].append({"key": GPU, "operator": "Exists", "effect": "NoSchedule"})
    named = {
        "priorityClassName": spec.priority_class,
        "runtimeClassName": spec.runtime_class,
        "schedulerName": spec.scheduler_name,
        "serviceAccountName": spec.service_account,
        "imagePullSecrets": [{"name": name} for name in spec.image_pull_secrets],
        "affinity": _affinity(spec),
        "topologySpreadConstraints": [
            {"labelSelector": _pods(spec), **each} for each in spec.topology_spread
        ],
        "hostAliases": copy.deepcopy(spec.host_aliases),
        "dnsConfig": copy.deepcopy(spec.dns_config),
    }
    pod.pop("serviceAccountName")  # of the example
    pod |= {name: value for name, value in named.items() if value}
    _fill_container(pod["containers"][0], spec)
    volumes.fill_pod(pod, spec.volumes, spec.groups, _set_user(pod["securityContext"], spec))
    volumes.add_files(pod, spec.files)
    if spec.shm:
        volumes.add_memory(pod, spec.shm)


def _serve_metrics(policy: Object, job: Object, port: int) -> None:
    """Let the pods of all namespaces read the run's metrics; only rank 0 listens there."""
    [container] = job["spec"]["template"]["spec"]["containers"]
    container["ports"].append({"name": "metrics", "containerPort": port, "protocol": "TCP"})
    ports = [{"port": "metrics", "protocol": "TCP"}]
    policy["spec"]["ingress"].append({"from": [{"namespaceSelector": {}}], "ports": ports})


def _affinity(spec: RunSpec) -> Object:
    affinity: Object = copy.deepcopy(spec.affinity)
    if spec.one_node:  # pods go to the node of those that are there
        term = {"labelSelector": _pods(spec), "topologyKey": "kubernetes.io/hostname"}
        affinity["podAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    return affinity


def _pods(spec: RunSpec) -> Object:
    """Return the label selector of a run's pods."""
    return {"matchLabels": {"app.kubernetes.io/name": "trainyard", INSTANCE: spec.name}}


def _set_user(context: Object, spec: RunSpec) -> int | None:
    """Set the pods' user in their security context; return its group, None if not known."""
    if spec.run_as_user == "cluster":
        del context["runAsUser"], context["runAsGroup"]
        return None
    context["runAsUser"] = context["runAsGroup"] = spec.run_as_user
    return spec.run_as_user


def _fill_container(container: Object, spec: RunSpec) -> None:
    container["image"] = spec.image
    container["imagePullPolicy"] = spec.image_pull_policy
    variables = {each["name"]: each["value"] for each in container["env"]}
    variables |= {"TRAINYARD_WORKERS": str(spec.workers), "TRAINYARD_SERVICE": spec.name}
    variables["TF_NUM_INTRAOP_THREADS"] = str(max(1, int(quantity.parse(spec.resources.cpu))))
    if carried_code(spec):
        variables[user_code.ARCHIVE] = f"/etc/trainyard/{CODE}"
    variables |= spec.variables
    container["env"] = [{"name": name, "value": value} for name, value in variables.items()]
    if spec.environment_secrets:
        container["envFrom"] = [{"secretRef": {"name": n}} for n in spec.environment_secrets]
    resources = spec.resources
    asked = {"cpu": resources.cpu, "memory": resources.memory}
    asked |= {GPU: str(resources.gpus)} if resources.gpus else {}
    limits = {name: most for name, most in (asked | resources.limits).items() if most is not None}
    container["resources"] = {"requests": asked, "limits": limits}
