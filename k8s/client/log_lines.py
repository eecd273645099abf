"""A pod's log as it comes over HTTP: lines, each with its time."""

import re
from collections.abc import Generator, Iterator
from datetime import datetime
from typing import Any

LONGEST_LINE = 1 << 20  # bytes of a log's line; a longer one comes in pieces


def split(response: Any) -> Iterator[bytes | None]:
    """Yield the lines of a log stream, and None where it was cut, without the last half line."""
    from urllib3.exceptions import HTTPError

    rest = b""
    try:
        for chunk in response.stream(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > LONGEST_LINE:  # its end may never come
                yield rest
                rest = b""
    except HTTPError:
        yield None
        return
    if rest:
        yield rest


def stamped(
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
