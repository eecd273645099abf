"""A gang on machines of its own, as pods are: by IPv6, past a proxy, with strangers about."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes, warm
from tests.support.hosts import ipv6_hosts, need_namespaces
from trainer.cluster_spec import environment

SERVICE = "yard"
PORTS = ("2222", "2223", "2224")  # TensorFlow's, the rendezvous's, the ring's
PROXY = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
THREADS, FILES = 32, 200  # of a supervisor, whoever calls it


def job(data: Path, run: Path) -> tuple[str, ...]:
    return (
        *("train", "--model", "tests.support.tiny:noisy", "--validation", "400"),
        *("--chunk-steps", "20", "--steps", "400", "--xla", "off", "--no-report"),
        *("--data", str(data), "--run", str(run)),
    )


@contextlib.contextmanager
def gang(hosts: list[list[str]], data: Path, run: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a supervisor on each host, as a Job does in pods."""
    arguments = job(data, run)
    started = []
    try:
        for rank, prefix in enumerate(hosts):
            place = environment(rank, len(hosts), 2222) | {"TRAINYARD_SERVICE": SERVICE}
            command = [*prefix, sys.executable, "-m", "trainer", *arguments]
            started.append(
                subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=processes.environment(place | PROXY),
                )
            )
        yield started
    finally:
        for each in started:
            processes.kill_all(each.pid)
            each.wait()
            if each.stdout:
                each.stdout.close()


def end(run: Path, started: list[subprocess.Popen[str]]) -> tuple[dict[str, Any], str]:
    """The result of a run, and all that its supervisors wrote."""
    out = [processes.finish(each)[:2] for each in started]
    assert [code for code, _ in out] == [0] * len(out), out
    assert not list(run.glob("gang-*"))
    return json.loads((run / "result.json").read_text()), "".join(text for _, text in out)


@pytest.mark.early
def test_a_gang_meets_by_ipv6_past_a_proxy_and_strangers_change_nothing(
    digits: Path, tmp_path: Path
) -> None:
    need_namespaces()
    code, _, err = warm.run(*job(digits, tmp_path / "quiet"), "--workers", "2")
    assert (code, err) == (0, "")
    quiet = json.loads((tmp_path / "quiet/result.json").read_text())
    with ipv6_hosts(SERVICE) as hosts, gang(hosts, digits, tmp_path / "bothered") as started:
        # From rank 1's host: the network keeps nobody else out here either.
        command = [
            *hosts[1],
            sys.executable,
            "-m",
            "tests.support.stranger",
            "fd00::1",
            "2000",
            *PORTS,
        ]
        stranger = subprocess.Popen(command, env=processes.environment())
        try:
            most = {"Threads": 0, "files": 0}
            while started[0].poll() is None:
                with contextlib.suppress(OSError, StopIteration):
                    for name, value in usage(started[0].pid).items():
                        most[name] = max(most[name], value)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    started[0].wait(0.5)
            bothered, out = end(tmp_path / "bothered", started)
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()
    assert bothered["weights_sha256"] == quiet["weights_sha256"]
    assert "STRANGER" not in out
    assert "\x1b" not in out
    assert "did not prove to be of this gang" in out
    assert 0 < most["Threads"] <= THREADS
    assert 0 < most["files"] <= FILES
    attempts = (tmp_path / "bothered" / "attempts.jsonl").read_text().splitlines()
    assert [json.loads(line)["last_step"] for line in attempts] == [400]


def usage(pid: int) -> dict[str, int]:
    """Threads and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    threads = next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
    return {"Threads": threads, "files": len(list(Path(f"/proc/{pid}/fd").iterdir()))}
