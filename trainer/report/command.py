"""The command that repeats a run, from what its folder says of it. Pure."""

import shlex
from collections.abc import Mapping
from typing import Any

from trainer import presets
from trainer.config import TrainConfig, flag
from trainer.errors import ConfigError
from trainer.runs import run_folder


def repeat(stored: Mapping[str, Any], uri: str, workers: int) -> str | None:
    """Return a command that resumes a run or, with another --run, trains it again.

    ``stored`` is its config.json, and ``workers`` had its newest command.

    Returns:
        Lines for a POSIX shell; None if the settings are of another version, or hold characters
        that a terminal would obey.
    """
    named = presets.named(stored)
    try:
        usual = presets.configure(named, {}).identity()
    except (ConfigError, TypeError):
        return None
    words = ["python", "-m", "trainer", "train"]
    words += [flag(name, value) for name, value in named.items()]
    left_out = (*run_folder.INFORMATIONAL, "data_sha256", "code", "preset", "model")
    for name, value in stored.items():
        given = name in TrainConfig.model_fields and name not in left_out and value is not None
        if given and (name not in usual or usual[name] != value):
            words.append(flag(name, value))
    words += [flag("data", stored.get("data")), flag("run", uri)]
    words += [flag("workers", workers)] if workers > 1 else []
    if not all(word.isprintable() for word in words):
        return None
    return " \\\n  ".join([shlex.join(words[:4]), *map(shlex.quote, words[4:])])
