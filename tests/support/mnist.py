"""The real MNIST, where this machine has it; it is no part of the project."""

import os
from pathlib import Path


def find_mnist() -> Path | None:
    """The folder MNIST_DIR names, else ../shared/data/mnist beside the repository, else None."""
    named = os.environ.get("MNIST_DIR")
    if named:
        return Path(named)
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist"
    return beside if beside.is_dir() else None
