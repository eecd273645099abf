"""Patches of a run file: what they change, and what they may not."""

from collections.abc import Iterator
from typing import Any

import pytest

from k8s import manifest, patches, pod_security, quantity, run_file
from k8s.diagnosis import node_capacity
from k8s.run import dry_run, reader_pod
from tests.support import series
from tests.support.runfiles import FULL
from trainer.errors import ConfigError

POD = "/spec/template/spec"
TRAINER = f"{POD}/containers/0"


def patched(*patches: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = run_file.parse({**FULL, "patches": list(patches)}, "run.yaml")
    return {item["kind"]: item for item in manifest.objects(spec)}


def step(op: str, path: str, value: Any = None, **others: Any) -> dict[str, Any]:
    return {"op": op, "path": path, "value": value, **others}


def test_patches_change_what_no_setting_is_for() -> None:
    before = patched()
    after = patched(
        step("add", f"{POD}/initContainers", [{"name": "proxy", "image": "proxy:1"}]),
        step("replace", f"{POD}/terminationGracePeriodSeconds", 90),
        step("add", f"{TRAINER}/env/-", {"name": "A", "value": "1"}),
        step("remove", f"{TRAINER}/resources/limits/memory"),
        step("add", "/metadata/annotations/a~1b", "c", kind="Service"),
    )
    pod = after["Job"]["spec"]["template"]["spec"]
    assert pod["initContainers"] == [{"name": "proxy", "image": "proxy:1"}]
    assert pod["terminationGracePeriodSeconds"] == 90
    assert pod["containers"][0]["env"][-1] == {"name": "A", "value": "1"}
    assert "memory" not in pod["containers"][0]["resources"]["limits"]
    assert after["Service"]["metadata"]["annotations"]["a/b"] == "c"
    assert list(after) == list(before)
    assert after["ConfigMap"] == before["ConfigMap"]


def test_an_object_is_set_even_to_null() -> None:
    assert patched(step("add", "/spec/x", None))["Job"]["spec"]["x"] is None


@pytest.mark.parametrize(
    ("patch", "pointer"),
    [
        (step("replace", "/spec/completions", 3), "/spec/completions"),
        (step("replace", "/spec/parallelism", 1), "/spec/parallelism"),
        (step("remove", "/spec/podReplacementPolicy"), "/spec/podReplacementPolicy"),
        (step("add", "/spec/podFailurePolicy/rules/-", {}), "/spec/podFailurePolicy"),
        (step("add", "/spec/successPolicy", {"rules": []}), "/spec/successPolicy"),
        (step("replace", "/spec/suspend", False), "/spec/suspend"),
        (step("replace", f"{POD}/restartPolicy", "OnFailure"), f"{POD}/restartPolicy"),
        (step("remove", f"{POD}/subdomain"), f"{POD}/subdomain"),
        (step("add", f"{POD}/hostname", "a"), f"{POD}/hostname"),
        (step("add", f"{TRAINER}/command", ["sh"]), f"{TRAINER}/command"),
        (step("add", f"{TRAINER}/args/-", "--seed=3"), f"{TRAINER}/args"),
        (step("replace", f"{TRAINER}/image", "other:1"), f"{TRAINER}/image"),
        (step("add", f"{POD}/containers/0", {"name": "first"}), f"{TRAINER}/name"),
        (step("remove", f"{TRAINER}"), f"{TRAINER}/name"),
        (step("remove", f"{TRAINER}/ports/1"), f"{TRAINER}/ports"),
        (step("remove", f"{TRAINER}/volumeMounts/0"), f"{TRAINER}/volumeMounts/0"),
        (step("remove", f"{POD}/volumes/0"), f"{POD}/volumes/0"),
        (step("remove", f"{TRAINER}/env"), f"{TRAINER}/env"),
        (
            step("add", f"{TRAINER}/env/-", {"name": "JOB_COMPLETION_INDEX", "value": "0"}),
            f"{TRAINER}/env",
        ),
        (
            step("add", f"{TRAINER}/env/0", {"name": "TRAINYARD_WORKERS", "value": "3"}),
            f"{TRAINER}/env",
        ),
        (step("remove", "/metadata/labels"), "/metadata/labels/app.kubernetes.io~1name"),
        (step("replace", "/metadata/namespace", "b"), "/metadata/namespace"),
        (
            step("replace", "/metadata/annotations/trainyard~1run-file", "{}"),
            "/metadata/annotations/trainyard~1run-file",
        ),
        (step("replace", "", {}), ""),
        (step("remove", "/spec/clusterIP", kind="Service"), "/spec/clusterIP"),
        (step("remove", "/spec/ports/1", kind="Service"), "/spec/ports/1"),
        (step("replace", "/spec/ingress", [], kind="NetworkPolicy"), "/spec/ingress/0"),
    ],
)
def test_a_patch_that_would_break_the_gang_is_refused(patch: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ConfigError) as error:
        patched(step("add", "/spec/template/spec/dnsPolicy", "Default"), patch)
    if pointer:
        assert str(error.value).startswith(
            f"patches.1: {patch['op']} {patch['path']!r}: changes {pointer} of the "
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "patch",
    [
        step("remove", "/spec/none"),
        step("replace", "/spec/a/b", 1),
        step("add", f"{POD}/containers/9", {}),
        step("add", f"{POD}/containers/x", {}),
        step("add", "/spec/completions/a", 1),
        step("add", "/metadata/name/~9", 1),
    ],
)
def test_a_patch_that_does_not_apply_ends_in_one_line(patch: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"patches.0: .* does not apply to the Job: ") as error:
        patched(patch)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (step("add", f"{POD}/containers/-", 3), f"{POD}/containers/1: 3: must be a mapping"),
        (step("add", f"{POD}/containers/-", {}), f"{POD}/containers/1: {{}}: must have a name"),
        (step("add", f"{POD}/initContainers", 3), f"{POD}/initContainers: 3: must be a list"),
        (step("add", f"{POD}/nodeSelector", ["a"]), f"{POD}/nodeSelector: ['a']: must be a map"),
        (step("replace", f"{TRAINER}/resources", 5), f"{TRAINER}/resources: 5: must be a mapping"),
        (
            step("add", "/spec/template/metadata/annotations", 3),
            "/spec/template/metadata/annotations: 3: must be a mapping; correct its value",
        ),
        (
            step("add", f"{TRAINER}/securityContext/capabilities", {"drop": [{}]}),
            f"{TRAINER}/securityContext/capabilities/drop/0: {{}}: must be a text",
        ),
    ],
)
def test_a_patch_that_gives_a_wrong_type_ends_in_one_line(
    patch: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        patched(patch)
    where = f"patches.0: {patch['op']} {patch['path']!r}: "
    assert str(error.value).startswith(f"{where}{words}")
    assert "\n" not in str(error.value)


RICH = {
    "appArmorProfile": {"type": "Localhost"},
    "seccompProfile": {"type": "Localhost"},
    "seLinuxOptions": {"type": "a", "user": "b"},
    "windowsOptions": {"hostProcess": True},
    "capabilities": {"add": ["A"], "drop": ["ALL"]},
    "sysctls": [{"name": "a", "value": "1"}],
}
SIDECAR = {
    "name": "sidecar",
    "securityContext": RICH,
    "env": [{"name": "A", "value": "1"}],
    "ports": [{"hostPort": 1}],
    "volumeMounts": [{"name": "logs", "mountPath": "/logs"}],
    "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
    "livenessProbe": {"httpGet": {"host": "a"}},
    "lifecycle": {"preStop": {"tcpSocket": {"host": "a"}}},
    "restartPolicy": "Always",
}
WRONG: tuple[Any, ...] = (3, None, [3], [{}], {"name": []})


def _pointers(value: Any, pointer: str = "") -> Iterator[str]:
    parts: dict[Any, Any] = {}
    if isinstance(value, dict):
        parts = value
    elif isinstance(value, list):
        parts = dict(enumerate(value))
    for key, part in parts.items():
        below = f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"
        yield below
        yield from _pointers(part, below)


def _read(job: dict[str, Any]) -> None:
    """Read a Job as all checks before its creation do."""
    pod = manifest.pod(job)
    pod_security.violations(pod)
    taint = {"key": "a", "effect": "NoSchedule"}
    node = {"metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {"taints": [taint]}}
    node_capacity.free(pod, [node], [])
    quantity.asked(pod)
    quantity.limited(pod)
    list(dry_run.dropped(job, {}))
    list(dry_run.dropped(dry_run.first_pod(job), {"spec": {"containers": [{"name": "a"}]}}))
    reader_pod.reader(pod, "/runs", [])


def test_no_patch_makes_a_job_that_the_checks_cannot_read() -> None:
    job = patched(
        step("add", f"{POD}/initContainers", [SIDECAR]),
        step("add", f"{POD}/securityContext", RICH),
    )["Job"]
    _read(job)
    refused = 0
    read = [each for each in _pointers(manifest.pod(job), POD) if "/containers/0/" not in each]
    for number, pointer in enumerate([*read, "/spec/template/metadata/annotations"]):
        for value in WRONG if series.LONG else [WRONG[number % len(WRONG)]]:
            patch = patches.Patch(kind="Job", op="replace", path=pointer, value=value)
            try:
                [changed] = patches.apply([job], [patch])
            except ConfigError as error:
                assert "\n" not in str(error)  # noqa: PT017 - most are refused
                refused += 1
            else:
                _read(changed)
    assert refused > 20
