"""Commands in forks of a process that has loaded TensorFlow, which takes longer than they do.

What a fork does is what ``python -m trainer`` does: its own working directory, environment, output
and exit code.
"""

import atexit
import functools
import json
import os
import select
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tests.support import processes


def run(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[int, str, str]:
    """Run ``python -m trainer`` to its end; return exit code, standard output and error."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as name:
        paths = [str(Path(name) / stream) for stream in ("out", "err")]
        job = {
            "arguments": arguments,
            "environment": processes.environment(env),
            "folder": str(cwd or Path.cwd()),
            "paths": paths,
        }
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], processes.LIMIT)[0]:
            _end(server)
            raise AssertionError(f"{arguments}: still running after {processes.LIMIT} s")
        code = int(server.stdout.readline())
        out, err = (Path(path).read_text() for path in paths)
    return code, out, err


@functools.cache
def _server() -> "subprocess.Popen[str]":
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.warm"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=processes.environment(),
    )
    atexit.register(_end, server)
    return server


def _end(server: "subprocess.Popen[str]") -> None:
    processes.kill_all(server.pid)
    server.wait()
    _server.cache_clear()


def _serve(jobs: IO[str], answers: IO[str]) -> None:
    import trainer.train.trainer  # noqa: F401  # which loads TensorFlow

    for line in jobs:
        pid = os.fork()
        if pid == 0:
            _do(json.loads(line))
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        answers.flush()


def _do(job: dict[str, Any]) -> None:
    code: Any = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(job["paths"], 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.chdir(job["folder"])
        os.environ.clear()
        os.environ.update(job["environment"])
        sys.path[0] = job["folder"]
        sys.argv = ["trainer", *job["arguments"]]
        from trainer.__main__ import run as main

        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


if __name__ == "__main__":
    # A copy, as a child closes the server's own.
    _serve(os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w"))
