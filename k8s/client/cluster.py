"""The API server of one cluster: plain dicts in and out.

Each request has a timeout. A request that may succeed later is repeated until a deadline; an
expired token is renewed by reading the kubeconfig, with its credential plugin, once more.
"""

import re
import time
from collections.abc import Iterator
from typing import Any

from k8s.client import kubeconfig as kubeconfigs
from k8s.client import log_lines
from k8s.client.refusals import (
    ClusterError,
    InvalidError,
    Object,
    no_answer,
    no_api,
    refused,
)
from trainer.common.untrusted_json import json_object
from trainer.errors import UnavailableError

Objects = list[Object]

# kind -> (group and version, plural, inside a namespace)
KINDS = {
    "Pod": ("v1", "pods", True),
    "Service": ("v1", "services", True),
    "ConfigMap": ("v1", "configmaps", True),
    "ServiceAccount": ("v1", "serviceaccounts", True),
    "Event": ("v1", "events", True),
    "Namespace": ("v1", "namespaces", False),
    "Node": ("v1", "nodes", False),
    "ResourceQuota": ("v1", "resourcequotas", True),
    "LimitRange": ("v1", "limitranges", True),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims", True),
    "Job": ("batch/v1", "jobs", True),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies", True),
    "LocalQueue": ("kueue.x-k8s.io", "localqueues", True),
    "Workload": ("kueue.x-k8s.io", "workloads", True),
}
# Groups that a cluster may lack, and then has none of their objects, with the versions of them that
# are read here, best first; the fields read here are the same in both.
OPTIONAL = {"kueue.x-k8s.io": ("v1beta2", "v1beta1")}
PAGE = 500  # objects, kubectl's --chunk-size
SHORTEST = 0.1  # seconds between two tries, whatever the server asks for
CONNECT, READ = 10.0, 30.0  # seconds: to connect, and of silence
WATCH = 25  # seconds of one watch: less than READ, and at its end the server tells its version
CONTAINER = "trainer"


