"""Choices by device: the threads that compute, the strategy, the all-reduce, XLA."""

import os
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from trainer.cluster_spec import Cluster
from trainer.common import cpu
from trainer.config import TrainConfig, float32_alone
from trainer.data.dataset import Dataset
from trainer.errors import ConfigError
from trainer.train import forward, models, own_model
from trainer.train.replicas import Replicas

# Multiply-adds of a step's forward pass up to which a second thread costs more than it saves: one
# instead of two made steps of 0.25, 0.8 and 2.5 million 1.6, 1.2 and 1.1 times as fast, steps of
# 5 and 8 million 0.98 and 0.7 times (XLA, two cores of a Xeon).
SMALL_STEP = 3_000_000


def on_gpus() -> bool:
    """Return whether steps run on GPUs here."""
    return bool(tf.config.list_physical_devices("GPU"))


def set_threads(config: TrainConfig, cluster: Cluster, dataset: Dataset) -> None:
    """Choose what TensorFlow's threads do, before its first operator runs.

    Each worker of a local gang keeps to its own part of the cores, so that they do not get in each
    other's way. If a model convolves, each thread computes a microbatch, see ``forward``, instead
    of all threads one operator.
    """
    count = config.threads
    if not count and not on_gpus():
        if cluster.workers > 1:
            count = keep_to_part(cluster) if cluster.local else 0
        elif _is_small(config, dataset):
            count = 1
    if _is_cut(config):
        total = count or threads()
        microbatches = forward.microbatches_for(total, config.batch_size // cluster.workers)
        if microbatches > 1:  # each is a thread itself; they share the others
            tf.config.threading.set_inter_op_parallelism_threads(microbatches)
            count = max(1, total - microbatches)
    if count:
        tf.config.threading.set_intra_op_parallelism_threads(count)


def is_reordered(config: TrainConfig) -> bool:
    """Return whether ``forward`` computes the layers: a preset's, which are in a row, on CPUs."""
    if config.layers == "keras" or config.model is not None:
        return False
    return config.precision == "float32" and not on_gpus()


def is_tcp_used(config: TrainConfig, replicas: Replicas) -> bool:
    """Return whether our all-reduce sums the gradients, see benchmarks/results.md.

    GPUs have NCCL, and a sum needs a peer.

    Raises:
        ConfigError: TensorFlow sums them, and they are to travel in fewer bits.
    """
    if replicas.count == 1:
        return False
    wanted = config.all_reduce == "tcp" or (config.all_reduce == "auto" and not on_gpus())
    if wanted and replicas.local == 1:
        return True
    if config.all_reduce_precision != "float32":
        raise ConfigError(float32_alone(config))
    return False


def sent_as(config: TrainConfig) -> npt.DTypeLike:
    """Return the type in which gradients travel between workers."""
    found: npt.DTypeLike = tf.as_dtype(config.all_reduce_precision).as_numpy_dtype
    return found


def _is_cut(config: TrainConfig) -> bool:
    """Return whether microbatches may be computed side by side: in presets with convolutions."""
    return is_reordered(config) and not models.is_dense(config) and config.xla != "on"


def microbatches_of(config: TrainConfig) -> int:
    """Return how many microbatches a replica computes side by side, as ``set_threads`` chose."""
    chosen: int = tf.config.threading.get_inter_op_parallelism_threads()
    return chosen if chosen and _is_cut(config) else 1


def _is_small(config: TrainConfig, dataset: Dataset) -> bool:
    image = models.multiply_adds(config, dataset.input_shape, dataset.classes)
    return image is not None and config.batch_size * image <= SMALL_STEP


def keep_to_part(cluster: Cluster) -> int:
    """Keep this process to its part of the cores, and return how many these are."""
    if not hasattr(os, "sched_setaffinity"):  # macOS
        return max(1, cpu.cores() // cluster.workers)
    part = cluster.part(sorted(os.sched_getaffinity(0)))
    os.sched_setaffinity(0, part)
    return len(part)


def threads(microbatches: int = 1) -> int:
    """Return how many threads compute a step in so many microbatches, see ``set_threads``."""
    asked = os.environ.get("TF_NUM_INTRAOP_THREADS", "")  # as the manifest of a Job sets it
    chosen: int = tf.config.threading.get_intra_op_parallelism_threads()
    pool = chosen or (int(asked) if asked.isdecimal() else 0) or cpu.cores()
    if microbatches == 1:
        return pool
    return microbatches + pool if pool > 1 else microbatches  # a pool of one is not used


def make_strategy(cluster: Cluster) -> Any:
    """Return the strategy for this gang and this machine's devices.

    Several workers: MultiWorkerMirroredStrategy, which waits until all have joined. One worker:
    MirroredStrategy over several GPUs, else the default strategy.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        tf.config.experimental.enable_op_determinism()
    if cluster.workers > 1:
        os.environ["TF_CONFIG"] = cluster.tf_config()
        # gRPC would send what is for the peers to the proxy that the environment names.
        os.environ["no_grpc_proxy"] = ",".join(cluster.hosts)  # noqa: SIM112
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()


def is_xla_used(config: TrainConfig, model: Any, strategy: Any) -> bool:
    """Return whether XLA compiles the steps of a model of ``models.build``.

    Raises:
        ConfigError: it cannot, but is to.
    """
    if config.xla == "off" or (config.xla == "auto" and not is_xla_faster(model, strategy)):
        return False
    problem = own_model.xla_problem(model) if config.model is not None else None
    if problem and config.xla == "on":
        raise ConfigError(f"xla: 'on': cannot compile {config.model}: {problem}; set xla to 'off'")
    return not problem


def is_xla_faster(model: Any, strategy: Any) -> bool:
    """Return whether XLA makes steps faster.

    On CPUs it has no match for oneDNN's convolutions (steps of ``cnn`` took 50 ms in place of 8),
    and if a collective cuts the step in two, calling the halves costs what they gain (0.93 times
    the speed; both on two cores of a Xeon).
    """
    if on_gpus():
        return True
    return strategy.num_replicas_in_sync == 1 and not models.has_convolutions(model)
