"""A Kubernetes API server on the loopback interface, in memory, whose faults the test plans.

    with ApiServer() as api:
        api.add({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}})
        api.faults.append(Fault("status", "list", "pods", status=503, times=2))
        cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), pause=0.01)

It answers as Kubernetes 1.36 does, by the API reference and the API concepts page of
kubernetes.io/docs: Status objects, selectors, pages, merge patches, dry runs, logs that count
``sinceTime`` in whole seconds, items of a list without kind and apiVersion. An object's
dependants go with it at once. Watches also see objects that a test changes in place. Left out:
validation, defaults, finalizers, and controllers (``react`` may play one).
"""

import base64
import contextlib
import copy
import functools
import itertools
import json
import re
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

import yaml

Object = dict[str, Any]

KINDS = {
    ("v1", "pods"): "Pod",
    ("v1", "services"): "Service",
    ("v1", "configmaps"): "ConfigMap",
    ("v1", "serviceaccounts"): "ServiceAccount",
    ("v1", "events"): "Event",
    ("v1", "namespaces"): "Namespace",
    ("v1", "nodes"): "Node",
    ("v1", "resourcequotas"): "ResourceQuota",
    ("v1", "limitranges"): "LimitRange",
    ("v1", "persistentvolumeclaims"): "PersistentVolumeClaim",
    ("batch/v1", "jobs"): "Job",
    ("networking.k8s.io/v1", "networkpolicies"): "NetworkPolicy",
}
KUEUE = "kueue.x-k8s.io"
KUEUE_KINDS = {"localqueues": "LocalQueue", "workloads": "Workload"}
CLUSTER_WIDE = {"Namespace", "Node"}
REMEMBERED = 64  # looks at objects from which a watch may continue
REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(frozen=True)
class Request:
    """A request as RBAC sees it: ``get pods/log``, ``get /version``, ``create jobs``."""

    verb: str
    resource: str
    namespace: str
    name: str
    version: str
    query: dict[str, str]
    body: Any
    token: str

    @property
    def dry(self) -> bool:
        return self.query.get("dryRun") == "All"


@dataclass
class Fault:
    """What goes wrong with ``times`` requests of a verb and a resource, after ``skip`` good ones.

    ``status`` answers so instead of acting; ``cut-before`` drops the connection instead of
    acting, ``cut-after`` when the write has taken effect; ``cut-log`` sends ``lines`` whole lines
    of a log and half of the next; ``slow`` waits ``seconds``, then continues. ``effect`` is called
    when the fault strikes, before anything else.
    """

    kind: Literal["status", "cut-before", "cut-after", "cut-log", "slow"]
    verb: str = "*"
    resource: str = "*"
    times: int = 1
    skip: int = 0
    status: int = 503
    message: str = "planned by the test"
    reason: str = ""  # that of the status, where empty
    details: Object = field(default_factory=dict)
    retry_after: int | None = None  # seconds
    lines: int = 0
    seconds: float = 0.0
    effect: Callable[[], object] = lambda: None

    def strikes(self, request: Request) -> bool:
        if self.verb not in ("*", request.verb) or self.resource not in ("*", request.resource):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return self.times >= 0


