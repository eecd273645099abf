"""A checkpoint that is hard to keep."""

import hashlib

import numpy as np

from trainer.runs.checkpoint import Checkpoint

DIGEST = hashlib.sha256(b"settings").hexdigest()


def sample() -> Checkpoint:
    """Values that a format may lose."""
    nans = np.array([0x7FC00000, 0x7F800001, 0xFFC12345], np.uint32).view(np.float32)
    return Checkpoint(
        step=123_456_789,
        arrays={
            "scalar": np.array(3.5, np.float32),
            "signed zeros": np.array([0.0, -0.0], np.float32),
            "nans": nans,
            "extremes": np.array([np.inf, -np.inf, 1e-45, 3.4e38], np.float32),
            "words": np.array([0, 1, 2**32 - 1], np.uint32),
            "empty": np.empty((0, 3), np.float32),
            "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
            "a view": np.arange(20, dtype=np.int64)[::3],
            "na/me é": np.array([True, False]),
        },
        config_digest=DIGEST,
        validations=((100, 0.1), (200, 1 / 3), (300, 1.0)),
    )
