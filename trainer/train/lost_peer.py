"""The loss of a peer: how it shows on this worker, and how this worker ends."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from trainer.cluster_spec import Cluster
from trainer.errors import PeerLostError
from trainer.train.all_reduce import AllReduce
from trainer.train.peer_connections import PeerGoneError
from trainer.train.replicas import Replicas

# What TensorFlow raises on a worker whose peer is gone.
PEER_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


@contextlib.contextmanager
def stop_if_lost(
    cluster: Cluster,
    all_reduce: AllReduce | None = None,
    rescue: Callable[[], int | None] = lambda: None,
) -> Iterator[None]:
    """Rescue the last chunk and stop if the block fails because a peer is gone.

    Args:
        cluster: the gang.
        all_reduce: what the steps sum by, if not by TensorFlow.
        rescue: stores the last finished chunk and returns its step, None if there is none.

    Raises:
        PeerLostError: a peer is gone.
    """
    try:
        yield
    except (*PEER_LOST, PeerGoneError, tf.errors.UnknownError) as error:
        why = _loss(error, cluster, all_reduce)
        if why is None:
            raise
        step = rescue()
        when = f"after step {step}" if step is not None else "before its first chunk"
        next_time = "continues the run" if step is None else "resumes from there"
        raise PeerLostError(f"lost a peer ({why}) {when}; the same command {next_time}") from None


def _loss(error: Exception, cluster: Cluster, all_reduce: AllReduce | None) -> str | None:
    """Return how a peer was lost, or None if the error means something else."""
    if cluster.workers == 1:
        return None
    if isinstance(error, PEER_LOST):
        return type(error).__name__
    if isinstance(error, PeerGoneError):
        return str(error)
    # An error that our all-reduce raises inside the graph leaves it as an unknown error.
    broken = all_reduce.error if all_reduce else None
    return str(broken) if broken else None


def meet(replicas: Replicas) -> bool:
    """Wait for all workers before leaving: a worker that ends breaks a collective in progress.

    That includes this one: some may have finished it while others still fetch from them, so that
    a peer lost here need not be a loss.

    Returns:
        Whether all came.
    """
    try:
        replicas.gather(np.zeros(1, np.int64))
    except (*PEER_LOST, PeerGoneError):
        return False
    return True
