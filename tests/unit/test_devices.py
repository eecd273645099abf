import os
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer import devices, presets
from trainer.cluster import ALONE, Cluster
from trainer.dataset import Dataset, Split

NONE = Split(np.zeros((0, 28, 28, 1), np.uint8), np.zeros(0, np.int32))
DATA = Dataset(NONE, NONE, NONE, 10, "")
PODS = Cluster(0, ("a-0.a:1", "a-1.a:1"), local=False)


@pytest.mark.parametrize(
    ("settings", "cluster", "asked"),
    [
        ({"preset": "softmax"}, ALONE, [1]),  # small steps are slower with more
        ({"preset": "softmax", "batch_size": 1000}, ALONE, []),
        ({"preset": "dnn-128-32"}, ALONE, []),
        ({"preset": "cnn", "batch_size": 1}, ALONE, []),  # nothing is known of its steps
        ({"preset": "softmax", "model": "a.b:c"}, ALONE, []),
        ({"preset": "softmax", "threads": 3}, ALONE, [3]),
        ({"preset": "softmax"}, PODS, []),  # the pod has the processors that it asked for
    ],
)
def test_threads_depend_on_the_size_of_a_step(
    settings: dict[str, Any],
    cluster: Cluster,
    asked: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    got: list[int] = []
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", got.append)
    before = os.sched_getaffinity(0)
    devices.set_threads(presets.configure({}, settings), cluster, DATA)
    assert got == asked
    assert os.sched_getaffinity(0) == before
