"""How Chromium is started for pages of this project, and what checks that all can read them."""

import os
import sys
from pathlib import Path
from typing import Any

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
_RUN = """() => axe.run({ resultTypes: ["violations"] }).then(({ passes, violations }) => [
    passes.length, violations.map(({ id, nodes }) => [id, nodes[0].html.slice(0, 200)])])"""


def check_accessible(page: Any) -> None:
    """See that axe-core has checked a page and has nothing to say against it."""
    page.evaluate(_axe())
    passes, troubles = page.evaluate(_RUN)  # no more of its results, which have every element
    assert not troubles, troubles
    assert passes > 30, passes


def _axe() -> str:
    """Return axe-core's script; skip the test without it, except in CI, which has to have it."""
    if not _AXE.exists():
        stop = pytest.fail if "CI" in os.environ else pytest.skip
        stop("no axe-core: 'make test' installs it if there is npm")
    return _AXE.read_text()
