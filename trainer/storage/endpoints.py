"""Addresses of stores, and the environment's proxies on the way to them."""

import ipaddress
import os
import re
import urllib.request
from urllib.parse import urlsplit

from trainer.errors import ConfigError

LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")
_URL = re.compile(
    r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)(:\d{1,5})?(/[\w.~/-]*)?",
    re.ASCII,
)
_VARIABLES = ("no_proxy", "NO_PROXY")  # clients read the one or the other first


def is_url(text: str) -> bool:
    """Return whether a text is ``https://HOST[:PORT][/PATH]`` or ``http://...``, and no more."""
    if not _URL.fullmatch(text):
        return False
    try:
        parts = urlsplit(text)
        if "[" in text:
            ipaddress.IPv6Address(parts.hostname or "")
        return parts.port != 0
    except ValueError:
        return False


def check(endpoint: str, variable: str, allowed: str | None) -> None:
    """Refuse an endpoint that is no URL, or whose traffic anybody on the way may read.

    Args:
        endpoint: ``https://HOST[:PORT]``, or ``http://`` of this machine.
        variable: where it was given.
        allowed: the variable by which http is asked for, None where it needs no asking.

    Raises:
        ConfigError: it is neither.
    """
    shown = re.sub(r"//[^/]*@", "//...@", endpoint)  # no password in a message
    if not is_url(endpoint):
        raise ConfigError(f"{variable}={shown!r}: not a URL; give https://HOST[:PORT]")
    parts = urlsplit(endpoint)
    asked = allowed is None or os.environ.get(allowed, "").lower() in ("1", "true", "yes", "on")
    if parts.scheme == "http" and not asked and not LOOPBACK.fullmatch(parts.hostname or ""):
        raise ConfigError(
            f"{variable}={shown!r}: http:// shows the data to whoever is on the way; "
            f"give https://, or set {allowed}=true if the network is yours"
        )


def reach_directly(endpoint: str) -> None:
    """Leave a server of this machine to no proxy, which would look for it on its own machine.

    Args:
        endpoint: ``https://HOST[:PORT]`` or ``http://...``.
    """
    host = urlsplit(endpoint).hostname or ""
    if not LOOPBACK.fullmatch(host) or "*" in (os.environ.get(name) for name in _VARIABLES):
        return
    given = ",".join(os.environ.get(name, "") for name in _VARIABLES).split(",")
    hosts = dict.fromkeys(each.strip() for each in [*given, host] if each.strip())
    os.environ |= dict.fromkeys(_VARIABLES, ",".join(hosts))


def way(endpoint: str) -> str:
    """Return `` through the proxy HOST:PORT`` if requests to an endpoint take one, or nothing."""
    parts = urlsplit(endpoint)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return ""
    return f" through the proxy {proxy.rpartition('@')[2].rpartition('/')[2] or '...'}"
