"""The result in a run's folder: whether it is there, and whether it is this run's."""

from typing import Any

from k8s.client.cluster import Cluster
from k8s.diagnosis import run_phase
from k8s.run import run_store
from k8s.run.claim_folder import ClaimFolder
from trainer.common.text import one_line
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError, UnavailableError, UserError
from trainer.runs import run_folder
from trainer.storage.base import Storage


def prove(
    cluster: Cluster, job: dict[str, Any], pods: list[dict[str, Any]], *, logged: bool
) -> None:
    """Check that a Job whose pods all ended with 0 has trained: that its result is stored.

    A mark that rank 0 left in its pod suffices: it does so once the result is stored. Otherwise
    the run's folder is read; if that cannot be seen from here, rank 0's log decides.

    Raises:
        UnavailableError: the folder cannot be seen from here, and nothing else shows it.
        UserError: there is no result of this run.
    """
    if run_phase.left_result(pods):
        return
    try:
        folder, config = run_store.of_job(cluster, job)
        stored = run_folder.read_result(folder)
    except DataError:
        raise
    except UserError as error:  # no way to the bucket, or no right to read it
        if logged:
            return
        raise UnavailableError(one_line(error)) from None
    if stored is None:
        raise ConfigError(f"{folder.uri} holds no {run_folder.RESULT}")
    read(folder, config)


def is_stored(cluster: Cluster, job: dict[str, Any]) -> bool:
    """Whether a run's folder holds its result; False if that takes a pod, or cannot be seen."""
    try:
        folder, config = run_store.of_job(cluster, job)
        if isinstance(folder, ClaimFolder):
            return False
        read(folder, config)
    except UserError:
        return False
    return True


def read(folder: Storage, config: TrainConfig | None = None) -> dict[str, Any]:
    """Return a run's result; ``config``, unless it is None, must be the folder's settings.

    Raises:
        ConfigError: it has none yet, or the folder is another run's.
    """
    result = run_folder.read_result(folder)
    if result is None and config is None and not folder.list():
        raise ConfigError(f"{folder.uri}: does not exist or is empty; give the folder of a run")
    if result is None:
        raise ConfigError(not_ended(folder))
    if config is not None:
        stored = run_folder.read_config(folder)
        if stored is None:
            raise ConfigError(
                f"{folder.uri}: holds {run_folder.RESULT} but no {run_folder.CONFIG}, "
                "so it is no run's folder; give an empty or new one"
            )
        # Raises if it is another run's.
        run_folder.claim(folder, config, str(stored.get("data_sha256")))
    return result


def not_ended(folder: Storage) -> str:
    """Say why a folder has no result: how far its run has come, or that none has."""
    if refusal := run_folder.refusal(folder):
        return f"{folder.uri}: the run failed before its first step: {refusal.sentence(1)}"
    steps = [entry.name for entry in folder.list("checkpoints/")]
    if not steps and not run_folder.has(folder, run_folder.CONFIG):
        missing = f"no run has begun there, as it holds no {run_folder.CONFIG}"
        return f"{folder.uri}: {missing}; check the folder"
    so_far = f"its newest checkpoint is {steps[-1]}" if steps else "it has no checkpoint yet"
    return f"{folder.uri}: the run has not ended; {so_far}"
