"""A gang on machines of its own, as pods are, and on networks that lose, delay and cut."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes, series, shared, switch, warm
from tests.support.hosts import ipv6_hosts, need_namespaces
from trainer.cluster_spec import environment

SERVICE = "yard"
PORTS = ("2222", "2223", "2224")  # TensorFlow's, the rendezvous's, the all-reduce's
PROXY = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
STEPS = 600 if series.LONG else 300
RANKS = 3 if series.LONG else 2  # of a gang that a network disturbs
START = subprocess.Popen if series.LONG else warm.Fork  # of a rank
THREADS, FILES = 32, 200  # of a supervisor, whoever calls it


def job(data: Path, run: Path) -> tuple[str, ...]:
    return (
        *("train", "--model", "tiny_models:noisy", "--validation", "400"),
        *("--batch-size", "120", "--eval-epochs", "20"),
        *("--chunk-steps", "20", "--checkpoint-steps", "200"),
        *("--steps", str(STEPS), "--xla", "off", "--no-report"),
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
                START(
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


Undisturbed = Callable[[int], str]


@pytest.fixture(scope="module")
def undisturbed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Return a function that gives the weights of a local gang of so many workers."""

    def weights(workers: int) -> str:
        def train(run: Path) -> None:
            code, _, err = warm.run(*job(digits, run), "--workers", str(workers))
            assert (code, err) == (0, "")

        run = shared.once(tmp_path_factory, f"undisturbed-gang-of-{workers}", train)
        return str(json.loads((run / "result.json").read_text())["weights_sha256"])

    return weights


@pytest.mark.early
def test_a_gang_meets_by_ipv6_past_a_proxy_and_strangers_change_nothing(
    digits: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    need_namespaces()
    quiet = undisturbed(2)
    with ipv6_hosts(SERVICE) as hosts, gang(hosts, digits, tmp_path / "bothered") as started:
        # From rank 1's host: the network keeps nobody else out here either.
        command = ["-m", "tests.support.stranger", "fd00::1", "2000", *PORTS]
        stranger = subprocess.Popen(
            [*hosts[1], sys.executable, *command], env=processes.environment()
        )
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
    assert bothered["weights_sha256"] == quiet
    assert "STRANGER" not in out
    assert "\x1b" not in out
    assert "did not prove to be of this gang" in out
    assert 0 < most["Threads"] <= THREADS
    assert 0 < most["files"] <= FILES
    attempts = (tmp_path / "bothered" / "attempts.jsonl").read_text().splitlines()
    assert [json.loads(line)["last_step"] for line in attempts] == [STEPS]


@series.only_long
@pytest.mark.parametrize("ranks", [5, 8, 20, 30])
def test_many_hosts_end_with_the_weights_of_as_many_processes(
    ranks: int, digits: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    switch.need_switch()
    quiet = undisturbed(ranks)
    run = tmp_path / "run"
    with (
        switch.network(SERVICE, ranks) as network,
        gang(network.hosts, digits, run) as started,
    ):
        assert end(run, started)[0]["weights_sha256"] == quiet


@pytest.mark.parametrize(
    ("cut", "seconds"),
    [
        pytest.param(lambda network: network.isolate(1), 3.0, id="a host"),
        pytest.param(
            lambda network: network.cut.add((1, 2)), 3.0, id="one way", marks=series.only_long
        ),
        pytest.param(
            lambda network: network.isolate(0), 40.0, id="rank 0's host", marks=series.only_long
        ),
        pytest.param(
            lambda network: network.cut.add((2, 0)), 40.0, id="to rank 0", marks=series.only_long
        ),
    ],
)
def test_delays_lost_packets_and_a_cut_that_heals_change_no_weights(
    cut: Callable[[switch.Network], None],
    seconds: float,
    digits: Path,
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    switch.need_switch()
    run = tmp_path / "run"
    quiet = undisturbed(RANKS)
    with (
        switch.network(SERVICE, RANKS) as network,
        gang(network.hosts, digits, run) as started,
    ):
        network.delay, network.loss = 5e-4, 0.01
        processes.wait_until(lambda: list(run.glob("checkpoints/*")), 120)
        cut(network)
        time.sleep(seconds)
        network.cut.clear()
        assert end(run, started)[0]["weights_sha256"] == quiet


def usage(pid: int) -> dict[str, int]:
    """Threads and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    threads = next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
    return {"Threads": threads, "files": len(list(Path(f"/proc/{pid}/fd").iterdir()))}
