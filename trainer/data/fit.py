"""Whether settings fit a dataset: known before TensorFlow is loaded, or a sweep starts."""

import dataclasses
from collections.abc import Sequence

from trainer import presets, schedule
from trainer.config import TrainConfig
from trainer.data import dataset, stream
from trainer.data.dataset import Dataset
from trainer.storage.base import Storage


def load(source: Storage, configs: Sequence[TrainConfig], replicas: int) -> Dataset:
    """Read the dataset on which all of ``configs`` train, and check that it suits each of them.

    Args:
        source: the dataset's folder.
        configs: of runs; the one with most images for validation decides how many are set aside.
        replicas: over which a batch is split, as far as is known.

    Raises:
        ConfigError: a batch, ``validation``, ``memory`` or a preset does not fit the data.
        DataError: see ``dataset.load``.
        UnavailableError: the storage was not reached.
    """
    data = dataset.load_from(source, max(config.validation for config in configs))
    images = data.samples + len(data.validation.labels)
    for config in configs:
        schedule.check_batch(config.batch_size, images - config.validation, replicas)
        if data.shards:
            stream.plan(dataclasses.replace(data.shards, validation=config.validation), config)
        if config.model is None:
            presets.check_images(config.preset, *data.input_shape[:2])
    return data
