import os
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer import presets
from trainer.cluster_spec import ALONE, Cluster
from trainer.config import parse
from trainer.data.dataset import Dataset, Split
from trainer.errors import ConfigError
from trainer.train import devices

pytestmark = pytest.mark.tensorflow

NONE = Split(np.zeros((0, 28, 28, 1), np.uint8), np.zeros(0, np.int32))
DATA = Dataset(NONE, NONE, NONE, 10, "")
PODS = Cluster(0, ("a-0.a:1", "a-1.a:1"), local=False)


CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("settings", "cluster", "asked"),
    [
        ({"preset": "softmax"}, ALONE, {"intra": 1}),  # small steps are slower with more
        ({"preset": "softmax", "batch_size": 1000}, ALONE, {}),
        ({"preset": "dnn-128-32"}, ALONE, {}),
        ({"preset": "softmax", "model": "a.b:c"}, ALONE, {}),
        ({"preset": "softmax", "threads": 3}, ALONE, {"intra": 3}),
        ({"preset": "softmax"}, PODS, {}),  # the pod has the processors that it asked for
        # Convolutions: a thread for each part of the batch.
        ({"preset": "cnn", "threads": 2}, ALONE, {"inter": 2, "intra": 1}),
        ({"preset": "cnn", "threads": 8}, ALONE, {"inter": 4, "intra": 4}),  # of 32 images
        ({"preset": "cnn", "threads": 8}, PODS, {"inter": 2, "intra": 6}),  # of the worker's 64
        ({"preset": "cnn", "threads": 1}, ALONE, {"intra": 1}),
        ({"preset": "cnn", "batch_size": 1, "threads": 2}, ALONE, {"intra": 2}),
        ({"preset": "cnn", "threads": 2, "xla": "on"}, ALONE, {"intra": 2}),
        ({"preset": "cnn", "threads": 2, "layers": "keras"}, ALONE, {"intra": 2}),
        ({"preset": "cnn", "threads": 2, "model": "a.b:c"}, ALONE, {"intra": 2}),
        ({"preset": "cnn", "threads": 2, "precision": "mixed_bfloat16"}, ALONE, {"intra": 2}),
        (
            {"preset": "cnn", "batch_size": 32 * CORES},
            ALONE,
            {"inter": CORES, "intra": 1} if CORES > 1 else {},
        ),
    ],
)
def test_threads_depend_on_what_a_step_does(
    settings: dict[str, Any],
    cluster: Cluster,
    asked: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    got: dict[str, int] = {}
    for kind in ("intra", "inter"):
        monkeypatch.setattr(
            tf.config.threading,
            f"set_{kind}_op_parallelism_threads",
            partial(got.__setitem__, kind),
        )
    monkeypatch.setattr(
        tf.config.threading, "get_inter_op_parallelism_threads", lambda: got.get("inter", 0)
    )
    before = os.sched_getaffinity(0)
    config = presets.configure({}, settings)
    devices.set_threads(config, cluster, DATA)
    assert got == asked
    microbatches = devices.microbatches_of(config)
    assert microbatches == asked.get("inter", 1)
    if microbatches > 1:
        monkeypatch.setattr(
            tf.config.threading, "get_intra_op_parallelism_threads", lambda: got["intra"]
        )
        assert devices.threads(microbatches) == (config.threads or CORES)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("settings", "gpus", "reordered"),
    [
        ({"preset": "cnn"}, False, True),
        ({"preset": "mlp-100", "xla": "on"}, False, True),
        ({"preset": "cnn", "layers": "keras"}, False, False),
        ({"preset": "cnn", "model": "a.b:c"}, False, False),
        ({"preset": "cnn", "precision": "mixed_bfloat16"}, False, False),
        ({"preset": "cnn"}, True, False),
    ],
)
def test_layers_of_presets_are_reordered_on_cpus(
    settings: dict[str, Any], gpus: bool, reordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "on_gpus", lambda: gpus)
    config = presets.configure({}, settings)
    assert devices.is_reordered(config) == reordered
    assert reordered or devices.microbatches_of(config) == 1


class Two:
    """What is asked of the replicas of two workers with so many devices each."""

    def __init__(self, local: int) -> None:
        self.local, self.count = local, 2 * local


@pytest.mark.parametrize(
    ("all_reduce", "local", "gpus", "tcp"),
    [
        ("auto", 1, False, True),
        ("auto", 1, True, False),
        ("tcp", 1, True, True),
        ("tcp", 2, True, False),
        ("tensorflow", 1, False, False),
    ],
)
def test_gradients_that_tensorflow_sums_cannot_travel_in_fewer_bits(
    all_reduce: str, local: int, gpus: bool, tcp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "on_gpus", lambda: gpus)
    replicas: Any = Two(local)
    config = parse({"all_reduce": all_reduce})
    assert devices.is_tcp_used(config, replicas) == tcp
    assert devices.sent_as(config) == np.float32
    fewer = config.model_copy(update={"all_reduce_precision": "bfloat16"})
    assert np.dtype(devices.sent_as(fewer)).itemsize == 2
    if tcp:
        assert devices.is_tcp_used(fewer, replicas)
    else:
        with pytest.raises(
            ConfigError, match=r"^all_reduce_precision: 'bfloat16': .* send float32;"
        ):
            devices.is_tcp_used(fewer, replicas)
