"""The API server of one cluster: plain dicts in and out, and every refusal as one line.

Each request has a timeout. What another try may mend is tried again until a deadline; an expired
token is renewed by reading the kubeconfig, with its credential plugin, once more.

The texts of refusals are those of Kubernetes 1.36's API server; what an answer's reason and
details mean is in the API reference under Status (meta/v1).
"""

import json
import logging
import os
import re
import time
from collections.abc import Generator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError, UnavailableError, UserError

Object = dict[str, Any]

# kind -> (group and version, plural, inside a namespace)
KINDS = {
    "Pod": ("v1", "pods", True),
    "Service": ("v1", "services", True),
    "ConfigMap": ("v1", "configmaps", True),
    "ServiceAccount": ("v1", "serviceaccounts", True),
    "Event": ("v1", "events", True),
    "Namespace": ("v1", "namespaces", False),
    "ResourceQuota": ("v1", "resourcequotas", True),
    "LimitRange": ("v1", "limitranges", True),
    "Job": ("batch/v1", "jobs", True),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies", True),
    "LocalQueue": ("kueue.x-k8s.io", "localqueues", True),
    "Workload": ("kueue.x-k8s.io", "workloads", True),
}
# Groups that a cluster may lack, and then has none of their objects, with the versions of them that
# are read here, best first; what is read is alike in both.
OPTIONAL = {"kueue.x-k8s.io": ("v1beta2", "v1beta1")}
PAGE = 500  # objects, kubectl's --chunk-size
SHORTEST = 0.1  # seconds between two tries, whatever the server asks for
LONGEST_LINE = 1 << 20  # bytes of a log's line; a longer one comes in pieces
CONNECT, READ = 10.0, 30.0  # seconds: to connect, and of silence
CONTAINER = "trainer"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ClusterError(UserError):
    """The API server refused a request; ``status`` is HTTP's, ``reason`` its Status object's."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(" ".join(message.split()))
        self.status = status
        self.reason = reason


class ForbiddenError(ClusterError, ConfigError):
    """The user has no permission for the request."""


class ConflictError(ClusterError):
    """An object of that name exists already, or another writer was faster."""


class InvalidError(ClusterError, ConfigError):
    """The object breaks a rule of the API, of the namespace, or of an admission controller."""


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
        self._path, self.context, default = _choose(context, kubeconfig)
        self.namespace = namespace or default
        # What a command that is told to the user needs to come to the same place.
        self.flags = f" --namespace {self.namespace}" + (f" --context {context}" if context else "")
        self._deadline = deadline
        self._pause = pause
        self.warnings: list[str] = []
        self._served: dict[str, str] = {}  # group -> its version that is used
        self._api = self._connect()
        self.server: str = self._api.configuration.host

    def version(self) -> str:
        """Return the API server's version, such as "v1.36.2"."""
        return str(self._json("GET", "/version")["gitVersion"])

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object, or None where there is none, or no such kind."""
        try:
            return self._json("GET", self._route(kind, name=name))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, *, labels: str = "") -> list[Object]:
        """Return all objects of a kind that match a label selector.

        The API server leaves ``kind`` and ``apiVersion`` out of a list's items. A kind of Kueue's
        that the cluster does not know has no objects.
        """
        query = {"labelSelector": labels, "limit": str(PAGE)}
        items: list[Object] = []
        while True:
            try:
                path = self._route(kind)
                page = self._json("GET", path, query)
            except ClusterError as error:
                if error.status == 404 and KINDS[kind][0] in OPTIONAL:
                    return []
                if error.status != 410 or not items:
                    raise
                # The snapshot that the pages come from is gone. One answer cannot fall apart.
                items, query = [], query | {"limit": "", "continue": ""}
                continue
            items += page["items"]
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return items

    def create(self, obj: Object, *, dry_run: bool = False) -> Object:
        """Create an object, in its own namespace where it names one; return it as stored.

        An answer that got lost is asked for again, so that ConflictError may mean one's own
        object: compare it.

        Raises:
            ConflictError: the name is taken.
            InvalidError: the object or its namespace is refused, or the namespace is missing.
        """
        path = self._route(obj["kind"], namespace=obj["metadata"].get("namespace"))
        response = self._send("POST", path, _dry(dry_run), obj)
        self.warnings += _warnings(response.headers.getlist("Warning"))
        return _object(response.data)

    def patch(self, kind: str, name: str, patch: Object) -> Object:
        """Apply a JSON merge patch (RFC 7386); return the object as stored."""
        return self._json("PATCH", self._route(kind, name=name), {}, patch)

    def delete(self, kind: str, name: str) -> bool:
        """Delete an object, and in the background what it owns; False where there is none."""
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
        since: str | None = None,
    ) -> Iterator[tuple[str, str]]:
        """Yield (RFC 3339 time, line) of a pod's log; a container not yet started has no lines.

        With ``follow`` it ends with the container, and also where the stream is cut or silent
        for 30 s: go on with ``since``, the last time received.

        Args:
            pod: its name.
            follow: wait for more lines.
            tail: the last lines only.
            since: lines later than this only. The API counts in whole seconds; lines of the
                same second that were received before are left out here.

        Raises:
            UnavailableError: cut off, without ``follow``.
        """
        query = {"container": CONTAINER, "timestamps": "true", "sinceTime": since or ""}
        query |= {"follow": "true"} if follow else {}
        query |= {"tailLines": str(tail)} if tail is not None else {}
        path = self._route("Pod", name=pod) + "/log"
        try:
            response = self._send("GET", path, query, stream=True)
        except InvalidError as error:
            if "is waiting to start" in str(error):
                return
            raise
        whole = False
        if response:
            try:
                whole = yield from _stamped(_lines(response.response), since)
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

    def _connect(self) -> Any:
        """Return the package's client, with the credentials as they are now."""
        from kubernetes import client, config

        configuration = client.Configuration()
        with _Messages() as messages:
            try:
                if self._path is None:
                    config.load_incluster_config(configuration)
                else:
                    config.load_kube_config(self._path, self.context, configuration)
            except Exception as error:  # the package checks little of what it reads
                raise ConfigError(
                    f"kubeconfig {self._path or 'of this pod'}, context {self.context}: "
                    f"{' '.join(str(error).split())}; mend it, or log in to the cluster again"
                ) from None
        if messages.texts and not (configuration.api_key or configuration.cert_file):
            raise ConfigError(
                f"context {self.context}: its credential plugin gave no credentials: "
                f"{messages}; install it or log in again"
            )
        configuration.retries = False  # tries and their limit are counted here
        configuration.refresh_api_key_hook = None  # it would run a plugin before each request
        configuration.connection_pool_maxsize = 100  # a log follower a rank
        return client.ApiClient(configuration)

    def _json(
        self, method: str, path: str, query: dict[str, str] | None = None, body: Any = None
    ) -> Object:
        return _object(self._send(method, path, query, body).data)

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Any = None,
        *,
        stream: bool = False,
    ) -> Any:
        """Send until it is answered or refused; return the response, read unless ``stream``.

        A stream that stays silent is None: the kubelet answers with the first line.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        end = time.monotonic() + self._deadline
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
                trouble = self._broken(error)
            else:
                if response.status < 400:
                    return response
                if response.status == 401 and not renewed:
                    renewed, self._api = True, self._connect()
                    continue
                trouble, wait = self._refused(response, method)
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

    def _broken(self, error: Exception) -> str:
        """Say why there was no answer.

        Raises:
            ConfigError: TLS failed in a way that another try does not mend.
        """
        from urllib3 import exceptions

        text = " ".join(str(getattr(error, "reason", None) or error).split())
        if "SSLError" in text or isinstance(error, exceptions.SSLError):
            problem = re.sub(r"SSLError |\[SSL[^]]*\] | \(_ssl[^)]*\)", "", text)
            if "EOF" not in text:
                raise ConfigError(
                    f"{self._where()}: TLS: {problem}; check the server's address, its "
                    "certificate-authority and the proxy in the kubeconfig"
                )
            return f"TLS: {problem}; try again later"
        if isinstance(error, exceptions.NameResolutionError):
            return "its name cannot be resolved; is it the right context, and the network up?"
        if isinstance(error, exceptions.ConnectTimeoutError | exceptions.NewConnectionError):
            problem = re.sub(r".*(: |\] )", "", text)
            return f"{problem}; is it the right context, and the network up?"
        if isinstance(error, exceptions.ReadTimeoutError):
            return "it was reached but did not answer in time; try again later"
        return f"the connection broke: {text}; try again later"

    def _refused(self, response: Any, method: str) -> tuple[str, float | None]:
        """Say why a request may be tried again and after how many seconds, where it is told.

        Raises:
            UserError: trying again does not help.
        """
        code = response.status
        status = _object(response.data)
        reason = str(status.get("reason") or "")
        text = str(status.get("message") or response.data.decode("utf-8", "replace")[:200])
        text = " ".join(text.split()) or response.reason or "it does not say why"
        details = status.get("details") or {}
        # Quotas are counted by compare-and-swap; a create that lost that race may go again.
        if code in (429, 500, 502, 503, 504) or (method == "POST" and reason == "Conflict"):
            told = str(response.headers.get("Retry-After") or details.get("retryAfterSeconds"))
            wait = float(told) if told.isdigit() else None
            return f"{code}: {text}; the API server is overloaded or failing, try later", wait
        if code == 401:
            raise ConfigError(
                f"{self._where()}: the credentials are expired or unknown there; log in again"
            )
        raise self._refusal(code, reason, text, details, method)

    def _refusal(
        self, code: int, reason: str, text: str, details: Object, method: str
    ) -> ClusterError:
        if code == 403:
            return _forbidden(text, reason)
        if code == 404 and details.get("kind") == "namespaces" and method == "POST":
            missing = f"{self._where()} has no namespace {details.get('name')}"
            return InvalidError(f"{missing}; create it, or name another", code, reason)
        if code == 409:
            return ConflictError(f"{text}; choose another name or delete it", code, reason)
        if code == 422 and details.get("causes"):
            causes = [f"{c.get('field')}: {c.get('message')}" for c in details["causes"]]
            name = f"{details.get('kind')} {details.get('name')}"
            text = f"{name} is invalid: {'; '.join(causes)}"
        if code in (400, 422):
            return InvalidError(f"{text}{_remedy(text)}", code, reason)
        return ClusterError(f"{self._where()}: {code}: {text}", code, reason)


class _Messages(logging.Handler):
    """Keeps from the terminal what the package logs about a credential plugin that fails."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def __enter__(self) -> "_Messages":
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(" ".join(record.getMessage().split()))

    def __str__(self) -> str:
        # On a terminal the plugin prints its own words, and the package stumbles over their lack.
        return "; ".join(text for text in self.texts if "NoneType" not in text) or "see above"


