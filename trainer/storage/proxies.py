"""The environment's proxies, by which clients reach a store."""

import os
import re
import urllib.request
from urllib.parse import urlsplit

LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")
_VARIABLES = ("no_proxy", "NO_PROXY")  # clients read the one or the other first


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
