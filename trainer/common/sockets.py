"""Listening sockets of a gang, for IPv4 and IPv6 alike."""

import contextlib
import errno
import os
import resource
import socket

BACKLOG = 1024  # connections that wait to be accepted: a whole gang may connect at once
FILES = 65_536  # open files that are enough for any gang


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: an address of this machine; "" for all of them, of both families where the machine
            has both.
        port: 0 for a free one.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not host and socket.has_dualstack_ipv6():
            with contextlib.suppress(_NoAddressError):
                return _create(host, port, socket.AF_INET6, dual=True)
        return _create(host, port, family)
    except OSError as error:  # the text of Python's own names the address once more
        raise OSError(error.errno, os.strerror(error.errno or 0)) from None


class _NoAddressError(OSError):
    """The machine has no address of this family: IPv6 may be compiled in and switched off."""


def _create(host: str, port: int, family: int, *, dual: bool = False) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=family, dualstack_ipv6=dual, backlog=BACKLOG
        )
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise _NoAddressError(error.errno, os.strerror(error.errno)) from None
        raise


def loopback() -> str:
    """Return this machine's loopback address, IPv4 where it has one.

    An address and not the name "localhost", which may resolve to one that nobody listens on.
    """
    with contextlib.suppress(OSError), listen("127.0.0.1", 0):
        return "127.0.0.1"
    return "::1"


def endpoint(host: str, port: int | str) -> str:
    """Return ``host:port`` as URLs and gRPC write it, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of ``endpoint``'s text."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def allow_many_files() -> None:
    """Raise this process's soft limit on open files, which its children inherit.

    A gang of 1,024, or a stranger who keeps connections open, takes more than the usual soft limit
    of 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with contextlib.suppress(OSError, ValueError):  # macOS has limits that it does not report
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
