"""Data for sides that cannot read the trainer's: one .npz file."""

from pathlib import Path

import numpy as np

from trainer.data import dataset


def save(uri: str, validation: int, folder: Path) -> str:
    """Write images (uint8 [n, h, w, c]) and labels of the training and the test split.

    Args:
        uri: of the dataset.
        validation: images left out of the training split.
        folder: that takes the file.

    Returns:
        The file's path.
    """
    data, path = dataset.load(uri, validation), folder / "arrays.npz"
    np.savez(
        path,
        images=data.train.images,
        labels=data.train.labels,
        test_images=data.test.images,
        test_labels=data.test.labels,
    )
    return str(path)
