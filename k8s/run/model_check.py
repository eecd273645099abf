"""The user's own model, tried before it is sent: built in a process as clean as a worker's."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import trainer
from k8s.run_file import RunSpec
from trainer.common.text import one_line
from trainer.runs import user_code

State = Literal["ok", "warning", "failed"]

SECONDS = 120.0  # for the process


def examine(spec: RunSpec, shape: tuple[int, int, int], classes: int) -> tuple[State, str]:
    """Return the state of the check of a user's own model, and one line.

    It is built for images of a height, width and channels, and for the number of classes.
    """
    model = spec.config.model
    assert model is not None
    if importlib.util.find_spec("tensorflow") is None:
        return "ok", f"{model}: not tried, as TensorFlow is not installed here"
    with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        arguments = ["--model", model, "--shape", "x".join(map(str, shape))]
        if spec.archive is not None:
            user_code.unpack(spec.archive.data, Path(folder) / "code")
            arguments += ["--code", f"{folder}/code"]
        try:
            done = subprocess.run(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "trainer",
                    "check",
                    *arguments,
                    f"--classes={classes}",
                ],
                cwd=folder,
                # Without the user's PYTHONPATH, which no pod has.
                env={**os.environ, "PYTHONPATH": str(Path(trainer.__file__).parents[1])},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "warning", f"{model}: was not built within {SECONDS:g} s"
    said = done.stderr.strip().splitlines()
    if done.returncode:
        words = said[-1] if said else f"ended with exit code {done.returncode}"
        return "failed", one_line(words.removeprefix("trainer: "), 600)
    warned = [line for line in said if line.startswith("trainer: warning: ")]
    if warned:
        return "warning", one_line(warned[0].removeprefix("trainer: warning: "), 600)
    return "ok", one_line(done.stdout, 300)