def _choose(context: str | None, kubeconfig: str | None) -> tuple[str | None, str, str]:
    """Return the kubeconfig's path (None inside of a pod), the context and its namespace."""
    path = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    files = [Path(part).expanduser() for part in path.split(os.pathsep) if part]
    contexts, current = _contexts([file for file in files if kubeconfig or file.exists()])
    if not contexts and not kubeconfig and (SERVICE_ACCOUNT / "token").exists():
        return None, "in-cluster", (SERVICE_ACCOUNT / "namespace").read_text().strip()
    if not contexts:
        raise ConfigError(
            f"kubeconfig {path}: not there, or without contexts; log in to a cluster, or name "
            "another file by KUBECONFIG"
        )
    chosen = context or current
    if not chosen:
        raise ConfigError(
            f"kubeconfig {path}: no current context; give --context with one of "
            f"{', '.join(contexts)}"
        )
    if chosen not in contexts:
        from trainer.text import nearest

        raise ConfigError(
            f"kubeconfig {path}: no context {chosen!r}{nearest(chosen, contexts)} "
            f"(there are {', '.join(contexts)})"
        )
    return path, chosen, contexts[chosen] or "default"


def _contexts(files: list[Path]) -> tuple[dict[str, str], str]:
    """Return the namespace of each context, and the name of the current one.

    The first file that names one wins, as in kubectl; the package lets the last one win.
    """
    import yaml

    contexts: dict[str, str] = {}
    current = ""
    for file in files:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            current = current or content.get("current-context") or ""
            for item in content.get("contexts") or []:
                contexts.setdefault(item["name"], item["context"].get("namespace") or "")
        except OSError as error:
            raise ConfigError(
                f"kubeconfig {file}: {error.strerror}; give a readable one by KUBECONFIG"
            ) from None
        except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"kubeconfig {file}: not a kubeconfig; restore it, or give another by KUBECONFIG"
            ) from None
    return contexts, current


