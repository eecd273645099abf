"""Patches of a run file: JSON Patch (RFC 6902) for what it has no setting for. Pure.

JSON Patch says of each list which item it changes. A strategic merge would need to know, of every
list in Kubernetes' API, which field identifies its items.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field, JsonValue

from trainer.common.text import printable, shortened
from trainer.config import Strict
from trainer.errors import ConfigError

Object = dict[str, Any]

# Set by the Job, so neither the environment of a run file nor a patch may.
RESERVED = ("JOB_COMPLETION_INDEX", "TF_CONFIG", "STORAGE_EMULATOR_HOST")
PREFIX = "TRAINYARD_"


def _below(pointer: str, names: str) -> tuple[str, ...]:
    return tuple(f"{pointer}/{name}" for name in names.split())


_LABELS = "app.kubernetes.io~1name app.kubernetes.io~1instance app.kubernetes.io~1managed-by"
_POD = "/spec/template/spec"
_TRAINER = f"{_POD}/containers/0"
# What a gang meets, counts its ranks and restarts by, as pointers into its objects (RFC 6901).
_EVERY = (
    *("/apiVersion", "/kind", "/metadata/name", "/metadata/namespace"),
    *_below("/metadata/labels", _LABELS),
)
_FIXED = {
    "Job": (
        "/metadata/annotations/trainyard~1run-file",
        "/metadata/labels/kueue.x-k8s.io~1queue-name",
        *_below(
            "/spec",
            "completionMode completions parallelism suspend selector manualSelector backoffLimit "
            "backoffLimitPerIndex maxFailedIndexes podFailurePolicy podReplacementPolicy "
            "successPolicy",
        ),
        *_below("/spec/template/metadata/labels", _LABELS),
        *_below(_POD, "subdomain hostname setHostnameAsFQDN restartPolicy volumes/0"),
        *_below(_TRAINER, "name image command args workingDir ports volumeMounts/0"),
    ),
    "Service": _below(
        "/spec", "clusterIP publishNotReadyAddresses selector ports/0 ports/1 ports/2"
    ),
    "NetworkPolicy": _below("/spec", "podSelector ingress/0"),
}
# What checks read of a Job before the API server has seen it: mappings, lists and texts. Items that
# have a name need it; null says nothing, as in the API.
_CONTEXT = {
    "windowsOptions": {},
    "appArmorProfile": {"type": str},
    "seccompProfile": {"type": str},
    "seLinuxOptions": {"type": str},
}
_ACTION: Object = {"httpGet": {}, "tcpSocket": {}}
_CONTAINER = {
    "name": str,
    "securityContext": {**_CONTEXT, "capabilities": {"add": [str], "drop": [str]}},
    "env": [{"name": str}],
    "ports": [{}],
    "volumeMounts": [{"name": str}],
    "resources": {"requests": {}, "limits": {}},
    **dict.fromkeys(("livenessProbe", "readinessProbe", "startupProbe"), _ACTION),
    "lifecycle": {"postStart": _ACTION, "preStop": _ACTION},
}
_POD_SPEC = {
    "containers": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "ephemeralContainers": [_CONTAINER],
    "nodeSelector": {},
    "securityContext": {**_CONTEXT, "sysctls": [{"name": str}]},
    "tolerations": [{}],
    "volumes": [{"name": str}],
}
_SHAPE = {"spec": {"template": {"metadata": {"annotations": {}}, "spec": _POD_SPEC}}}


class Patch(Strict):
    """A change of one of the run's objects, as JSON Patch (RFC 6902) describes it."""

    kind: Literal["Job", "Service", "NetworkPolicy"] = Field(
        "Job", description="Change the run's object of this kind."
    )
    op: Literal["add", "replace", "remove"] = Field(description="Do this to the value.")
    path: str = Field(
        pattern=r"^(/[^/]*)+$",
        description="Do it at this JSON pointer, such as /spec/template/spec/dnsPolicy.",
    )
    value: JsonValue = Field(None, description="Set this value; leave it out for remove.")


def apply(items: Sequence[Object], patches: Sequence[Patch]) -> list[Object]:
    """Return the objects of a run with its patches.

    Raises:
        ConfigError: a patch does not apply, changes what the gang depends on, or gives a value of
            a type that its field cannot have.
    """
    patched = {item["kind"]: item for item in items}
    for number, patch in enumerate(patches):
        before = patched[patch.kind]
        where = f"patches.{number}: {patch.op} {patch.path!r}"
        after = _changed(before, patch, where)
        if pointer := _broken(before, after):
            raise ConfigError(
                f"{where}: changes {pointer} of the {patch.kind}, which the gang depends on; leave "
                "it out, or use the run file's own setting"
            )
        for fault in _misshapen(after, _SHAPE if patch.kind == "Job" else {}, ""):
            raise ConfigError(f"{where}: {fault}; correct its value")
        patched[patch.kind] = after
    return list(patched.values())


def _changed(item: Object, patch: Patch, where: str) -> Object:
    from jsonpatch import JsonPatch, JsonPatchException
    from jsonpointer import JsonPointerException

    step: Object = {"op": patch.op, "path": patch.path}
    step |= {} if patch.op == "remove" else {"value": copy.deepcopy(patch.value)}
    try:
        changed = JsonPatch([step]).apply(item)
    except (JsonPatchException, JsonPointerException, TypeError) as error:
        raise ConfigError(f"{where}: does not apply to the {patch.kind}: {error}") from None
    return dict(changed)


def _broken(before: Object, after: Object) -> str | None:
    """Return the first pointer to what a gang depends on that differs, None if none does."""
    for pointer in (*_EVERY, *_FIXED[before["kind"]]):
        if _at(before, pointer) != _at(after, pointer):
            return pointer
    if before["kind"] == "Job" and _set_by_us(before) != _set_by_us(after):
        return f"{_TRAINER}/env"
    return None


def _misshapen(value: Any, shape: Any, pointer: str) -> Iterator[str]:
    """Yield what has another type than ``_SHAPE`` says, with the rule."""
    wrong = f"{pointer}: {shortened(printable(repr(value)), 60)}: must"
    if shape is str:
        if not isinstance(value, str):
            yield f"{wrong} be a text"
    elif not isinstance(value, type(shape)):
        yield f"{wrong} be {'a list' if isinstance(shape, list) else 'a mapping'}"
    elif isinstance(shape, list):
        for number, item in enumerate(value):
            yield from _misshapen(item, shape[0], f"{pointer}/{number}")
    else:
        if "name" in shape and value.get("name") is None:
            yield f"{wrong} have a name"
        for key in shape:
            if value.get(key) is not None:
                yield from _misshapen(value[key], shape[key], f"{pointer}/{key}")


def _at(item: Object, pointer: str) -> Any:
    from jsonpointer import JsonPointerException, resolve_pointer

    try:
        return resolve_pointer(item, pointer, None)
    except JsonPointerException:  # through a value that has no parts
        return None


def _set_by_us(job: Object) -> list[Any]:
    """Return the variables that only the Job sets, in their order."""
    given = _at(job, f"{_TRAINER}/env")
    if not isinstance(given, list):
        return []
    named = [each for each in given if isinstance(each, dict)]
    return [e for e in named if str(e.get("name")).startswith(PREFIX) or e.get("name") in RESERVED]
