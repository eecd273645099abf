"""A network of hosts on this machine, whose delay, speed, loss and cuts a test decides.

Each host is a network namespace with one device, a tap; this process carries the frames between
them, and so decides when and whether each arrives. Needs root, and no module of the kernel but tun.
"""

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.hosts import ENTER, NAMES, need_namespaces

MTU = 60_000  # bytes: few frames, so that a process in Python carries gigabits a second
WAITING = 4 * 2**20  # bytes that a link holds back before it drops frames, as a router's buffer

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _CLONE_NEWNET = 0x400454CA, 0x0002, 0x1000, 0x40000000


def address(host: int) -> str:
    """Return a host's address."""
    return f"10.99.0.{host + 1}"


@dataclass
class Network:
    """Hosts that a switch connects, and how it carries frames between them.

    Attributes:
        hosts: what a command starts with that runs there, by number.
        service: after which they are named.
        spaces: the network namespaces that they are.
        addresses: of each.
        delay: seconds from one host to another.
        rate: bits a second that a host may send; infinite if 0.
        loss: share of the frames that get lost.
        cut: pairs of hosts, from and to, between which nothing passes.
    """

    hosts: list[list[str]]
    service: str
    spaces: list[str]
    addresses: list[str]
    delay: float = 0.0
    rate: float = 0.0
    loss: float = 0.0
    cut: set[tuple[int, int]] = field(default_factory=set)

    def isolate(self, *hosts: int) -> None:
        """Cut these hosts off from all others, both ways."""
        others = set(range(len(self.hosts))) - {*hosts}
        pairs = list(itertools.product(hosts, others))
        self.cut |= {*pairs, *(pair[::-1] for pair in pairs)}

    def move(self, host: int) -> None:
        """Give a host another address, which its name then leads to."""
        number = int(self.addresses[host].rpartition(".")[2])
        self.addresses[host] = address((number + len(self.hosts) - 1) % 250)
        _ip("-n", self.spaces[host], "addr", "flush", "dev", "eth0")
        self.place(host)
        self.publish()

    def place(self, host: int) -> None:
        """Give a host the address that it shall have."""
        _ip("-n", self.spaces[host], "addr", "add", f"{self.addresses[host]}/24", "dev", "eth0")

    def publish(self) -> None:
        """Tell every host the addresses of all."""
        known = "127.0.0.1 localhost\n"
        for host, there in enumerate(self.addresses):
            known += f"{there} {self.service}-{host}.{self.service}\n"
        for space in self.spaces:
            # In place, as processes that run there have the file itself mounted.
            (NAMES / space / "hosts").write_text(known)


def need_switch() -> None:
    """Skip the test where this user cannot make network namespaces, or the kernel no taps."""
    need_namespaces()
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"/dev/net/tun: {error.strerror}")


@contextlib.contextmanager
def network(name: str, count: int) -> Iterator[Network]:
    """Make hosts NAME-0.NAME to NAME-N.NAME, which know each other's names, with IPv4 addresses."""
    names = [f"{name}-{os.getpid()}-{host}" for host in range(count)]
    made = Network(
        hosts=[[*ENTER, space] for space in names],
        service=name,
        spaces=names,
        addresses=[address(host) for host in range(count)],
    )
    taps: list[int] = []
    try:
        for host, space in enumerate(names):
            _ip("netns", "add", space)
            taps.append(_tap(space))
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "link", "set", "eth0", "address", f"02:00:00:00:00:{host:02x}")
            _ip("-n", space, "link", "set", "eth0", "mtu", str(MTU), "up")
            made.place(host)
            (NAMES / space).mkdir(parents=True)
        made.publish()
        over = threading.Event()
        thread = threading.Thread(target=_carry, args=(made, taps, over), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            over.set()
            thread.join()
    finally:
        for tap in taps:
            os.close(tap)
        for space in names:
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
            shutil.rmtree(NAMES / space, ignore_errors=True)


def _tap(space: str) -> int:
    """Return a new device's file; the device is eth0 in a namespace.

    Raises:
        OSError: this machine has no tap devices.
    """
    found: list[int | OSError] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/var/run/netns/{space}").open() as there:
            # Of this thread alone.
            if libc.setns(there.fileno(), _CLONE_NEWNET):
                found.append(OSError(ctypes.get_errno(), "setns"))
                return
        try:
            tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH", b"eth0", _IFF_TAP | _IFF_NO_PI))
            found.append(tap)
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    [made] = found
    if isinstance(made, OSError):
        raise made
    return made


def _carry(network: Network, taps: list[int], over: threading.Event) -> None:
    """Carry frames until it is over."""
    chance = random.Random(0)
    due: list[tuple[float, int, int, bytes]] = []  # when, a count, to, what
    free = [0.0] * len(taps)  # when each host's link has sent all before
    host_of = {tap: host for host, tap in enumerate(taps)}
    count = 0
    while not over.is_set():
        wait = 0.1 if not due else max(0.0, min(0.1, due[0][0] - time.monotonic()))
        ready, _, _ = select.select(taps, [], [], wait)
        now = time.monotonic()
        for tap in ready:
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame = os.read(tap, MTU + 64)
                    source = host_of[tap]
                    sends = 8 * len(frame) / network.rate if network.rate else 0.0
                    if sends and (free[source] - now) * network.rate / 8 > WAITING:
                        continue
                    free[source] = max(now, free[source]) + sends
                    for to in _receivers(frame, source, len(taps)):
                        if (source, to) in network.cut or chance.random() < network.loss:
                            continue
                        count += 1
                        arrives = free[source] + network.delay
                        heapq.heappush(due, (arrives, count, to, frame))
        while due and due[0][0] <= time.monotonic():
            _, _, to, frame = heapq.heappop(due)
            with contextlib.suppress(OSError):
                os.write(taps[to], frame)


def _receivers(frame: bytes, source: int, count: int) -> list[int]:
    """Return for whom a frame is: its address ends with the host's number."""
    if frame[0] & 1:  # a broadcast
        return [host for host in range(count) if host != source]
    return [frame[5]] if frame[:5] == b"\x02\0\0\0\0" and frame[5] < count else []


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
