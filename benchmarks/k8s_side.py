"""One verb of k8s, as the command runs it, that writes what it sent and received to a file.

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
        Path(file).write_text(json.dumps(counts))
    sys.exit(code)
