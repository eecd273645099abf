"""Somebody who is not of the gang, on its ports for as long as it runs.

python -m tests.support.stranger HOST CONNECTIONS PORT...
"""

import contextlib
import itertools
import json
import random
import resource
import socket
import sys
import time

REPLAYED = {
    "nonce": "00" * 16,
    "rank": 1,
    "workers": 2,
    "host": "fd00::2",
    "leader": "fd00::1",
    "proof": "00" * 32,
}
CAUSE = {"rank": 1, "code": 2, "message": "\x1b]0;STRANGER\x07", "consequence": False}
SAYINGS = (
    b"",
    b"\x1b[31mSTRANGER\n",
    b"GET /STRANGER HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
    bytes(32),
    b"{" * 5000,
    (json.dumps(REPLAYED) + "\n").encode(),
    (json.dumps({**REPLAYED, "rank": "STRANGER"}) + "\n").encode(),
    (json.dumps({"event": "ended", "cause": {**CAUSE, "asked": False}}) + "\n").encode(),
    (json.dumps({"event": "committed", "step": 10**18}) + "\n").encode(),
)


def bother(host: str, most: int, ports: list[int]) -> None:
    """Connect, say things slowly, reset some connections and hold the rest, until killed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (most + 100, most + 100))
    dice, held = random.Random(1), list[socket.socket]()
    for turn, port in enumerate(itertools.cycle(ports)):
        with contextlib.suppress(OSError):
            connection = socket.create_connection((host, port), 2)
            connection.settimeout(0.1)
            held.append(connection)
            connection.sendall(dice.choice(SAYINGS))
        if held:
            with contextlib.suppress(OSError):
                dice.choice(held).sendall(b"x")
        if len(held) >= most:
            held.pop(dice.randrange(len(held))).close()
        if turn % 20 == 0:
            time.sleep(0.02)


if __name__ == "__main__":
    bother(sys.argv[1], int(sys.argv[2]), [int(port) for port in sys.argv[3:]])
