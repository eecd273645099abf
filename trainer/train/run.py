"""One run, as one of its workers trains it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer import schedule
from trainer.cluster_spec import Cluster
from trainer.config import TrainConfig
from trainer.data.dataset import Dataset
from trainer.progress import Reporter
from trainer.runs import run_folder
from trainer.storage.base import Storage


@dataclass(frozen=True)
class Run:
    """What a worker needs to know to train a run.

    Attributes:
        config: its settings.
        cluster: the gang, and which of its workers this is.
        dataset: what the config names.
        storage: the run's folder.
        config_digest: of the settings that decide the weights; checkpoints carry it.
        reporter: prints the run's progress.
        settings: what the folder's config.json holds; None if it needs none.
    """

    config: TrainConfig
    cluster: Cluster
    dataset: Dataset
    storage: Storage
    config_digest: str
    reporter: Reporter
    settings: Mapping[str, Any] | None = None

    def keep_folder(self) -> None:
        """Make sure that what is stored next is in this run's folder; see ``run_folder.keep``."""
        if self.settings is not None:
            run_folder.keep(self.storage, self.settings)

    def warn(self, message: str) -> None:
        """Print a warning that is the same on all ranks, once."""
        if self.cluster.rank == 0:
            self.reporter.warn(message)

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        config = self.config
        return schedule.total_steps(
            self.dataset.samples, config.batch_size, config.epochs, config.steps
        )

    @property
    def eval_steps(self) -> int:
        """Steps between two validations; 0 for none."""
        if not self.config.eval_epochs or not len(self.dataset.validation.labels):
            return 0
        samples = self.dataset.samples
        return max(1, round(self.config.eval_epochs * samples / self.config.batch_size))

    def epochs(self, step: int) -> float:
        """Return the passes over the training images up to a step, to 4 decimals."""
        return round(step * self.config.batch_size / self.dataset.samples, 4)
