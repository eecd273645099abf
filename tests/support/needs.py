"""What a test needs beside Python, by its markers, and a guard against tests that say too little.

A test that imports TensorFlow carries the marker ``tensorflow``, one that starts a process carries
``process``. ``--fast`` leaves out every test with a marker of MARKERS. Modules marked as a whole
are not even imported then, since most of them import TensorFlow at their top.
"""

import ast
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARKERS = ("tensorflow", "process", "browser", "cluster", "long")
FOLDERS = {
    "integration": ("tensorflow", "process"),
    "browser": ("tensorflow", "process", "browser"),
    "cluster": ("process", "cluster"),
}
_STARTS = ("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen")


def of_folder(path: Path) -> tuple[str, ...]:
    """Return the markers of all tests in a file by the folder of tests/ that it is in."""
    return FOLDERS.get(path.relative_to(Path(__file__).parents[1]).parts[0], ())


def is_slow(path: Path) -> bool:
    """Tell whether every test of a module has a marker."""
    text = path.read_text()
    marks = {
        inner.attr
        for node in (ast.parse(text).body if "pytestmark" in text else ())
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute)
    }
    return bool(of_folder(path) or marks & set(MARKERS))


class Guard:
    """Refuses what the test that is running is not marked for."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self._markers = set(MARKERS)
        sys.addaudithook(self._audit)

    def allow(self, markers: set[str]) -> None:
        """Take the markers of the test that runs from here on."""
        self.refused.clear()
        self._markers = markers

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Refuse nothing for a while."""
        before, self._markers = self._markers, set(MARKERS)
        yield
        self._markers = before

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import" and arguments[0] == "tensorflow":
            self._need("tensorflow", "imports TensorFlow")
        elif event in _STARTS:
            self._need("process", f"starts a process ({event})")

    def _need(self, marker: str, what: str) -> None:
        if marker not in self._markers:
            self.refused.append(f"this test {what} and has no marker {marker!r}")
            raise AssertionError(self.refused[-1])


GUARD = Guard()
