"""The checker of Pod Security: a good pod passes, and each rule catches what breaks it."""

from typing import Any

import pytest

from k8s.pod_security import violations

Path = tuple[str | int, ...]
KINDS = ("containers", "initContainers", "ephemeralContainers")


def good() -> dict[str, Any]:
    pod: dict[str, Any] = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    for kind in KINDS:
        context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        pod[kind] = [{"name": "a", "securityContext": context}]
    return pod


IN_POD: list[tuple[Path, Any]] = [
    (("hostNetwork",), True),
    (("hostPID",), True),
    (("hostIPC",), True),
    (("volumes",), [{"name": "v", "hostPath": {"path": "/"}}]),
    (("volumes",), [{"name": "v", "nfs": {"server": "s", "path": "/"}}]),
    (("securityContext", "sysctls"), [{"name": "kernel.msgmax", "value": "1"}]),
]
# In the security context of the pod and of every container.
IN_CONTEXT: list[tuple[Path, Any]] = [
    (("windowsOptions",), {"hostProcess": True}),
    (("appArmorProfile",), {"type": "Unconfined"}),
    (("seccompProfile",), {"type": "Unconfined"}),
    (("seccompProfile",), {}),
    (("seLinuxOptions",), {"type": "spc_t"}),
    (("seLinuxOptions",), {"user": "system_u"}),
    (("seLinuxOptions",), {"role": "system_r"}),
    (("runAsNonRoot",), False),
    (("runAsUser",), 0),
]
IN_CONTAINER: list[tuple[Path, Any]] = [
    (("securityContext", "privileged"), True),
    (("securityContext", "allowPrivilegeEscalation"), True),
    (("securityContext", "allowPrivilegeEscalation"), None),
    (("securityContext", "capabilities"), None),
    (("securityContext", "capabilities", "drop"), ["NET_RAW"]),
    (("securityContext", "capabilities", "add"), ["NET_BIND_SERVICE", "SYS_ADMIN"]),
    (("securityContext", "procMount"), "Unmasked"),
    (("ports",), [{"containerPort": 80, "hostPort": 80}]),
    (("livenessProbe",), {"httpGet": {"host": "10.0.0.1", "port": 80}}),
    (("readinessProbe",), {"tcpSocket": {"host": "10.0.0.1", "port": 80}}),
    (("startupProbe",), {"httpGet": {"host": "10.0.0.1", "port": 80}}),
    (("lifecycle", "postStart"), {"httpGet": {"host": "10.0.0.1", "port": 80}}),
    (("lifecycle", "preStop"), {"tcpSocket": {"host": "10.0.0.1", "port": 80}}),
]
CONTAINERS: list[Path] = [(kind, 0) for kind in KINDS]
CASES: list[tuple[Path, Any]] = [
    *IN_POD,
    *((("securityContext", *path), value) for path, value in IN_CONTEXT),
    *(((*at, "securityContext", *path), value) for at in CONTAINERS for path, value in IN_CONTEXT),
    *(((*at, *path), value) for at in CONTAINERS for path, value in IN_CONTAINER),
]


def changed(path: Path, value: Any) -> dict[str, Any]:
    pod = good()
    holder: Any = pod
    for key in path[:-1]:
        holder = holder[key] if isinstance(key, int) else holder.setdefault(key, {})
    holder[path[-1]] = value
    return pod


def test_a_good_pod_has_no_violations() -> None:
    assert violations(good()) == []
    allowed: list[tuple[Path, Any]] = [
        (("containers", 0, "securityContext", "capabilities", "add"), ["NET_BIND_SERVICE"]),
        (("securityContext", "seccompProfile"), {"type": "Localhost", "localhostProfile": "p"}),
        (("securityContext", "sysctls"), [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]),
        (("securityContext", "seLinuxOptions"), {"type": "container_t", "level": "s0"}),
        (("containers", 0, "readinessProbe"), {"httpGet": {"path": "/", "port": 80}}),
        (("containers", 0, "ports"), [{"containerPort": 80}]),
        (("volumes",), [{"name": "v", "secret": {"secretName": "s"}}]),
    ]
    for path, value in allowed:
        assert violations(changed(path, value)) == []


@pytest.mark.parametrize(("path", "value"), CASES, ids=str)
def test_every_rule_catches_one_breach(path: Path, value: Any) -> None:
    found = violations(changed(path, value))
    assert len(found) == 1
    # The line names the field and where it is.
    assert str(next(key for key in reversed(path) if isinstance(key, str))) in found[0]


@pytest.mark.parametrize("field", ["runAsNonRoot", "seccompProfile"])
def test_what_the_pod_does_not_set_every_container_must(field: str) -> None:
    pod = good()
    value = pod["securityContext"].pop(field)
    assert len(violations(pod)) == 3
    for kind in KINDS:
        pod[kind][0]["securityContext"][field] = value
    assert violations(pod) == []


def test_annotations_of_apparmor() -> None:
    key = "container.apparmor.security.beta.kubernetes.io/a"
    assert violations(good(), {key: "runtime/default", "other": "unconfined"}) == []
    assert len(violations(good(), {key: "unconfined"})) == 1
