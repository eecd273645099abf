"""Whatever happens to a gang's processes, it continues by itself and ends with the same weights."""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes, series, shared, warm
from tests.support.stores import Stores, opened
from trainer.cluster_spec import environment
from trainer.gang.gang_key import VARIABLE
from trainer.runs import checkpoint
from trainer.storage.base import open_storage

KILLS = series.length(1, 20)
FAULTS = series.length(2, 50)
CHUNK = 20
STEPS = 500 if series.LONG else 300
LOADED_STEPS = 20_000
ENDLESS = 1_000_000


def job(data: Path, run: Path, workers: int, steps: int = STEPS) -> tuple[str, ...]:
    # Who waits for an endless one wants the cores for what it waits for.
    model = "calm" if steps == ENDLESS else "noisy"
    return (
        *("train", "--model", f"tiny_models:{model}", "--workers", str(workers)),
        *("--validation", "400", "--steps", str(steps), "--chunk-steps", str(CHUNK)),
        *("--checkpoint-steps", "40", "--eval-epochs", "4"),
        *("--data", str(data), "--run", str(run)),
    )


CGROUP = Path("/proc/self/cgroup")


def has_metrics(run: Path) -> Callable[[], bool]:
    return lambda: (run / "metrics.jsonl").exists()


def newest(run: Path) -> int:
    return max(checkpoint.steps(open_storage(str(run))), default=0)


def attempts(run: Path) -> list[dict[str, Any]]:
    path = run / "attempts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


Undisturbed = Callable[[int], dict[str, Any]]


