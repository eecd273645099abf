"""Why the API server did not do what it was asked, each on one line with the remedy.

The texts of refusals are those of Kubernetes 1.36's API server; what an answer's reason and
details mean is in the API reference under Status (meta/v1).
"""

import re
from typing import Any

from trainer.common.untrusted_json import json_object
from trainer.errors import ConfigError, UserError

Object = dict[str, Any]


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


def no_answer(error: Exception, where: str) -> str:
    """Say why there was no answer.

    Raises:
        ConfigError: TLS failed in a way that another try cannot fix.
    """
    from urllib3 import exceptions

    text = " ".join(str(getattr(error, "reason", None) or error).split())
    if "SSLError" in text or isinstance(error, exceptions.SSLError):
        problem = re.sub(r"SSLError |\[SSL[^]]*\] | \(_ssl[^)]*\)", "", text)
        if "EOF" not in text:
            raise ConfigError(
                f"{where}: TLS: {problem}; check the server's address, its "
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


def no_api(where: str, code: int) -> ConfigError:
    """Return what to do about a server that answers as no API server does."""
    return ConfigError(
        f"{where}: no Kubernetes API there: it answers {code} without an object of the API; check "
        "server in the kubeconfig"
    )


def refused(
    response: Any, method: str, where: str, *, optional: bool = False
) -> tuple[str, float | None]:
    """Say why a request may be tried again, and after how many seconds if the server says.

    ``optional``: an API server need not know the path.

    Raises:
        UserError: trying again does not help.
    """
    code = response.status
    status = json_object(response.data) or {}  # a proxy may answer with a page
    reason = str(status.get("reason") or "")
    text = str(status.get("message") or response.data.decode("utf-8", "replace")[:200])
    text = " ".join(text.split()) or response.reason or "it does not say why"
    details = status.get("details") or {}
    # Quotas are counted by compare-and-swap; a create that lost that race may go again.
    if code in (429, 500, 502, 503, 504) or (method == "POST" and reason == "Conflict"):
        asked = str(response.headers.get("Retry-After") or details.get("retryAfterSeconds"))
        wait = float(asked) if asked.isdecimal() else None
        return f"{code}: {text}; the API server is overloaded or failing, try later", wait
    if code == 401:
        raise ConfigError(f"{where}: the credentials are expired or unknown there; log in again")
    # An API server answers so, without a Status, only to paths that it does not know.
    if code in (404, 405, 501) and status.get("kind") != "Status" and not optional:
        raise no_api(where, code)
    if code == 400 and status.get("kind") != "Status":  # of a server that speaks TLS, or a proxy
        text = f"{where}: {text.rstrip('.')}"
    raise _refusal(code, reason, text, details, method, where)


def _refusal(
    code: int, reason: str, text: str, details: Object, method: str, where: str
) -> ClusterError:
    if code == 403:
        return _forbidden(text, reason)
    if code == 404 and details.get("kind") == "namespaces" and method == "POST":
        missing = f"{where} has no namespace {details.get('name')}"
        return InvalidError(f"{missing}; create it, or name another", code, reason)
    if code == 409:
        return ConflictError(f"{text}; choose another name or delete it", code, reason)
    if code == 422 and details.get("causes"):
        causes = [
            ": ".join(str(each[key]) for key in ("field", "message") if each.get(key))
            for each in details["causes"]
        ]
        name = f"{details.get('kind')} {details.get('name')}"
        text = f"{name} is invalid: {'; '.join(causes)}"
    if code in (400, 422):
        return InvalidError(f"{text}{_remedy(text)}", code, reason)
    return ClusterError(f"{where}: {code}: {text}", code, reason)


# The first part of such a refusal names the object; the rest comes from the authorizer.
_DENIED = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) (?:resource|path) "(?P<resource>[^"]*)"'
    r'(?: in API group "(?P<group>[^"]*)")?(?: in the namespace "(?P<namespace>[^"]*)")?'
)
_REMEDIES = {
    "violates PodSecurity": "change what it names; the namespace's label "
    "pod-security.kubernetes.io/enforce forbids it",
    "denied request": "give what the policy asks for in the run file (docs/run-file.md), or ask "
    "the cluster's administrator",
    "exceeded quota": "ask for less, wait until other runs end, or have the quota raised",
    "failed quota": "give what it names in resources",
    "being terminated": "wait until the namespace is gone and create it again, or use another",
    "no PriorityClass": "name one that exists (kubectl get priorityclasses)",
    "Client sent an HTTP request to an HTTPS server": "write https:// in the kubeconfig's server",
}


def _remedy(text: str) -> str:
    return next((f"; {words}" for part, words in _REMEDIES.items() if part in text), "")


def _forbidden(text: str, reason: str) -> ClusterError:
    """Distinguish a missing permission from an admission controller that refuses an object."""
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
