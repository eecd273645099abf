"""With --ship-logs, what a run printed can be read from its folder."""

import json
from contextlib import ExitStack
from pathlib import Path

from tests.support import processes, warm
from trainer.cluster_spec import environment
from trainer.runs import logs
from trainer.storage.local import LocalStorage

TALKATIVE = """
import os
from tiny_models import linear

def model(input_shape, classes):
    print("rank", os.environ["JOB_COMPLETION_INDEX"], "builds", flush=True)
    os.system("echo natively")
    return linear(input_shape, classes)
"""


def copied(run: Path, rank: int | None = None) -> list[str]:
    return [line for _, line in logs.read(LocalStorage(str(run)), rank)]


def test_the_copy_is_what_each_rank_printed(digits: Path, tmp_path: Path) -> None:
    run, message = tmp_path / "run", tmp_path / "termination-log"
    message.touch()
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    port = processes.free_ports(3)
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(
                warm.running(
                    *("train", "--model", "talkative:model", "--steps", "20", "--validation", "0"),
                    *("--ship-logs", "--data", str(digits), "--run", str(run)),
                    env={
                        **environment(rank, 2, port),
                        "PYTHONPATH": f"{processes.PATH}:{tmp_path}",
                        "TRAINYARD_TERMINATION_LOG": str(message if rank == 0 else tmp_path),
                    },
                )
            )
            for rank in (0, 1)
        ]
        for rank, process in enumerate(ranks):
            code, out, err = processes.finish(process)
            assert (code, err) == (0, "")
            assert copied(run, rank) == out.splitlines()
            assert {f"rank {rank} builds", "natively"} <= set(out.splitlines())
    [result] = [line for line in copied(run) if line.startswith("test accuracy ")]
    left = json.loads(message.read_text())
    assert (left["event"], left["message"]) == ("finished", result)


def test_a_gang_that_was_killed_leaves_the_earlier_part(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = (
        *("train", "--preset", "softmax", "--workers", "2", "--steps", "1000000"),
        *("--validation", "400", "--ship-logs", "--data", str(digits), "--run", str(run)),
    )
    with warm.running(*arguments) as gang:
        processes.wait_until(lambda: any("loss" in line for line in copied(run)))
        processes.kill_all(gang.pid)
        out, _ = gang.communicate(timeout=30)
    found = copied(run, 0)
    assert found == out.splitlines()[: len(found)]
    assert copied(run, 1) == []  # rank 0 speaks for the gang


def test_why_a_run_was_refused_is_copied_too(tmp_path: Path) -> None:
    given = ("train", "--data", str(tmp_path / "none"), "--run", str(tmp_path / "run"))
    code, out, err = warm.run(*given, "--ship-logs")
    assert (code, out, err.count("\n")) == (65, "", 1)
    assert copied(tmp_path / "run") == err.splitlines()


def test_without_the_setting_nothing_is_copied(tmp_path: Path) -> None:
    code, *_ = warm.run("train", "--data", str(tmp_path / "none"), "--run", str(tmp_path))
    assert code == 65
    assert list(tmp_path.iterdir()) == []
