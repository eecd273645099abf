"""One run, as one of its workers trains it."""

from dataclasses import dataclass

from trainer import schedule
from trainer.cluster_spec import Cluster
from trainer.config import TrainConfig
from trainer.data.dataset import Dataset
from trainer.progress import Reporter
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
    """

    config: TrainConfig
    cluster: Cluster
    dataset: Dataset
    storage: Storage
    config_digest: str
    reporter: Reporter

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
