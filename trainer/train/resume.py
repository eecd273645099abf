"""Where an attempt starts: the checkpoint that rank 0 picks, the same on every worker."""

import numpy as np

from trainer.cluster_spec import Cluster
from trainer.errors import ConfigError, DataError, StoppedError, UnavailableError
from trainer.runs import checkpoint, run_folder
from trainer.runs.checkpoint import Checkpoint
from trainer.train.loop import Loop
from trainer.train.replicas import Replicas
from trainer.train.run import Run
from trainer.train.state import Arrays, TrainState, weights_sha256
from trainer.worker_events import tell_parent

SEED = (
    "; if they do, seed what the model draws from generators of its own, such as "
    "numpy.random.default_rng(0)"
)


def resume(run: Run, loop: Loop) -> TrainState:
    """Return the state at the newest good checkpoint, or the initial one if there is none.

    Raises:
        StoppedError: this worker could not read the checkpoint that rank 0 read.
        UnavailableError: the workers' weights differ.
        ConfigError: the initial ones of the user's own model do.
    """
    fresh = loop.initial_state()
    template = loop.named(fresh)
    found = _agreed_checkpoint(run, loop.replicas, template)
    state = loop.unnamed(found.arrays) if found else fresh
    try:
        agree(run.cluster, loop.replicas, weights_sha256(state), "start from")
    except UnavailableError as error:
        if found or run.config.model is None:
            raise
        raise ConfigError(f"model: {run.config.model}: {error}{SEED}") from None
    step = found.step if found else 0
    records = run_folder.read_metrics(run.storage, step, run.reporter.warn)
    tell_parent(event="resumed", step=step)
    return TrainState(
        step=step,
        tensors=loop.place(state),
        validations=list(found.validations) if found else [],
        records=records,
        reported=len(records),
        train_seconds=records[-1].get("train_seconds", 0.0) if records else 0.0,
    )


def _agreed_checkpoint(run: Run, replicas: Replicas, template: Arrays) -> Checkpoint | None:
    """Return the checkpoint of the step that rank 0 picks; each worker could list others."""
    found, storage, digest = None, run.storage, run.config_digest
    if run.cluster.rank == 0:
        found = checkpoint.newest_good(storage, template, digest, run.reporter.warn)
    step = int(replicas.gather(np.array([found.step if found else 0]))[0, 0])
    if found or not step:
        return found
    try:
        return checkpoint.load(storage, step, template, digest)
    except DataError as error:  # damaged, or pruned by another gang, since rank 0 read it
        raise StoppedError(f"could not read what rank 0 had read: {error}") from None


def agree(cluster: Cluster, replicas: Replicas, digest: str, verb: str) -> None:
    """Check that all workers have weights of this digest.

    Raises:
        UnavailableError: some have others.
    """
    words = replicas.gather(np.array([int(digest[:15], 16)]))[:, 0]
    if other := np.flatnonzero(words != words[0]).tolist():
        raise UnavailableError(
            f"workers {verb} different weights: rank {cluster.name(other[0])} has "
            f"{words[other[0]]:015x}, rank 0 {words[0]:015x}; run the same image and settings on "
            "all of them"
        )
