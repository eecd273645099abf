"""One verb of k8s, as the command runs it, that writes what it took to a file: requests sent, bytes
received, KiB of memory at its peak.

python benchmarks/k8s_side.py FILE VERB ...
"""

import http.client
import json
import signal
import ssl
import sys
from collections import Counter
from pathlib import Path
from typing import Any

counts: Counter[str] = Counter()
send, receive = http.client.HTTPConnection.putrequest, ssl.SSLSocket.recv_into


def putrequest(connection: Any, method: str, url: str, *more: Any, **others: Any) -> None:
    counts["requests"] += 1
    counts["watches"] += "watch=true" in url
    send(connection, method, url, *more, **others)


def peak() -> int:
    """Return KiB. What ``wait4`` says begins at the memory of the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def recv_into(connection: Any, *arguments: Any) -> int:
    size = receive(connection, *arguments)
    counts["bytes"] += size
    return size


if __name__ == "__main__":
    http.client.HTTPConnection.putrequest = putrequest  # type: ignore[assignment,method-assign]
    ssl.SSLSocket.recv_into = recv_into  # type: ignore[assignment,method-assign]
    from k8s.__main__ import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background lacks
    file, *arguments = sys.argv[1:]
    try:
        code = main(arguments)
    finally:
        Path(file).write_text(json.dumps({**counts, "peak": peak()}))
    sys.exit(code)