# The first part of such a refusal names the object; the rest comes from the authorizer.
_DENIED = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) (?:resource|path) "(?P<resource>[^"]*)"'
    r'(?: in API group "(?P<group>[^"]*)")?(?: in the namespace "(?P<namespace>[^"]*)")?'
)
_REMEDIES = {
    "violates PodSecurity": "change what it names; the namespace's label "
    "pod-security.kubernetes.io/enforce forbids it",
    "exceeded quota": "ask for less, wait until other runs end, or have the quota raised",
    "failed quota": "give what it names in resources",
    "being terminated": "wait until the namespace is gone and create it again, or use another",
    "no PriorityClass": "name one that exists (kubectl get priorityclasses)",
    "Client sent an HTTP request to an HTTPS server": "write https:// in the kubeconfig's server",
}


def _remedy(text: str) -> str:
    return next((f"; {words}" for part, words in _REMEDIES.items() if part in text), "")


def _forbidden(text: str, reason: str) -> ClusterError:
    """Tell a missing permission from the refusal of an object by an admission controller."""
    denied = _DENIED.search(text)
    if not denied:
        if reason != "Forbidden":  # not the API server's words but a proxy's
            return ForbiddenError(f"403: {text}; is a proxy in the way?", 403, reason)
        remedy = _remedy(text) or "; change the run file, or ask the cluster's administrator"
        return InvalidError(f"{text}{remedy}", 403, reason)
    user, verb, resource, group, namespace = denied.groups()
    what = f"{user} may not {verb} {resource}{f'.{group}' if group else ''}"
    if user == "system:anonymous":
        remedy = "the context has no credentials; log in to the cluster"
    elif namespace:
        remedy = "have the Role of infra/ bound to this user"
    else:
        remedy = "have a ClusterRole with it bound to this user"
    scope = f"in namespace {namespace}" if namespace else "in the whole cluster"
    return ForbiddenError(f"{what} {scope}; {remedy}", 403, reason)


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _object(data: bytes) -> Object:
    """Parse an answer; what is no JSON object, such as a proxy's page, reads as an empty one."""
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _warnings(headers: list[str]) -> Iterator[str]:
    """Yield the texts of Warning headers (RFC 7234, section 5.5); one may join several."""
    for header in headers:
        for text in re.findall(r'\d{3} \S+ "((?:[^"\\]|\\.)*)"', header):
            yield re.sub(r"\\(.)", r"\1", text)