class RefusedError(Exception):
    """A request that is answered by a Status object."""

    def __init__(self, status: int, message: str, reason: str = "", **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason or REASONS.get(status, "")
        self.details = details

    @property
    def plain(self) -> bool:
        """Paths that no handler knows are answered by bare text."""
        return str(self) == "404 page not found"

    def body(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "details": self.details,
            "code": self.status,
        }


class ApiServer:
    """The cluster's state and its HTTP server; use it in ``with``.

    Tests read and change the attributes at any time:

    - ``objects[kind, namespace, name]``; the namespace is "" for kinds outside of namespaces.
    - ``logs[pod]``: (time, line) pairs; see ``push`` and ``end``.
    - ``faults``: the first one that strikes counts; ``requests``: all that arrived, in order.
    - ``token``: "" takes any; another one answers 401 to all others.
    - ``denied``: (verb, resource) pairs that RBAC refuses, such as ("get", "pods/log").
    - ``warnings``: sent with every create.
    - ``version``: of the release.
    - ``drops``: paths such as "spec.suspend" that creates of Jobs lose, as an older release does.
    - ``policy``: called with each created object; returns why a ValidatingAdmissionPolicy refuses
      it, or "".
    - ``kueue``: the versions of its API group that are served, best first; () for no Kueue.
    - ``forgotten``: watches from this version or an earlier one are refused (410).
    - ``gone``: pods whose container, and so log, is no longer on its node.
    - ``react``: called with (verb, object) after each write, dry runs excepted.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.logs: dict[str, list[tuple[str, str]]] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.token = ""
        self.denied: set[tuple[str, str]] = set()
        self.warnings: list[str] = []
        self.version = "v1.36.2"
        self.drops: set[str] = set()
        self.policy: Callable[[Object], str] = lambda _obj: ""
        self.kueue: tuple[str, ...] = ()
        self.forgotten = 0
        self._seen: dict[int, dict[str, Object]] = {}  # by version
        self.gone: set[str] = set()
        self.react: Callable[[str, Object], object] = lambda _verb, _obj: None
        self._ended: set[str] = set()
        self._changed = threading.Condition(threading.RLock())
        self._versions = itertools.count(1)
        self._http = _HTTPServer(self, tls)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._http.server_address[1]}"
        self.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        with self._changed:
            self._http.stopping = True
            self._changed.notify_all()
        self._http.drop_connections()

    def kubeconfig(
        self,
        path: Path,
        *,
        user: Object | None = None,
        context: str = "test",
        namespace: str = "",
        cluster: Object | None = None,
    ) -> str:
        """Write a kubeconfig with one context; ``user`` such as {"token": ...} or {"exec": ...}."""
        place = {"cluster": "c", "user": "u"} | ({"namespace": namespace} if namespace else {})
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "contexts": [{"name": context, "context": place}],
            "clusters": [{"name": "c", "cluster": {"server": self.url} | (cluster or {})}],
            "users": [{"name": "u", "user": {"token": "t"} if user is None else user}],
        }
        path.write_text(yaml.safe_dump(content))
        return str(path)

    def add(self, obj: Object) -> Object:
        """Store an object as a create does, without its checks."""
        obj = copy.deepcopy(obj)
        meta = obj["metadata"]
        if obj["kind"] not in CLUSTER_WIDE:
            meta.setdefault("namespace", "default")
        meta.setdefault("uid", str(uuid.uuid4()))
        meta.setdefault("creationTimestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        meta["resourceVersion"] = str(next(self._versions))
        with self._changed:
            self.objects[obj["kind"], meta.get("namespace", ""), meta["name"]] = obj
        return copy.deepcopy(obj)

    def push(self, pod: str, line: str, stamp: str = "") -> str:
        """Append a line to a pod's log, followers see it at once; return its time."""
        with self._changed:
            nanoseconds = time.time_ns()
            second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds // 10**9))
            stamp = stamp or f"{second}.{nanoseconds % 10**9:09d}Z"
            self.logs.setdefault(pod, []).append((stamp, line))
            self._changed.notify_all()
        return stamp

    def end(self, pod: str) -> None:
        """End a pod's container, and with it what follows its log."""
        with self._changed:
            self._ended.add(pod)
            self._changed.notify_all()

    def sent(self, verb: str, resource: str) -> list[Request]:
        """Return the requests of one verb and resource that arrived so far."""
        return [r for r in self.requests if (r.verb, r.resource) == (verb, resource)]

    def strike(self, request: Request) -> Fault | None:
        """Note a request; return what shall go wrong with it."""
        with self._changed:
            self.requests.append(request)
            return next((fault for fault in self.faults if fault.strikes(request)), None)

    def act(self, request: Request) -> Object:
        """Do what a request asks for and return the answer's body."""
        if self.token and request.token != self.token:
            raise RefusedError(401, "Unauthorized")
        if request.resource == "/version":
            return {"major": "1", "minor": "36", "gitVersion": self.version}
        if request.resource == f"/apis/{KUEUE}" and self.kueue:
            versions = [{"groupVersion": f"{KUEUE}/{v}", "version": v} for v in self.kueue]
            return {"kind": "APIGroup", "name": KUEUE, "versions": versions}
        if request.resource == "selfsubjectaccessreviews":
            return self._review(request)
        kind = self._kind(request)
        self._authorize(request)
        key = (kind, request.namespace, request.name)
        with self._changed:
            if request.verb == "list":
                return self._page(kind, request)
            answer: Object = getattr(self, f"_{request.verb}")(key, request)
        if request.verb != "get" and not request.dry:
            self.react(request.verb, copy.deepcopy(answer))
        if request.verb == "delete":
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return copy.deepcopy(answer)

    def follow(self, request: Request) -> Iterator[tuple[str, str]]:
        """Yield a log's lines, as long as the container runs where the request follows it."""
        if self.token and request.token != self.token:
            raise RefusedError(401, "Unauthorized")
        self._authorize(request)
        pod, query, logs = request.name, request.query, self.logs
        if pod in self.gone:  # as the kubelet says it, with a status of 200 and without a time
            yield "", f"unable to retrieve container logs for containerd://{pod}"
            return
        if pod not in logs:
            raise self._no_log(request)
        first = max(0, len(logs[pod]) - int(query.get("tailLines", 10**9)))
        since = second(query.get("sinceTime", ""))
        for number in itertools.count(first):
            with self._changed:
                while query.get("follow") == "true" and len(logs[pod]) <= number:
                    if pod in self._ended or self._http.stopping:
                        return
                    self._changed.wait()
                if len(logs[pod]) <= number:
                    return
                stamp, line = logs[pod][number]
            if not since or (second(stamp) or since) >= since:  # inclusive
                yield stamp, line

    def _no_log(self, request: Request) -> RefusedError:
        if ("Pod", request.namespace, request.name) not in self.objects:
            return _missing(request)
        container = f'container "trainer" in pod "{request.name}"'
        return RefusedError(400, f"{container} is waiting to start: ContainerCreating")

    def _kind(self, request: Request) -> str:
        resource = request.resource.partition("/")[0]
        kind = KINDS.get((request.version, resource))
        group, _, version = request.version.partition("/")
        if group == KUEUE and version in self.kueue:
            kind = KUEUE_KINDS.get(resource)
        if not kind:
            raise RefusedError(404, "404 page not found")
        return kind

    def _authorize(self, request: Request) -> None:
        if (request.verb, request.resource) not in self.denied:
            return
        name = f' "{request.name}"' if request.name else ""
        group = request.version.rpartition("/")[0]
        scope = f'in the namespace "{request.namespace}"' if request.namespace else ""
        raise RefusedError(
            403,
            f'{_qualified(request)}{name} is forbidden: User "jane" cannot {request.verb} resource '
            f'"{request.resource}" in API group "{group}" {scope or "at the cluster scope"}',
        )

    def _review(self, request: Request) -> Object:
        wanted = request.body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (wanted["resource"], wanted.get("subresource"))))
        allowed = (wanted["verb"], resource) not in self.denied
        return {**request.body, "status": {"allowed": allowed}}

    def _get(self, key: tuple[str, str, str], request: Request) -> Object:
        if key not in self.objects:
            raise _missing(request)
        return self.objects[key]

    def _create(self, key: tuple[str, str, str], request: Request) -> Object:
        kind, namespace, _ = key
        obj = request.body
        name = obj["metadata"]["name"]
        if (obj["kind"], obj["apiVersion"]) != (kind, request.version):
            raise RefusedError(400, f"the API version in the data does not match {request.version}")
        if namespace and ("Namespace", "", namespace) not in self.objects:
            text = f'namespaces "{namespace}" not found'
            raise RefusedError(404, text, name=namespace, kind="namespaces")
        if obj["metadata"].get("namespace", namespace) != namespace:
            raise RefusedError(400, "the namespace of the object does not match the request's")
        if (kind, namespace, name) in self.objects:
            text = f'{_qualified(request)} "{name}" already exists'
            raise RefusedError(409, text, "AlreadyExists", name=name)
        if denied := self.policy(obj):
            about = {"name": name, "kind": request.resource, "causes": [{"message": denied}]}
            raise RefusedError(
                422, f'{_qualified(request)} "{name}" is forbidden: {denied}', **about
            )
        obj = copy.deepcopy(obj)
        for path in self.drops if kind == "Job" else ():
            *parents, last = path.split(".")
            functools.reduce(lambda at, key: at[key], parents, obj).pop(last, None)
        if request.dry:
            return {**obj, "metadata": {**obj["metadata"], "uid": str(uuid.uuid4())}}
        metadata = obj["metadata"] | ({"namespace": namespace} if namespace else {})
        return self.add(obj | {"metadata": metadata})

    def _patch(self, key: tuple[str, str, str], request: Request) -> Object:
        old = self._get(key, request)
        held = request.body.get("metadata", {}).get("resourceVersion")
        if held and held != old["metadata"]["resourceVersion"]:
            text = f'Operation cannot be fulfilled on {_qualified(request)} "{key[2]}"'
            raise RefusedError(409, f"{text}: the object has been modified")
        new = merge(old, request.body)
        return new if request.dry else self.add(new)

    def _delete(self, key: tuple[str, str, str], request: Request) -> Object:
        obj = self._get(key, request)
        if not request.dry:
            self._remove(key)
        return obj

    def _remove(self, key: tuple[str, str, str]) -> None:
        uid = self.objects.pop(key)["metadata"]["uid"]
        for other, obj in list(self.objects.items()):
            owners = obj["metadata"].get("ownerReferences", [])
            if other in self.objects and uid in [owner["uid"] for owner in owners]:
                self._remove(other)

    def watch(self, request: Request) -> Iterator[Object]:
        """Return what happens to objects since the version, for as long as is asked."""
        if self.token and request.token != self.token:
            raise RefusedError(401, "Unauthorized")
        kind, version = self._kind(request), int(request.query["resourceVersion"])
        self._authorize(request)
        if version <= self.forgotten:
            raise RefusedError(410, f"too old resource version: {version} ({self.forgotten})")
        return self._changes(kind, request, version)

    def _changes(self, kind: str, request: Request, version: int) -> Iterator[Object]:
        before, until = self._seen[version], float(request.query["timeoutSeconds"])
        until += time.monotonic()
        while time.monotonic() < until and not self._http.stopping:
            if version <= self.forgotten:
                yield {"type": "ERROR", "object": RefusedError(410, "too old").body()}
                return
            began, now = time.monotonic(), self._matching(kind, request)
            for uid in [uid for uid in before | now if before.get(uid) != now.get(uid)]:
                what = "DELETED" if uid not in now else "MODIFIED" if uid in before else "ADDED"
                obj = copy.deepcopy(now.get(uid) or before[uid])
                before = {key: each for key, each in before.items() if key != uid}
                before |= {uid: now[uid]} if uid in now else {}
                version = self._see(before)
                obj["metadata"]["resourceVersion"] = str(version)
                yield {"type": what, "object": obj}
            time.sleep(max(0.01, 20 * (time.monotonic() - began)))
        metadata = {"resourceVersion": str(self._see(before))}
        yield {"type": "BOOKMARK", "object": {"metadata": metadata}}

    def _see(self, found: dict[str, Object]) -> int:
        """Return the version of a look at the objects, from which a watch may begin."""
        version = next(self._versions)
        self._seen[version] = found
        for old in list(self._seen)[:-REMEMBERED]:
            del self._seen[old]
        return version

    def _matching(self, kind: str, request: Request) -> dict[str, Object]:
        """Return copies of the objects that a list or watch asks for, by uid."""
        labels, fields = (request.query.get(f"{by}Selector", "") for by in ("label", "field"))
        with self._changed:
            return {
                obj["metadata"]["uid"]: copy.deepcopy(obj)
                for (other, namespace, _), obj in sorted(self.objects.items(), key=lambda i: i[0])
                if other == kind
                and request.namespace in ("", namespace)
                and selected(obj["metadata"].get("labels", {}), labels)
                and selected(fields_of(obj), fields)
            }

    def _page(self, kind: str, request: Request) -> Object:
        matching = self._matching(kind, request)
        found = [
            {k: v for k, v in obj.items() if k not in ("kind", "apiVersion")}
            for obj in matching.values()
        ]
        start = int(base64.b64decode(request.query.get("continue", "")) or 0)
        end = start + (int(request.query.get("limit", 0)) or len(found))
        metadata: Object = {"resourceVersion": str(self._see(matching))}
        if end < len(found):
            metadata["continue"] = base64.b64encode(str(end).encode()).decode()
            metadata["remainingItemCount"] = len(found) - end
        return {
            "kind": f"{kind}List",
            "apiVersion": request.version,
            "metadata": metadata,
            "items": found[start:end],
        }


