"""The Pod Security Standard "restricted", for manifests that no API server has seen yet.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/, which names the
fields and their allowed values. Where releases differ the stricter one counts, so that a pod
without violations is admitted by all from 1.25 on: the oldest list of sysctls and SELinux types,
the rule about hosts of probes (from 1.34), and no exception for ``hostUsers: false`` (from 1.35)
or for Windows.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]

_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_syncookies",
}
_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t"}
_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(pod_spec: Object, annotations: Mapping[str, str] | None = None) -> list[str]:
    """Return what the level forbids in a pod, a line each: the field, its value, the rule.

    Args:
        pod_spec: a PodSpec as in a manifest, for a Job's pods ``spec.template.spec``.
        annotations: the pod's, which once chose the AppArmor profile.
    """
    found = [*_pod(pod_spec), *_security("spec", _get(pod_spec, "securityContext"))]
    for key, value in (annotations or {}).items():
        allowed = value in ("", "runtime/default") or value.startswith("localhost/")
        if key.startswith(_APPARMOR) and not allowed:
            found.append(f"annotation {key}: {value!r} is neither runtime/default nor localhost/*")
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod_spec.get(kind) or []:
            where = f"{kind}[{container.get('name')}]"
            found += _privileges(where, container)
            found += _reach(where, container)
            found += _security(where, _get(container, "securityContext"))
            found += _inherited(where, container, pod_spec)
    return found


def _get(value: Object, *path: str) -> Any:
    """Return what lies at a path, {} where nothing does."""
    for key in path:
        value = value.get(key) or {}
    return value


def _pod(spec: Object) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"spec.{key}: must be false"
    for volume in spec.get("volumes") or []:
        for kind in volume.keys() - {"name"} - _VOLUMES:
            yield f"spec.volumes[{volume.get('name')}].{kind}: is no allowed type of volume"
    for sysctl in _get(spec, "securityContext").get("sysctls") or []:
        if sysctl["name"] not in _SYSCTLS:
            yield f"spec.securityContext.sysctls: {sysctl['name']} is not a safe one"


def _security(where: str, context: Object) -> Iterator[str]:
    """What neither a pod's nor a container's security context may hold."""
    at = f"{where}.securityContext"
    if _get(context, "windowsOptions").get("hostProcess"):
        yield f"{at}.windowsOptions.hostProcess: must be false"
    for key in ("appArmorProfile", "seccompProfile"):
        kind = _get(context, key).get("type")
        if context.get(key) is not None and kind not in ("RuntimeDefault", "Localhost"):
            yield f"{at}.{key}.type: {kind} is neither RuntimeDefault nor Localhost"
    selinux = _get(context, "seLinuxOptions")
    if selinux.get("type", "") not in _SELINUX_TYPES:
        yield f"{at}.seLinuxOptions.type: {selinux['type']} is not allowed"
    for key in ("user", "role"):
        if selinux.get(key):
            yield f"{at}.seLinuxOptions.{key}: must not be set"
    if context.get("runAsNonRoot") is False:
        yield f"{at}.runAsNonRoot: must not be false"
    if context.get("runAsUser") == 0:
        yield f"{at}.runAsUser: must not be 0"


def _inherited(where: str, container: Object, spec: Object) -> Iterator[str]:
    """What a container must have, from its own security context or its pod's."""
    own, pod = _get(container, "securityContext"), _get(spec, "securityContext")
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is None:
        yield f"{where}.securityContext.runAsNonRoot: must be true here or in the pod"
    if own.get("seccompProfile") is None and pod.get("seccompProfile") is None:
        yield f"{where}.securityContext.seccompProfile.type: must be set here or in the pod"


def _privileges(where: str, container: Object) -> Iterator[str]:
    """What a container must give up."""
    at = f"{where}.securityContext"
    context = _get(container, "securityContext")
    if context.get("privileged"):
        yield f"{at}.privileged: must be false"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{at}.allowPrivilegeEscalation: must be false"
    if context.get("procMount", "Default") != "Default":
        yield f"{at}.procMount: must be Default"
    capabilities = _get(context, "capabilities")
    if "ALL" not in (capabilities.get("drop") or []):
        yield f"{at}.capabilities.drop: must include ALL"
    for name in set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield f"{at}.capabilities.add: {name} is not NET_BIND_SERVICE"


def _reach(where: str, container: Object) -> Iterator[str]:
    """How a container may use the node's network."""
    for port in container.get("ports") or []:
        if port.get("hostPort"):
            yield f"{where}.ports.hostPort: {port['hostPort']} must be 0"
    handlers = [(key, container) for key in ("livenessProbe", "readinessProbe", "startupProbe")]
    handlers += [(key, _get(container, "lifecycle")) for key in ("postStart", "preStop")]
    for key, holder in handlers:
        for action in ("httpGet", "tcpSocket"):
            if host := _get(holder, key, action).get("host"):
                yield f"{where}.{key}.{action}.host: {host} must not be set"
