"""Which ranks train while a gang whose size may change is not complete. Pure."""

from collections.abc import Collection
from dataclasses import dataclass

from trainer.config import TrainConfig


@dataclass(frozen=True)
class Elastic:
    """How far a gang may shrink, and when.

    Attributes:
        least: workers that must take part.
        batch_size: images of a step, of which each worker takes an equal share.
        patience: seconds for which a rank that is away is waited for.
    """

    least: int
    batch_size: int
    patience: float

    def members(self, able: Collection[int]) -> tuple[int, ...]:
        """Return those of the able ranks that train, in their order; nobody if they are too few.

        They are as many as can share the batch. Rank 0 is one of them: it writes what all report.
        """
        sizes = (n for n in range(self.least, len(able) + 1) if self.batch_size % n == 0)
        most = max(sizes, default=0)
        return tuple(sorted(able)[:most]) if 0 in able else ()


def of(config: TrainConfig) -> Elastic | None:
    """Return how a gang with these settings changes its size, None if it does not."""
    if not config.min_workers:
        return None
    return Elastic(config.min_workers, config.batch_size, config.resize_after)