def _qualified(request: Request) -> str:
    """The resource as messages call it, such as jobs.batch."""
    group = request.version.rpartition("/")[0]
    return request.resource.partition("/")[0] + (f".{group}" if group else "")


def _missing(request: Request) -> RefusedError:
    kind = request.resource.partition("/")[0]
    text = f'{_qualified(request)} "{request.name}" not found'
    return RefusedError(404, text, name=request.name, kind=kind)


def merge(old: Any, patch: Any) -> Any:
    """Apply a JSON merge patch, RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    new = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = merge(new.get(key), value)
    return new


def second(stamp: str) -> datetime | None:
    """The whole second of an RFC 3339 time, or None for another text."""
    parts = re.fullmatch(r"([-\d]{10}T[:\d]{8})(?:\.\d+)?(Z|[-+]\d\d:\d\d)", stamp)
    return datetime.fromisoformat("".join(parts.groups())) if parts else None


def selected(values: dict[str, str], selector: str) -> bool:
    """Whether labels meet a selector: a=b, a!=b, a, !a, a in (b,c), a notin (b,c)."""
    for term in re.findall(r"(?:\([^)]*\)|[^,(])+", selector):
        if several := re.fullmatch(r"\s*(\S+) (in|notin) \(([^)]*)\)\s*", term):
            key, how, listed = several.groups()
            wanted = {value.strip() for value in listed.split(",")}
            good = (values.get(key) in wanted) == (how == "in")
        elif pair := re.fullmatch(r"\s*([^=!\s]+)\s*(!=|==?)\s*(\S*)\s*", term):
            key, how, value = pair.groups()
            good = (values.get(key, "") == value) == (how != "!=")
        else:
            good = (term.strip(" !") in values) != term.strip().startswith("!")
        if not good:
            return False
    return True


def fields_of(obj: Object) -> dict[str, str]:
    """The fields of an object that selectors may name here: those of Events, and a few others."""
    about = {f"involvedObject.{key}": value for key, value in obj.get("involvedObject", {}).items()}
    own = {
        "metadata.name": obj["metadata"]["name"],
        "status.phase": (obj.get("status") or {}).get("phase", ""),
    }
    return {**about, **own, **{key: obj.get(key, "") for key in ("type", "reason")}}


class _HTTPServer(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, api: ApiServer, tls: ssl.SSLContext | None) -> None:
        self.api = api
        self.stopping = False
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)
        if tls:
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        for connection in list(self._connections):
            drop(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: clients that go away are part of the tests."""


