"""How Chromium is started for pages of this project, and what checks that all can read them."""

import os
import sys
from pathlib import Path

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_AXE = Path(sys.prefix) / "axe/node_modules/axe-core/axe.min.js"


def axe() -> str:
    """Return axe-core's script; skip the test without it, except in CI, which has to have it."""
    if not _AXE.exists():
        stop = pytest.fail if "CI" in os.environ else pytest.skip
        stop("no axe-core: 'make test' installs it if there is npm")
    return _AXE.read_text()