def _lines(response: Any) -> Iterator[bytes | None]:
    """Yield the lines of a log stream, and None where it was cut, without the last half line."""
    from urllib3.exceptions import HTTPError

    rest = b""
    try:
        for chunk in response.stream(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > LONGEST_LINE:  # what is no end of a line may never come
                yield rest
                rest = b""
    except HTTPError:
        yield None
        return
    if rest:
        yield rest


def _stamped(
    lines: Iterator[bytes | None], since: str | None
) -> Generator[tuple[str, str], None, bool]:
    """Yield (time, line) of the lines after ``since``; return whether the stream came whole."""
    start = _instant(since) if since else None
    assert not since or start, f"{since} is no RFC 3339 time"
    last = since or ""
    for line in lines:
        if line is None:
            return False
        text = line.decode("utf-8", "replace")
        stamp, _, words = text.partition(" ")
        instant = _instant(stamp)
        if instant is None:  # the kubelet's own words, such as that a log was rotated away
            yield last, text
        elif not start or instant > start:
            yield stamp, words
            last = stamp
    return True


def _instant(stamp: str) -> tuple[datetime, str] | None:
    """Return what orders RFC 3339 times: the second, and its nine decimals."""
    parts = re.fullmatch(
        r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", stamp
    )
    if not parts:
        return None
    second, decimals, zone = parts.groups()
    return datetime.fromisoformat(second + zone), (decimals or "").ljust(9, "0")
