"""Machines on this machine: network namespaces that see each other by IPv6 alone. Needs root."""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

NAMES = Path("/etc/netns")  # `ip netns exec` puts what is in its folders over /etc
ENTER = ["ip", "netns", "exec"]  # and a name: what a command starts with that runs there

_NEW_NET, _NEW_MOUNTS = 0x40000000, 0x00020000
_BIND, _EVERYTHING, _SLAVE = 0x1000, 0x4000, 0x80000


def need_namespaces() -> None:
    """Skip the test where this user cannot make network namespaces."""
    probe = f"trainyard-probe-{os.getpid()}"
    if os.getuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        pytest.skip("this kernel or container allows no network namespaces")
    _ip("netns", "del", probe)


@contextlib.contextmanager
def ipv6_hosts(service: str, count: int = 2) -> Iterator[list[list[str]]]:
    """Give for each host what a command starts with that runs there.

    Rank r's host answers to SERVICE-r.SERVICE, as a pod behind a headless Service does. None has
    an IPv4 address, on its loopback interface neither.
    """
    names = [f"{service}-{os.getpid()}-{rank}" for rank in range(count)]
    bridge = f"{service}-{os.getpid()}-bridge"
    known = "".join(f"fd00::{rank + 1} {service}-{rank}.{service}\n" for rank in range(count))
    try:
        _ip("netns", "add", bridge)
        _ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        _ip("-n", bridge, "link", "set", "br0", "up")
        for rank, name in enumerate(names):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "addr", "del", "127.0.0.1/8", "dev", "lo")
            peer = ("peer", "name", f"port{rank}", "netns", bridge)
            _ip("-n", name, "link", "add", "eth0", "type", "veth", *peer)
            _ip("-n", bridge, "link", "set", f"port{rank}", "master", "br0", "up")
            _ip("-n", name, "addr", "add", f"fd00::{rank + 1}/64", "dev", "eth0", "nodad")
            _ip("-n", name, "link", "set", "eth0", "up")
            (NAMES / name).mkdir(parents=True)
            (NAMES / name / "hosts").write_text(known)
        yield [[*ENTER, name] for name in names]
    finally:
        for name in (*names, bridge):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            shutil.rmtree(NAMES / name, ignore_errors=True)


def enter(name: str) -> None:
    """Have this process, which has one thread, run where ``ip netns exec NAME`` would."""
    with Path(f"/var/run/netns/{name}").open() as there:
        _call("setns", there.fileno(), _NEW_NET)
    _call("unshare", _NEW_MOUNTS)
    _call("mount", None, b"/", None, _SLAVE | _EVERYTHING, None)  # so that nobody else sees these
    for path in (NAMES / name).iterdir():
        _call("mount", bytes(path), b"/etc/" + bytes(Path(path.name)), None, _BIND, None)


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library that Python 3.11 lacks."""
    if ctypes.CDLL(None, use_errno=True)[name](*arguments):
        raise OSError(ctypes.get_errno(), name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
