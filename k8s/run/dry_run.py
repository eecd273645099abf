"""What the API server says to a run's objects and to one of its pods; nothing is created.

Policies for pods speak when a controller creates the pod, long after the Job was taken.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from k8s.client.cluster import Cluster
from k8s.client.refusals import ConflictError, ForbiddenError
from k8s.run.model_check import State
from trainer.common.text import one_line
from trainer.errors import ConfigError

Object = dict[str, Any]
Said = tuple[State, str]

# The first release in which Jobs count the failures of each rank and replace pods that are gone,
# without a feature gate: https://kubernetes.io/docs/concepts/workloads/controllers/job/
OLDEST = (1, 29)
SUPPORTED = f"{OLDEST[0]}.{OLDEST[1]}, the oldest release that Trainyard supports"
_SINCE_THEN = {
    f"spec.{name}" for name in ("backoffLimitPerIndex", "maxFailedIndexes", "podReplacementPolicy")
}


def examine(cluster: Cluster, items: Sequence[Object]) -> Iterator[tuple[str, State, str]]:
    """Yield name, state and words of what is said to the objects of a run, its Job last."""
    good = True
    for item in items:
        for state, words in _objects(cluster, item):
            good &= state != "failed"
            yield "objects", state, f"{item['kind']}: {words}"
    if good:
        yield "objects", "ok", "the API server would take all of them"
    yield from (("pods", state, words) for state, words in _pods(cluster, items[-1]))


def is_older(version: str) -> bool:
    """Whether a release, such as ``v1.27.16-gke.100``, is older than what is supported."""
    parts = re.match(r"v(\d+)\.(\d+)", version)
    return parts is not None and (int(parts[1]), int(parts[2])) < OLDEST


def _objects(cluster: Cluster, item: Object) -> Iterator[Said]:
    try:
        yield from _tried(cluster, item)
    except ConflictError:
        name = item["metadata"]["name"]
        yield "warning", f"{name} of an earlier run is there; submitting waits until it is gone"
    except ConfigError as error:
        yield "failed", one_line(error)


def _pods(cluster: Cluster, job: Object) -> Iterator[Said]:
    good = True
    try:
        for said in _tried(cluster, first_pod(job)):
            good &= said[0] != "failed"
            yield said
    except ForbiddenError as error:
        yield "warning", f"policies for pods were not tried: {one_line(error)}"
    except ConfigError as error:
        full = "exceeded quota" in str(error)  # as the check of quotas says
        yield "warning" if full else "failed", one_line(error)
    else:
        if good:
            yield "ok", "the API server would take them"


def first_pod(job: Object) -> Object:
    """Return the pod of rank 0 as the Job's controller makes it, but for its owner."""
    name, metadata = job["metadata"]["name"], job["spec"]["template"]["metadata"]
    index = {"batch.kubernetes.io/job-completion-index": "0"}
    ours = {"batch.kubernetes.io/job-name": name, "job-name": name, **index}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **{key: job["metadata"][key] for key in ("namespace",) if key in job["metadata"]},
            "name": f"{name}-0-xxxxx",
            "labels": {**metadata["labels"], **ours},
            "annotations": {**(metadata.get("annotations") or {}), **index},
        },
        "spec": {**job["spec"]["template"]["spec"], "hostname": f"{name}-0"},
    }


def _tried(cluster: Cluster, item: Object) -> Iterator[Said]:
    """Create an object for trial.

    Raises:
        ConflictError: one of its name is there.
        ConfigError: it is refused.
    """
    warned = len(cluster.warnings)
    answer = cluster.create(item, dry_run=True)
    for warning in cluster.warnings[warned:]:
        unknown = re.search(r'unknown field "(?:spec\.template\.)?([^"]*)"', warning)
        if "violate PodSecurity" in warning:
            yield "failed", warning
        elif unknown and (item["kind"] == "Pod" or "spec.template." in warning):
            yield "failed", f"{warning}; correct it in the run file"
        elif not unknown:
            yield "warning", warning
    lost = list(dropped(item, answer))
    if since_then := sorted(_SINCE_THEN & set(lost)):
        yield (
            "warning",
            f"the API server drops {', '.join(since_then)}: it is older than {SUPPORTED}; a rank "
            "that is lost may be counted or replaced wrongly",
        )
    said = " ".join(cluster.warnings[warned:])
    if others := [each for each in lost if each not in _SINCE_THEN and f'"{each}"' not in said]:
        words = "the API server, or a policy, drops"
        yield "warning", f"{words} {', '.join(others)}; the run will be without"


def dropped(sent: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of what was sent and is not in the answer, such as ``spec.suspend``.

    What says nothing, such as ``false`` and empty lists, is left out of answers.
    """
    if isinstance(sent, dict) and isinstance(kept, dict):
        for key, value in sent.items():
            where = f"{path}.{key}" if path else key
            if key in kept:
                yield from dropped(value, kept[key], where)
            elif value or (value == 0 and value is not False):
                yield where
    elif isinstance(sent, list) and isinstance(kept, list):
        named = {each["name"]: each for each in kept if isinstance(each, dict) and "name" in each}
        for number, value in enumerate(sent):
            name = value.get("name") if isinstance(value, dict) else None
            there = named.get(name) if name else (kept[number] if number < len(kept) else None)
            if there is None:
                yield f"{path}[{name or number}]"
            else:
                yield from dropped(value, there, f"{path}[{name or number}]")
