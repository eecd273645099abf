import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.names import HARD
from trainer.config import parse
from trainer.data import dataset, sources
from trainer.errors import ConfigError, DataError
from trainer.inference import test_image
from trainer.runs import checkpoint, run_folder
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.trained_weights import (
    Restored,
    dataset_of,
    restore,
    restore_with,
    settings,
    weights,
)
from trainer.storage.local import LocalStorage

STEPS = (100, 200, 300)


def claimed(tmp_path: Path, **changes: object) -> LocalStorage:
    """Return a run's folder with a checkpoint at each of STEPS; that of 200 validated best."""
    storage = LocalStorage(str(tmp_path / "run"))
    config = parse({"preset": "softmax", "data": "gs://b/mnist", **changes})
    digest = run_folder.claim(storage, config, "d" * 64, (8, 6, 3), 4)
    validations = ((100, 0.5), (200, 0.9), (300, 0.7))
    for step in STEPS:
        arrays = {"parameters/a/kernel": np.full((2, 2), step, np.float32)}
        checkpoint.commit(storage, Checkpoint(step, arrays, digest, validations))
    return storage


def test_settings_are_those_of_the_run(tmp_path: Path) -> None:
    found = settings(claimed(tmp_path, seed=5))
    assert (found.config.preset, found.config.seed) == ("softmax", 5)
    assert found.config.data == "gs://b/mnist"
    assert (found.input_shape, found.classes, found.data_sha256) == ((8, 6, 3), 4, "d" * 64)


def test_data_that_changed_since_are_not_the_runs(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    sources.put("digits", data, train_count=20, test_count=5)
    storage = LocalStorage(str(tmp_path / "run"))
    config = parse({"preset": "softmax", "data": data})
    of_data = dataset.load(data, 0)
    run_folder.claim(storage, config, of_data.sha256, (28, 28, 1), 10)
    restored = Restored(storage, settings(storage), 0, {})
    assert dataset_of(restored.settings).sha256 == of_data.sha256
    test_image.find(restored, 0, None)

    shutil.rmtree(data)
    sources.put("digits", data, train_count=20, test_count=5, seed=1)
    changed = dataset.load(data, 0).sha256
    assert dataset_of(restored.settings, data).sha256 == changed
    test_image.find(restored, 0, data)
    for look in (lambda: dataset_of(restored.settings), lambda: test_image.find(restored, 0, None)):
        with pytest.raises(ConfigError, match="differs from the data that the run was trained on"):
            look()


def test_of_data_that_are_gone_the_folder_is_asked_for(tmp_path: Path) -> None:
    of_run = settings(claimed(tmp_path, data=str(tmp_path / "gone")))
    with pytest.raises(DataError) as caught:
        dataset_of(of_run)
    assert str(caught.value).endswith("; name the folder that has the run's data now: --data URI")
    with pytest.raises(DataError, match="data put --from mnist --to"):
        dataset_of(of_run, str(tmp_path / "elsewhere"))


def test_classes_have_the_names_that_the_data_gave_them_or_none(tmp_path: Path) -> None:
    storage = claimed(tmp_path)
    assert settings(storage).class_names == ()
    whole = json.loads(storage.read(run_folder.CONFIG))
    names = {"class_names": HARD[:4]}
    storage.replace(run_folder.CONFIG, json.dumps({**whole, **names}).encode())
    found = restore(storage.uri).settings  # the names are not part of what checkpoints carry
    assert found.class_names == HARD[:4]


@pytest.mark.parametrize(("keep_best", "step"), [(False, 300), (True, 200)])
def test_the_weights_are_those_the_run_ends_with(
    tmp_path: Path, keep_best: bool, step: int
) -> None:
    restored = restore(claimed(tmp_path, keep_best=keep_best).uri)
    assert restored.step == step
    assert restored.arrays["parameters/a/kernel"].max() == step


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    storage = claimed(tmp_path)
    name = checkpoint.object_name(300)
    storage.replace(name, storage.read(name)[:-1])
    assert restore(storage.uri).step == 200
    for step in STEPS:
        storage.replace(checkpoint.object_name(step), b"")
    with pytest.raises(DataError, match=r"no usable checkpoint: .*step-00000300.*train it first"):
        restore(storage.uri)


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path: Path) -> None:
    storage = claimed(tmp_path)
    arrays = {"parameters/a/kernel": np.zeros((2, 2), np.float32)}
    checkpoint.commit(storage, Checkpoint(400, arrays, "another"))
    assert restore(storage.uri).step == 300


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json there; give the folder of a run"):
        restore(str(tmp_path))
    storage = claimed(tmp_path)
    whole = json.loads(storage.read(run_folder.CONFIG))
    for change in (
        {"input_shape": None},
        {"classes": "many"},
        {"data": 7},
        {"surplus": 1},
        {"classes": 1e18},
        {"classes": 1},
        {"classes": 257},
        {"input_shape": [100_000, 100_000, 1]},
        {"input_shape": [0, 8, 1]},
        {"input_shape": [-8, -8, 1]},
        {"preset": "unheard-of"},
        {"\ud800": 1},
        {"class_names": "abcd"},
        {"class_names": ["a", "b", "c"]},
        {"class_names": ["a", "b", "c", "a"]},
        {"class_names": ["a", "b", "c", "\x1b[2J"]},
        {"class_names": ["a", "b", "c", 1]},
    ):
        storage.replace(run_folder.CONFIG, json.dumps({**whole, **change}).encode())
        with pytest.raises(DataError, match=r"config\.json: damaged, or of another version"):
            settings(storage)
    for name in ("data", "input_shape", "classes", "data_sha256"):
        rest = {key: value for key, value in whole.items() if key != name}
        storage.replace(run_folder.CONFIG, json.dumps(rest).encode())
        with pytest.raises(DataError, match=f"of another version: no '{name}'"):
            settings(storage)


def test_a_model_of_its_own_is_the_users_to_name(tmp_path: Path) -> None:
    storage = claimed(tmp_path, model="folder.payload:f")
    assert restore(storage.uri).step == 300  # reading it imports nothing
    with pytest.raises(ConfigError) as caught:
        restore_with(storage.uri, None)
    assert str(caught.value) == (
        f"run: {storage.uri}: has a model of its own, 'folder.payload:f', and code that a run's "
        "folder names is not run; give --model package.module:function with your own function "
        "for it"
    )
    found = restore_with(storage.uri, "mine:f")
    assert (found.settings.config.model, found.step) == ("mine:f", 300)
    with pytest.raises(ConfigError, match=r"must be package\.module:function"):
        restore_with(storage.uri, "mine")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    storage = claimed(tmp_path)
    for bad in (np.nan, np.inf):
        arrays = {"parameters/a/kernel": np.full((2, 2), bad, np.float32)}
        point = Checkpoint(400, arrays, settings(storage).digest)
        storage.replace(checkpoint.object_name(400), checkpoint.encode(point))
        with pytest.raises(DataError, match="its weights 'a/kernel' are not finite"):
            restore(storage.uri)


def test_a_checkpoint_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    storage = claimed(tmp_path)
    with (tmp_path / "run" / checkpoint.object_name(300)).open("ab") as file:
        file.truncate(1 << 40)
    assert restore(storage.uri).step == 200


def test_weights_leave_out_what_only_training_needs() -> None:
    zero = np.zeros(1, np.float32)
    names = ("parameters/a/b/kernel", "buffers/a/mean", "m/a/b/kernel")
    assert set(weights(dict.fromkeys(names, zero))) == {"a/b/kernel", "a/mean"}
