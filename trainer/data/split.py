"""Which of a dataset's images are for testing, where its source sets none apart."""

import numpy as np
import numpy.typing as npt

from trainer.common.text import plural
from trainer.data import sampler
from trainer.errors import DataError

TEST_SHARE = 0.15  # of the images, where a source sets none apart


def draw(
    labels: npt.NDArray[np.int64], share: float, seed: int, where: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return which of the images with these labels [n] to train on and to test on, by the seed.

    Every class keeps an image to train on, so that fewer than the share may be left for testing.

    Raises:
        DataError: none would be left for testing; ``where`` names the source.
    """
    order = sampler.permutation(seed, 0, len(labels))
    is_test = np.zeros(len(labels), bool)
    is_test[order[: round(len(labels) * share)]] = True
    for label in np.setdiff1d(labels, labels[~is_test]):
        is_test[np.flatnonzero(labels == label)[0]] = False
    if not is_test.any():
        raise DataError(
            f"{where}: {plural(len(labels), 'image')}, of which {share:g} leaves none for testing; "
            "give more images or a larger --test-share"
        )
    # In the order drawn: the first images, which are for validation, are then of every class.
    return order[~is_test[order]].astype(np.int64), np.flatnonzero(is_test)
