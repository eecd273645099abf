"""Exact scores of whole splits, computed by all workers together."""

import numpy as np
import numpy.typing as npt

from trainer import classification
from trainer.classification import Score
from trainer.cluster_spec import Cluster
from trainer.data import sampler
from trainer.data.dataset import Dataset, Split
from trainer.train.batches import Batches
from trainer.train.loop import Data, Loop
from trainer.train.state import State
from trainer.worker_events import EVALUATING


class Scorer:
    """Scores splits; each worker computes a share of the images, and all get the same values."""

    def __init__(self, cluster: Cluster, dataset: Dataset, loop: Loop, batches: Batches) -> None:
        self._cluster, self._dataset = cluster, dataset
        self._loop, self._batches = loop, batches

    def logits(self, tensors: State, split: Split) -> npt.NDArray[np.float32]:
        """Return the logits of a whole split, [n, classes]."""
        first = self._offset(split)
        return self._logits(tensors, np.arange(first, first + len(split.labels), dtype=np.int32))

    def score(self, tensors: State, split: Split) -> Score:
        """Return the score of a whole split."""
        return classification.score(self.logits(tensors, split), split.labels)

    def training_accuracy(self, tensors: State) -> tuple[float, int]:
        """Return accuracy on training images, and on how many: all, or the first shards'."""
        if self._dataset.shards is None:
            return self.score(tensors, self._dataset.train).accuracy, self._dataset.samples
        correct = images = 0
        for data, labels in self._batches.sample():
            rows = np.arange(len(labels), dtype=np.int32)
            logits = self._logits(tensors, rows, data)
            correct += int((logits.argmax(axis=1) == labels).sum())
            images += len(labels)
        return correct / images, images

    def _logits(
        self, tensors: State, indices: sampler.Indices, data: Data | None = None
    ) -> npt.NDArray[np.float32]:
        shares = np.array_split(indices, self._cluster.workers)
        replicas = self._loop.replicas
        with replicas.heartbeat.doing(EVALUATING):
            own = self._loop.logits(tensors, shares[self._cluster.rank], data)
        longest = len(shares[0])
        padded = np.pad(own, ((0, longest - len(own)), (0, 0)))
        rows = replicas.gather(padded.ravel()).reshape(len(shares), longest, -1)
        return np.concatenate([row[: len(s)] for row, s in zip(rows, shares, strict=True)])

    def _offset(self, split: Split) -> int:
        """Return the index of a split's first image in the loop's data, see ``assemble``."""
        first = 0
        for each in (self._dataset.train, self._dataset.validation, self._dataset.test):
            if each is split:
                return first
            first += len(each.labels)
        raise AssertionError("not a split of this dataset")
