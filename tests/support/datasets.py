"""Small datasets in a folder."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data import dataset, idx

Arrays = dict[str, npt.NDArray[Any]]


TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = dataset.FILES


def some(train: int = 6, test: int = 4, shape: tuple[int, ...] = (3, 5)) -> Arrays:
    """A dataset of three classes; no two images are alike."""
    pixels = np.random.default_rng(1).integers(0, 256, (train + test, *shape)).astype(np.uint8)
    return {
        TRAIN_IMAGES: pixels[:train],
        TRAIN_LABELS: (np.arange(train) % 3).astype(np.uint8),
        TEST_IMAGES: pixels[train:],
        TEST_LABELS: (np.arange(test) % 3).astype(np.uint8),
    }


def write(folder: Path, arrays: Arrays, alias: int = 0) -> str:
    for name, array in arrays.items():
        stored = dataset.aliases(name)[alias]
        (folder / stored).write_bytes(idx.encode(array, compress=stored.endswith(".gz")))
    return str(folder)
