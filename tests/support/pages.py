"""Running the commands of a page of the documentation, one after another, as its reader does."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import LIMIT, environment


def blocks(page: Path, language: str = "sh") -> list[str]:
    """Return the code of a page in this language, a text for each block."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def run(commands: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run shell commands in a folder, with the Python of the tests, and return what they print."""
    done = subprocess.run(
        ["bash", "-ec", re.sub(r"\bpython (?=-[mc] )", f"{sys.executable} -P ", commands)],
        cwd=folder,
        env=environment(env),
        timeout=2 * LIMIT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
