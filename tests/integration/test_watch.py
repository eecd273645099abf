"""``trainer watch`` as a process: how it begins, answers and ends."""

import contextlib
import json
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import processes
from tests.support.folders import make_run


@contextlib.contextmanager
def watching(run: Path) -> Iterator[str]:
    """Watch a run until the end of the block; give the page's address."""
    with processes.running("watch", "--run", str(run)) as process:
        assert process.stdout is not None
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/", said)):
            line = process.stdout.readline()
            assert line, process.communicate()
            said += line
        yield found[0]
        process.send_signal(signal.SIGINT)
        code, out, err = processes.finish(process, 60)
        assert (code, out, err) == (0, "", "")


def state(address: str) -> Any:
    with urllib.request.urlopen(f"{address}state", timeout=60) as answer:
        return json.loads(answer.read())


def test_a_run_is_served_from_before_it_begins_until_ctrl_c(tmp_path: Path) -> None:
    with watching(tmp_path / "run") as address:
        processes.wait_until(lambda: "fills itself" in state(address)["words"], 60)
        make_run(tmp_path / "other").rename(tmp_path / "run")
        processes.wait_until(lambda: state(address)["state"] == "finished", 60)
        with urllib.request.urlopen(f"{address}report", timeout=60) as answer:
            assert "Confusion matrix" in answer.read().decode()


def test_what_cannot_be_served_is_told_in_one_line(tmp_path: Path) -> None:
    runs = make_run(tmp_path).parent
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, words in (
            (("--run", str(runs / "run"), "--port", port), f"port: {port}: Address already in use"),
            (("--run", str(runs / "run"), "--port", "99999"), "port: 99999: must be 0 to 65535"),
            (
                ("--run", str(runs)),
                f"holds 1 run and is not a run itself; give one, such as {runs}/run",
            ),
        ):
            code, out, err = processes.run("watch", *arguments)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert words in err