class Cluster:
    """A cluster as one context of a kubeconfig reaches it, or as a pod inside of it does.

    ``warnings`` collects what the API server remarked about created objects, such as "would
    violate PodSecurity", in the order of the calls.
    """

    def __init__(
        self,
        context: str | None = None,
        namespace: str | None = None,
        kubeconfig: str | None = None,
        *,
        deadline: float = 30.0,
        pause: float = 0.5,
    ) -> None:
        """Choose the context and load its credentials; nothing is sent.

        Args:
            context: its name; the kubeconfig's current one where None.
            namespace: that of all requests; else the context's, else "default".
            kubeconfig: its path; else those of KUBECONFIG, else ~/.kube/config, else the
                configuration of the pod that this runs in.
            deadline: how long a request is tried again, seconds.
            pause: before the second try, seconds; doubled up to 8-fold.

        Raises:
            ConfigError: no kubeconfig, an unreadable one, an unknown context, or credentials
                that cannot be loaded.
        """
        self._path, self.context, default = kubeconfigs.choose(context, kubeconfig)
        self.namespace = namespace or default
        # Flags with which a command that the user is shown reaches the same cluster.
        self.flags = f" --namespace {self.namespace}" + (f" --context {context}" if context else "")
        self._deadline = deadline
        self._pause = pause
        self.warnings: list[str] = []
        self._served: dict[str, str] = {}  # group -> its version that is used
        self._api = kubeconfigs.connect(self._path, self.context)
        self.server: str = self._api.configuration.host

    def version(self) -> str:
        """Return the API server's version, such as "v1.36.2"."""
        return str(self._json("GET", "/version").get("gitVersion"))

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object, or None where there is none, or no such kind."""
        try:
            return self._json("GET", self._route(kind, name=name))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self,
        kind: str,
        *,
        labels: str = "",
        fields: str = "",
        everywhere: bool = False,
        most: int | None = None,
    ) -> list[Object]:
        """Return the objects of a kind that match selectors, of all namespaces if asked to.

        The API server leaves ``kind`` and ``apiVersion`` out of a list's items; who manages which
        field is left out here. A kind of Kueue's that the cluster does not know has no objects. No
        more than ``most`` are read, where more are not of interest.
        """
        return self.snapshot(kind, labels, fields, everywhere=everywhere, most=most)[0]

    def snapshot(
        self,
        kind: str,
        labels: str = "",
        fields: str = "",
        *,
        everywhere: bool = False,
        most: int | None = None,
    ) -> tuple[Objects, str]:
        """Return what ``list`` does, and its version, from which ``watch`` continues."""
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(most or PAGE)}
        items: Objects = []
        while True:
            try:
                path = self._route(kind, namespace="" if everywhere else None)
                page = self._json("GET", path, query)
            except ClusterError as error:
                if error.status == 404 and KINDS[kind][0] in OPTIONAL:
                    return [], ""
                if error.status != 410 or not items:
                    raise
                # The snapshot that the pages come from is gone. One answer cannot fall apart.
                items, query = [], query | {"limit": "", "continue": ""}
                continue
            items += map(_without_managers, page["items"])
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"] or len(items) == most:
                return items, page["metadata"].get("resourceVersion", "")

    def watch(self, kind: str, version: str, labels: str = "") -> Iterator[tuple[str, Object]]:
        """Yield changes since a version of a list: what happened, and the object after it.

        That is ADDED, MODIFIED, DELETED, or BOOKMARK, whose object has nothing but a version. It
        ends after WATCH seconds, and where the stream is cut: continue from the last version.

        Raises:
            ClusterError: the version is too old (410): list again.
        """
        query = {"labelSelector": labels, "resourceVersion": version, "watch": "true"}
        query |= {"allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH)}
        response = self._send("GET", self._route(kind), query, stream=True)
        if not response:
            return
        try:
            for line in log_lines.split(response.response):
                event = json_object(line or b"") or {}
                if event.get("type") == "ERROR":
                    status = event["object"]
                    raise ClusterError(str(status.get("message")), int(status.get("code") or 0))
                if event:
                    yield event["type"], _without_managers(event["object"])
        finally:
            response.response.close()

    def create(self, obj: Object, *, dry_run: bool = False) -> Object:
        """Create an object, in its own namespace if it names one; return it as stored.

        An answer that got lost is asked for again, so that ConflictError may mean one's own
        object: compare it.

        Raises:
            ConflictError: the name is taken.
            InvalidError: the object or its namespace is refused, or the namespace is missing.
        """
        path = self._route(obj["kind"], namespace=obj["metadata"].get("namespace"))
        response = self._send("POST", path, {"dryRun": "All"} if dry_run else {}, obj)
        self.warnings += _warnings(response.headers.getlist("Warning"))
        return self._object(response)

    def patch(self, kind: str, name: str, patch: Object) -> Object:
        """Apply a JSON merge patch (RFC 7386); return the object as stored."""
        return self._json("PATCH", self._route(kind, name=name), {}, patch)

    def delete(self, kind: str, name: str) -> bool:
        """Delete an object, and in the background what it owns; False if there is none."""
        query = {"propagationPolicy": "Background"}
        try:
            self._send("DELETE", self._route(kind, name=name), query)
        except ClusterError as error:
            if error.status == 404:
                return False
            raise
        return True

    def log(
        self,
        pod: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        most: int | None = None,
        since: str | None = None,
        deadline: float | None = None,
    ) -> Iterator[tuple[str, str]]:
        """Yield (RFC 3339 time, line) of a pod's log; a container not yet started has no lines.

        With ``follow`` it ends with the container, and also where the stream is cut or silent
        for 30 s: continue with ``since``, the last time received.

        Args:
            pod: its name.
            follow: wait for more lines.
            tail: the last lines only.
            most: the first bytes only.
            since: lines later than this only. The API counts in whole seconds; lines of the
                same second that were received before are left out here.
            deadline: seconds until there is an answer; None for the cluster's.

        Raises:
            UnavailableError: cut off, without ``follow``.
        """
        query = {"container": CONTAINER, "timestamps": "true", "sinceTime": since or ""}
        query |= {"follow": "true"} if follow else {}
        query |= {"tailLines": str(tail)} if tail is not None else {}
        query |= {"limitBytes": str(most)} if most is not None else {}
        path = self._route("Pod", name=pod) + "/log"
        try:
            response = self._send("GET", path, query, stream=True, deadline=deadline)
        except InvalidError as error:
            if "is waiting to start" in str(error):
                return
            raise
        whole = False
        if response:
            try:
                whole = yield from log_lines.stamped(log_lines.split(response.response), since)
            finally:
                response.response.close()
        if not (whole or follow):
            raise UnavailableError(f"{self._where()}: the log of {pod} was cut off; ask again")

    def can(self, verb: str, resource: str, *, group: str = "", subresource: str = "") -> bool:
        """Ask whether the user may do ``verb`` to a plural ``resource`` in the namespace."""
        wanted = {"verb": verb, "group": group, "resource": resource, "subresource": subresource}
        wanted["namespace"] = self.namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wanted},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self._json("POST", path, body=review)["status"]["allowed"])

    def _route(self, kind: str, *, name: str = "", namespace: str | None = None) -> str:
        version, plural, namespaced = KINDS[kind]
        if version in OPTIONAL:
            version = self._newest(version)
        namespace = self.namespace if namespace is None else namespace
        parts = ["/apis" if "/" in version else "/api", version]
        if namespaced and namespace:
            parts += ["namespaces", namespace]
        return "/".join([*parts, plural, *([name] if name else [])])

    def _newest(self, group: str) -> str:
        """Return group and version that the server serves and that is known here.

        Raises:
            ClusterError: the server has no such group (404).
        """
        if group not in self._served:
            found = self._json("GET", f"/apis/{group}").get("versions") or []
            served = [str(each.get("version")) for each in found]
            known = [each for each in OPTIONAL[group] if each in served]
            if not served:
                raise ClusterError(f"{self._where()} serves no version of {group}", 404)
            self._served[group] = f"{group}/{(known or served)[0]}"
        return self._served[group]

    def _where(self) -> str:
        return f"{self.server} (context {self.context})"

    def _json(
        self, method: str, path: str, query: dict[str, str] | None = None, body: Any = None
    ) -> Object:
        return self._object(self._send(method, path, query, body))

    def _object(self, response: Any) -> Object:
        found = json_object(response.data) or {}
        if not found.keys() & {"kind", "gitVersion"}:  # one of them is in all that is asked for
            raise no_api(self._where(), response.status)
        return found

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Any = None,
        *,
        stream: bool = False,
        deadline: float | None = None,
    ) -> Any:
        """Send until it is answered or refused; return the response, read unless ``stream``.

        A stream that stays silent is None: the kubelet answers with the first line.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        end = time.monotonic() + (self._deadline if deadline is None else deadline)
        pause = self._pause
        renewed = False
        while True:
            left = max(end - time.monotonic(), 0.1)
            wait: float | None = None
            try:
                response = self._once(method, path, query, body, left)
                if not stream or response.status >= 400:
                    response.read()
            except (ApiException, HTTPError) as error:
                if stream and isinstance(error, ReadTimeoutError):
                    return None
                trouble = no_answer(error, self._where())
            else:
                if response.status < 400:
                    return response
                if response.status == 401 and not renewed:
                    renewed = True
                    self._api = kubeconfigs.connect(self._path, self.context)
                    continue
                optional = any(group in path for group in OPTIONAL)
                trouble, wait = refused(response, method, self._where(), optional=optional)
            wait = pause if wait is None else max(wait, SHORTEST)
            if time.monotonic() + wait > end:
                raise UnavailableError(f"{self._where()}: {trouble}")
            time.sleep(wait)
            pause = min(2 * pause, 8 * self._pause)

    def _once(
        self, method: str, path: str, query: dict[str, str] | None, body: Any, left: float
    ) -> Any:
        content = "merge-patch+json" if method == "PATCH" else "json"
        request = self._api.param_serialize(
            method,
            path,
            query_params=[(key, value) for key, value in (query or {}).items() if value],
            header_params={"Accept": "application/json", "Content-Type": f"application/{content}"},
            body=body,
            auth_settings=["BearerToken"],
        )
        return self._api.call_api(*request, _request_timeout=(min(CONNECT, left), min(READ, left)))


def _without_managers(item: Object) -> Object:
    """Take out who manages which field: a third of a pod, and nothing here reads it."""
    item["metadata"].pop("managedFields", None)
    return item


def _warnings(headers: list[str]) -> Iterator[str]:
    """Yield the texts of Warning headers (RFC 7234, section 5.5); one may join several."""
    for header in headers:
        for text in re.findall(r'\d{3} \S+ "((?:[^"\\]|\\.)*)"', header):
            yield re.sub(r"\\(.)", r"\1", text)
