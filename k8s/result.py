"""How a run ended, and everything that it left, from its folder."""

from typing import Any

from trainer import run
from trainer.errors import ConfigError, DataError
from trainer.storage import LocalStorage, Storage


def read(folder: Storage) -> dict[str, Any]:
    """Return a run's result.

    Raises:
        ConfigError: it has none yet.
    """
    result = run.read_result(folder)
    if result is None:
        steps = [entry.name for entry in folder.list("checkpoints/")]
        so_far = f"its newest checkpoint is {steps[-1]}" if steps else "it has no checkpoint yet"
        raise ConfigError(f"{folder.uri}: the run has not ended; {so_far}")
    return result


def as_text(result: dict[str, Any], folder: Storage) -> str:
    """Return a result for people.

    Args:
        result: what ``read`` returned.
        folder: of the run.

    Raises:
        DataError: a figure is missing.
    """
    try:
        rows = _rows(result)
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{folder.uri}/{run.RESULT}: not of this version of the trainer; --output json shows it"
        ) from None
    rows["folder"] = folder.uri
    if any(entry.name == run.REPORT for entry in folder.list(run.REPORT)):
        rows["report"] = f"{folder.uri}/{run.REPORT}"
    return "".join(f"{name:<14} {value}\n" for name, value in rows.items())


def _rows(result: dict[str, Any]) -> dict[str, str]:
    return {
        "test accuracy": f"{result['test_accuracy']:.2%}",
        "test loss": f"{result['test_loss']:.4f}",
        "steps": f"{result['steps']}",
        "training": f"{result['train_seconds']:.1f} s, {result['images_per_second']:,.0f} images/s",
        "weights": f"sha256 {result['weights_sha256']}",
    }


def download(folder: Storage, target: str) -> int:
    """Copy a run's folder and return the number of objects.

    Raises:
        ConfigError: there is nothing, or the target cannot be written.
    """
    local = LocalStorage(target)
    entries = folder.list()
    if not entries:
        raise ConfigError(f"{folder.uri}: holds nothing; check the run's name")
    for entry in entries:
        local.replace(entry.name, folder.read(entry.name))
    return len(entries)