def drop(connection: socket.socket) -> None:
    """End a connection, so that its peer notices at once."""
    with contextlib.suppress(OSError):  # it went first
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests, one after the other."""

    server: _HTTPServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer's head and body leave together

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = self._request(body)
        fault = self.server.api.strike(request)
        try:
            if fault:
                fault.effect()
                time.sleep(fault.seconds)
            if fault and fault.kind == "cut-before":
                self._drop()
            elif fault and fault.kind == "status":
                refusal = RefusedError(fault.status, fault.message, fault.reason, **fault.details)
                after = fault.retry_after
                self._answer(refusal, [] if after is None else [("Retry-After", str(after))])
            elif request.verb == "watch":
                self._events(self.server.api.watch(request))
            elif request.resource == "pods/log":
                lines = self.server.api.follow(request)
                self._stream(lines, fault.lines if fault and fault.kind == "cut-log" else None)
            else:
                self._act(request, cut=bool(fault and fault.kind == "cut-after"))
        except RefusedError as refusal:
            self._answer(refusal)

    def _act(self, request: Request, cut: bool) -> None:
        if request.verb == "patch" and "merge-patch+json" not in self.headers["Content-Type"]:
            raise RefusedError(415, "the body of the request was in an unknown format")
        answer = self.server.api.act(request)
        if cut:
            self._drop()
            return
        warnings = self.server.api.warnings if request.verb == "create" else []
        quoted = [w.replace("\\", r"\\").replace('"', r"\"") for w in warnings]
        headers = [("Warning", f'299 - "{text}"') for text in quoted]
        self._answer(answer, headers, 201 if request.verb == "create" else 200)

    def _request(self, body: bytes) -> Request:
        url = urlsplit(self.path)
        match = re.fullmatch(
            r"/(?:api|apis)/(v1|[^/]+/[^/]+)(?:/namespaces/([^/]+)(?=/))?/([a-z]+)"
            r"(?:/([^/]+))?(/log)?",
            url.path,
        )
        version, namespace, resource, name, log = match.groups() if match else ("",) * 5
        watch = "watch=true" in url.query
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(self.command)
        return Request(
            verb=verb or ("get" if name or not match else "watch" if watch else "list"),
            resource=(resource + (log or "")) if match else url.path,
            namespace=namespace or "",
            name=name or "",
            version=version,
            query=dict(parse_qsl(url.query)),
            body=json.loads(body) if body else None,
            token=(self.headers.get("Authorization") or "").partition(" ")[2],
        )

    def _answer(
        self,
        answer: Object | RefusedError,
        headers: Iterable[tuple[str, str]] = (),
        status: int = 200,
    ) -> None:
        if isinstance(answer, RefusedError):
            status = answer.status
        plain = isinstance(answer, RefusedError) and answer.plain
        body = answer.body() if isinstance(answer, RefusedError) else answer
        data = f"{answer}\n".encode() if plain else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if plain else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, lines: Iterator[tuple[str, str]], cut: int | None) -> None:
        number = -1
        for number, (stamp, line) in enumerate(lines):
            data = f"{stamp} {line}\n".lstrip().encode()
            if number == 0:  # the kubelet sends its head with the first line, not before
                self._start_stream()
            if number == cut:
                self._chunk(data[: len(data) // 2])
                self._drop()
                return
            self._chunk(data)
        if number < 0:
            self._start_stream()
        self._chunk(b"")

    def _events(self, events: Iterator[Object]) -> None:
        self._start_stream()
        for event in events:
            self._chunk(json.dumps(event).encode() + b"\n")
        self._chunk(b"")

    def _start_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _drop(self) -> None:
        self.close_connection = True
        drop(self.connection)