@pytest.fixture(scope="session")
def undisturbed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Return a function that gives the result of ``job`` with so many workers."""

    def result(workers: int) -> dict[str, Any]:
        def train(run: Path) -> None:
            code, _, err = warm.run(*job(digits, run, workers))
            assert (code, err) == (0, "")

        run = shared.once(tmp_path_factory, f"undisturbed-{workers}", train)
        return dict(json.loads((run / "result.json").read_text()))

    return result


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=series.only_long)])
def test_killed_at_any_moment_the_same_command_ends_with_the_same_weights(
    workers: int, digits: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    whole = undisturbed(workers)
    seconds = whole["wall_seconds"]
    seed = series.seed("TRAINYARD_KILL_SEED")
    moments = random.Random(seed)
    for attempt in range(KILLS):
        run = tmp_path / str(attempt)
        with warm.running(*job(digits, run, workers)):
            time.sleep(moments.uniform(0.2, 1.0) * seconds)
        code, _, err = warm.run(*job(digits, run, workers))
        assert (code, err) == (0, "")
        result = json.loads((run / "result.json").read_text())
        assert result["weights_sha256"] == whole["weights_sha256"], (seed, attempt)
        assert result["test_loss"] == whole["test_loss"]
        shutil.rmtree(run)


STRIKES = {
    signal.SIGKILL: ("killed", "its worker was killed by SIGKILL"),
    signal.SIGSTOP: ("stalled", "its worker gave no sign of life for 10 s"),
}


@pytest.mark.early
def test_a_lost_worker_comes_back_in_place_and_at_most_a_chunk_is_lost(
    digits: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    strikes = [(signal.SIGKILL, 1), (signal.SIGSTOP, 0)]
    if series.LONG:
        strikes += [(signal.SIGKILL, 0), (signal.SIGSTOP, 1)]
    with warm.running(*job(digits, run, 2, ENDLESS), "--log-format", "json") as gang:
        processes.wait_until(has_metrics(run))
        supervisors = processes.supervisors(gang.pid)
        for turn, (number, rank) in enumerate(strikes):
            lost = processes.workers(gang.pid)
            other = lost[1 - rank]
            assert "glibc.malloc.hugetlb=1" in processes.environment_of(other)["GLIBC_TUNABLES"]
            os.kill(lost[rank], number)
            processes.wait_until(lambda: len(attempts(run)) > turn, 60)  # noqa: B023
            ended = attempts(run)[turn]["last_step"]
            processes.wait_until(lambda: newest(run) > ended + CHUNK)  # noqa: B023
            assert not Path(f"/proc/{other}").exists()
        assert processes.supervisors(gang.pid) == supervisors
        gang.send_signal(signal.SIGTERM)
        code, out, _ = processes.finish(gang, limit=90)
    assert code == 75
    told = [json.loads(line) for line in out.splitlines()]
    resumptions = [line["step"] for line in told if line.get("event") == "resumed"]
    assert len(resumptions) == len(strikes)
    for (number, rank), resumed, attempt in zip(strikes, resumptions, attempts(run), strict=False):
        cause = attempt["cause"]
        assert (cause["kind"], cause["message"]) == STRIKES[number]
        assert cause["rank"] == rank
        words = f"rank {rank}: {cause['message']}; starting again"
        broken = told.index({"warning": words, "event": "restarting", "failure": cause})
        finished = max(line["step"] for line in told[:broken] if "loss" in line)
        assert resumed == attempt["last_step"]
        # Rank 0 reports chunks: as a survivor it stored its last, else the other may be behind.
        assert finished - (CHUNK if rank == 0 else 0) <= resumed <= finished + CHUNK


@pytest.mark.early
def test_a_worker_held_inside_a_step_is_found_though_it_is_alive(
    digits: Path, tmp_path: Path
) -> None:
    run, env = tmp_path / "run", {"HELD": str(tmp_path / "held")}
    held = (*job(digits, run, 2, 60), "--model", "tiny_models:held", "--xla", "off")
    code, _, err = warm.run(*held, env=env)
    assert (code, err) == (0, "")
    [first, _] = attempts(run)
    why = r"its worker is alive but has finished no step for \d+ s"
    assert first["cause"]["kind"] == "stalled"
    assert re.fullmatch(why, first["cause"]["message"])
    assert CHUNK <= first["last_step"] < 30
    assert (tmp_path / "held").exists()


@pytest.mark.early
def test_any_process_of_a_gang_may_be_killed_and_none_outlives_it(
    digits: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with warm.running(*job(digits, run, 2, ENDLESS)) as gang:
        processes.wait_until(has_metrics(run))
        for rank in (0, 1) if series.LONG else (1,):
            os.kill(processes.forkservers(gang.pid)[rank], signal.SIGKILL)
            os.kill(processes.supervisors(gang.pid)[1 - rank], signal.SIGKILL)
            step = newest(run)  # they may have stored one more before
            processes.wait_until(lambda: newest(run) > step + 3 * CHUNK)  # noqa: B023
        below = processes.descendants(gang.pid)
        os.kill(gang.pid, signal.SIGKILL)
    processes.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), 90)


def test_a_second_supervisor_of_a_rank_disturbs_nobody_and_one_that_leaves_is_waited_for(
    digits: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with warm.running(*job(digits, run, 2, ENDLESS)) as gang:
        processes.wait_until(has_metrics(run))
        before = processes.supervisors(gang.pid)
        env = processes.environment_of(before[1])
        code, _, err = warm.run(
            *job(digits, run, 2, ENDLESS),
            *("--peer-deadline", "3"),
            env=environment(1, 2, int(env["TRAINYARD_PORT"])) | {VARIABLE: env[VARIABLE]},
        )
        assert code == 69
        assert "another supervisor of rank 1 is connected" in err
        step = newest(run)
        processes.wait_until(lambda: newest(run) > step)
        assert not attempts(run)

        parts = [os.sched_getaffinity(pid) for pid in processes.workers(gang.pid).values()]
        if len(os.sched_getaffinity(0)) > 1:
            assert set.union(*parts) == os.sched_getaffinity(0)
            assert not set.intersection(*parts)
        os.kill(before[1], signal.SIGTERM)
        processes.wait_until(lambda: attempts(run))
        processes.wait_until(lambda: newest(run) > attempts(run)[0]["last_step"])
        after = processes.supervisors(gang.pid)
    cause = attempts(run)[0]["cause"]
    assert (cause["kind"], cause["rank"]) == ("stopped", 1)
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_worker_that_fails_again_and_again_ends_the_gang_with_its_words(
    digits: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, out, err = warm.run(
        *("train", "--model", "tiny_models:broken", "--workers", "2", "--max-restarts", "1"),
        *("--validation", "0", "--data", str(digits), "--run", str(run)),
    )
    assert code == 1
    assert err.startswith("trainer: rank ")
    assert "its worker ended with code 1: ZeroDivisionError: Exception encountered" in err
    assert err.endswith("(2 starts in a row brought no new step)\n")
    assert err.count("\n") == 1
    assert "line " in out  # the traceback: the model is the user's
    assert len(attempts(run)) == 2


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """Give a control group with a limit of 1.5 GiB; only root may make one."""
    own = {line.split(":")[1]: line.split(":")[2] for line in CGROUP.read_text().splitlines()}
    mount = Path("/sys/fs/cgroup")
    version_1 = mount / "memory" / own.get("memory", "/").strip("/")
    parent = version_1 if "memory" in own else mount / own.get("", "/").strip("/")
    group = parent / f"trainyard-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if "memory" in own else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(3 << 29))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"needs a control group with a memory limit: {error}")
    yield group
    processes.wait_until(lambda: not (group / "cgroup.procs").read_text(), 30)
    group.rmdir()


def test_a_worker_that_the_kernel_kills_for_memory_is_told_with_the_limit(
    small_memory: Path, digits: Path, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "trainer", "train", "--model", "tiny_models:hungry"),
        *("--validation", "0", "--max-restarts", "0"),
        *("--data", str(digits), "--run", str(tmp_path / "run")),
    ]
    done = subprocess.run(
        ["bash", "-c", f"echo $$ > {small_memory}/cgroup.procs; exec {shlex.join(command)}"],
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=processes.LIMIT,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(
        r"trainer: its worker was killed for lack of memory \(limit 1\.5 GiB"
        r"(, peak 1\.[45] GiB)?\); give it more memory or lower batch_size\n",
        done.stderr,
    )


def test_asked_to_stop_the_last_chunk_is_stored_and_the_next_run_ends_the_same(
    digits: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with warm.running(*job(digits, run, 2)) as gang:
        processes.wait_until(has_metrics(run))
        gang.send_signal(signal.SIGTERM)
        code, _, err = processes.finish(gang, limit=90)
    assert (code, err.count("\n")) == (75, 1)
    stopped_at = int(err.partition("stopped at step ")[2].split()[0])
    assert newest(run) == stopped_at
    # A sum of two numbers is the same in either order, whoever adds them up.
    code, out, err = warm.run(*job(digits, run, 2), "--all-reduce", "tensorflow")
    assert (code, err) == (0, "")
    assert f"resuming at step {stopped_at}\n" in out
    result = json.loads((run / "result.json").read_text())
    assert result["weights_sha256"] == undisturbed(2)["weights_sha256"]


def test_gradients_in_bfloat16_train_to_the_same_weights_each_time_and_as_well(
    digits: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    fewer, results = ("--all-reduce-precision", "bfloat16"), []
    for run in (tmp_path / "whole", tmp_path / "stopped"):
        if run.name == "stopped":
            with warm.running(*job(digits, run, 2), *fewer) as gang:
                processes.wait_until(has_metrics(run))
                gang.send_signal(signal.SIGTERM)
                assert processes.finish(gang, limit=90)[0] == 75
            code, _, err = warm.run(*job(digits, run, 2))
            assert (code, err.count("\n")) == (2, 1)
            assert "all_reduce_precision" in err
        code, out, err = warm.run(*job(digits, run, 2), *fewer)
        assert (code, err) == (0, "")  # all ranks have compared their weights
        assert ", all-reduce: TCP in bfloat16\n" in out
        results.append(json.loads((run / "result.json").read_text()))
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    exact = undisturbed(2)
    assert results[0]["weights_sha256"] != exact["weights_sha256"]
    assert abs(results[0]["test_accuracy"] - exact["test_accuracy"]) < 0.02


@series.only_long
def test_busy_cores_raise_no_false_alarm(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    count = 2 * (os.cpu_count() or 1)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        code, _, err = warm.run(*job(digits, run, 2, steps=LOADED_STEPS), limit=3600)
    finally:
        for each in busy:
            each.kill()
            each.wait()
    assert (code, err) == (0, "")
    assert [attempt["cause"] for attempt in attempts(run)] == [None]


def test_a_missing_peer_is_named_at_the_deadline(digits: Path, tmp_path: Path) -> None:
    port = processes.free_ports(3)
    arguments = (*job(digits, tmp_path / "run", workers=1), "--peer-deadline", "4")
    code, _, err = warm.run(*arguments, env=environment(rank=1, workers=2, port=port))
    assert code == 69
    assert err == (
        "trainer: rank 1: the gang of 2 did not meet within 4 s: missing rank 0 "
        f"(127.0.0.1:{port}); 127.0.0.1:{port + 2}: Connection refused; see why it did not come, "
        "or raise peer_deadline\n"
    )
    message = tmp_path / "termination-log"
    message.touch()
    env = environment(rank=0, workers=2, port=port) | {"TRAINYARD_TERMINATION_LOG": str(message)}
    code, _, err = warm.run(*arguments, env=env)
    assert code == 69
    assert f"missing rank 1 (127.0.0.1:{port + 1}); rank 0 at 127.0.0.1:{port + 2} waited" in err
    record = json.loads(message.read_text())
    assert (record["kind"], record["rank"], record["missing"]) == ("peers_missing", 0, [1])
    assert f"trainer: rank 0: {record['message']}; {record['remedy']}\n" == err


def test_a_rank_whose_peers_have_finished_and_left_ends_well(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    port = processes.free_ports(3)
    arguments = job(digits, run, workers=1)
    for rank in (0, 1):
        with processes.running(*arguments, env=environment(rank, 2, port)) as alone:
            _wait_for_tensorflow(alone.pid)
            run.mkdir(exist_ok=True)  # which rank 1 leaves to rank 0
            (run / "result.json").write_text("{}")  # as if the others had written it just now
            code, _, err = processes.finish(alone)
        assert (code, err) == (0, "")
        shutil.rmtree(run)


def _wait_for_tensorflow(supervisor: int) -> None:
    """Wait until its forkserver has looked for a result and loads TensorFlow."""

    def is_loaded() -> bool:
        maps = [Path(f"/proc/{pid}/maps") for pid in processes.children(supervisor)]
        return any("libtensorflow_framework" in each.read_text() for each in maps)

    processes.wait_until(is_loaded)


@pytest.mark.parametrize("taken", [1, 2], ids=["a rank's", "the rendezvous's"])
def test_a_port_that_stays_taken_is_named(taken: int, digits: Path, tmp_path: Path) -> None:
    port = processes.free_ports(3)
    with socket.create_server(("127.0.0.1", port + taken)):
        code, _, err = warm.run(*job(digits, tmp_path / "run", workers=2), "--port", str(port))
    assert code == 69
    assert err == (
        f"trainer: rank {taken % 2}: port {port + taken} cannot be listened on "
        "(Address already in use); free it or give another --port\n"
    )


def test_two_gangs_on_one_folder_end_with_the_same_weights(
    digits: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    slowly = ("--model", "tiny_models:calm")  # else one may be over before the other begins
    one, two = (warm.start(*job(digits, run, 2), *slowly) for _ in range(2))
    ended = [processes.finish(each) for each in (one, two)]
    assert [code for code, _, _ in ended] == [0, 0]
    weights = json.loads((run / "result.json").read_text())["weights_sha256"]
    assert weights == undisturbed(2)["weights_sha256"]
    # Twice as many workers as cores, where there are two: no false alarm is raised. Both write the
    # same file, so that of one its line may be missing, but not what it says.
    assert {str(attempt["cause"]) for attempt in attempts(run)} == {"None"}
    assert all("starting again" not in out + err for _, out, err in ended)


def test_a_reader_that_leaves_does_not_end_the_training(digits: Path, tmp_path: Path) -> None:
    quick = ("--no-report", "--tensorboard", "off", "--xla", "off")
    arguments = (*job(digits, tmp_path / "run", 2, 60), *quick)
    requests = warm.lend(tmp_path / "python")
    command = shlex.join([str(tmp_path / "python"), "-m", "trainer", *arguments])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"],
        env=processes.environment(),
        pass_fds=[requests],
        capture_output=True,
        text=True,
        timeout=processes.LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.early
def test_chaos_leaves_the_weights_alone(stores: Stores) -> None:
    with opened(stores("s3")) as folder:
        code, out, err = warm.run(
            *("chaos", "--model", "tiny_models:noisy", "--faults", str(FAULTS)),
            *("--seed", "98", "--steps", "500", "--store", folder.uri, "--json"),
            env=stores("s3").environment,
            limit=4 * processes.LIMIT,
        )
        left = folder.list()
    assert (code, err, left) == (0, "", [])
    told = json.loads(out)
    assert sum(told["faults"].values()) == FAULTS
    assert {"kill", "store"} <= told["faults"].keys()
    assert (told["hangs"], told["mismatches"]) == (0, 0)
    assert told["lost_steps"]["worst"] <= told["lost_steps"]["chunk_steps"]
