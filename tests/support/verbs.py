"""What tests of verbs do to a run file, and the figures of its run."""

import threading
from pathlib import Path
from typing import Any

import yaml

from k8s import run_file as spec
from tests.support.runfiles import PLAIN
from trainer.data import dataset
from trainer.runs import run_folder
from trainer.storage.base import open_storage

STEP = {"step": 100, "total_steps": 200, "loss": 0.5, "accuracy": 0.9, "images_per_second": 9e3}


RESULT = {
    "test_accuracy": 0.9922,
    "test_loss": 0.1,
    "steps": 200,
    "train_seconds": 7.0,
    "images_per_second": 14000.0,
    "weights_sha256": "ab" * 32,
    "goodput": 0.625,
    "wall_seconds": 16.0,
    "lost_seconds": {"starting": 6.0},
}


def write(path: Path, **changes: Any) -> None:
    path.write_text(yaml.safe_dump({**PLAIN, **changes}))


def finish(path: Path, **settings: Any) -> None:
    """Leave in a run file's folder what a run with these settings leaves."""
    its = spec.parse({**yaml.safe_load(path.read_text()), **settings}, "test")
    folder = open_storage(its.run_uri)
    run_folder.claim(folder, its.config, dataset.load(its.data, its.config.validation).sha256)
    folder.create(run_folder.RESULT, run_folder.pretty(RESULT))


def change(path: Path, **changes: Any) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def in_background(action: Any) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread
