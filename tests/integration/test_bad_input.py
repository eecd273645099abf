"""What a user can do wrong ends in one line, the right exit code, and nothing half-written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support import series, shared, warm
from tests.support.stores import Forgetful, Stores, proxied
from trainer.data import idx
from trainer.runs import checkpoint
from trainer.storage.base import open_storage


def refused(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run the trainer and return exit code and message, which must be one line."""
    code, _, err = warm.run(*arguments, env=env)
    assert err.count("\n") == 1, err
    assert err.startswith("trainer: ")
    assert "Traceback" not in err
    return code, err.removeprefix("trainer: ").rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--preset", "soft-max"), 2, "did you mean softmax?"),
        (("--bach-size", "3"), 2, "unknown argument '--bach-size'; did you mean --batch-size?"),
        (("--batch-size", "3000"), 2, "batch_size: 3000: more than the 1600 training images"),
        (("--batch-size", "99", "--workers", "2"), 2, "not divisible by the 2 workers' devices"),
        (("--learning-rate", "-1"), 2, "learning_rate: '-1': "),
        (("--validation", "2000"), 2, "2000"),
        (("--model", "nothing.here:model"), 2, "there is no module 'nothing' where you stand"),
        (("--config", "/no/such.yaml"), 2, "--config /no/such.yaml: No such file"),
        (("--data", "/no/such/folder"), 65, "/no/such/folder"),
        (("--data", "s4://bucket/data"), 2, "s4://bucket/data"),
        (("--run", f"{__file__}/run"), 2, __file__),
    ],
)
def test_arguments(
    arguments: tuple[str, ...], code: int, words: str, digits: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    given = ("--preset", "softmax", "--validation", "400", "--data", str(digits), "--run", str(run))
    actual, message = refused("train", *given, *arguments)
    assert actual == code
    assert words in message
    assert not (run / "checkpoints").exists()


def test_a_foreign_run_folder(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    given = ("--validation", "400", "--data", str(digits), "--run", str(tmp_path))
    code, message = refused("train", *given)
    assert code == 2
    assert "holds 'thesis.tex' but no config.json" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_model_that_was_refused_trains_in_the_same_folder_once_it_is_corrected(
    digits: Path, tmp_path: Path
) -> None:
    model, run = tmp_path / "code/mine.py", tmp_path / "run"
    model.parent.mkdir()
    given = (
        *("train", "--model", "mine:net", "--code", str(model.parent), "--run", str(run)),
        *("--data", str(digits), "--validation", "400", "--steps", "4", "--no-report"),
    )
    text = (
        "import keras\n\ndef net(input_shape, classes):\n    return keras.Sequential(["
        "keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(classes, 'softmax')])"
    )
    model.write_text(text)
    code, message = refused(*given)
    assert code == 2
    assert "ends with softmax, but the loss takes logits" in message
    model.write_text(text.replace(", 'softmax'", ""))
    code, out, err = warm.run(*given, "--workers", "2")
    assert (code, err) == (0, "")
    assert "4 steps in " in out
    assert len([*(run / "code").iterdir()]) == 1
    code, message = refused(*given, "--seed", "2")
    assert "belongs to a run with other settings: seed (1 there, 2 here); give another" in message


def test_no_such_bucket(tmp_path: Path, stores: Stores) -> None:
    given = ("--data", "gs://missing/data", "--run", str(tmp_path / "run"))
    code, message = refused("train", *given, env=dict(stores("gs").environment))
    assert code == 2
    assert "no bucket 'missing'" in message


def test_no_credentials(tmp_path: Path) -> None:
    env = {
        "GOOGLE_APPLICATION_CREDENTIALS": "",
        "HOME": str(tmp_path),
        "CLOUDSDK_CONFIG": str(tmp_path),
        "NO_GCE_CHECK": "true",
    }
    code, message = refused("train", "--data", "gs://bucket/data", "--run", str(tmp_path), env=env)
    assert code == 2
    assert "credentials were not found; run 'gcloud" in message


SOFTMAX = (
    *("train", "--preset", "softmax", "--validation", "400", "--steps", "60"),
    *("--chunk-steps", "20", "--checkpoint-steps", "20", "--eval-epochs", "0"),
)


@pytest.fixture
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A finished run that a test may damage."""

    def train(run: Path) -> None:
        code, _, err = warm.run(*SOFTMAX, "--data", str(digits), "--run", str(run))
        assert (code, err) == (0, "")

    return shutil.copytree(shared.once(tmp_path_factory, "softmax", train), tmp_path / "run")


def flip_a_bit(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)


def drop_a_tensor(folder: Path, name: str) -> None:
    rewrite(folder, name, lambda arrays: arrays.popitem())


def change_a_shape(folder: Path, name: str) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        key = min(arrays)
        arrays[key] = np.zeros((3, 3), np.float32)

    rewrite(folder, name, change)


def rewrite(folder: Path, name: str, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Make another checkpoint of a good one, with a digest that is right."""
    old = checkpoint.decode((folder / name).read_bytes(), name)
    arrays = dict(old.arrays)
    change(arrays)
    new = checkpoint.Checkpoint(old.step, arrays, old.config_digest, old.validations)
    (folder / name).write_bytes(checkpoint.encode(new))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_a_bit, "damaged checkpoint"),
        (drop_a_tensor, "is missing"),
        (change_a_shape, "this model has"),
    ],
)
def test_a_bad_checkpoint_falls_back_to_the_one_before(
    damage: Callable[[Path, str], None], words: str, digits: Path, run: Path
) -> None:
    arguments = (*SOFTMAX, "--data", str(digits), "--run", str(run))
    result = (run / "result.json").read_text()
    weights = [line for line in result.splitlines() if "weights_sha256" in line]
    (run / "result.json").unlink()
    newest, before, *_ = checkpoint.steps(open_storage(str(run)))
    damage(run / "checkpoints", f"step-{newest:08d}.safetensors")

    code, out, err = warm.run(*arguments)
    assert (code, err) == (0, "")
    warning = next(line for line in out.splitlines() if line.startswith("warning: "))
    assert f"step-{newest:08d}.safetensors" in warning
    assert words in warning
    assert f"resuming at step {before}" in out
    again = (run / "result.json").read_text()
    assert [line for line in again.splitlines() if "weights_sha256" in line] == weights


def test_damage_to_what_the_weights_do_not_need_is_a_warning(digits: Path, run: Path) -> None:
    arguments = (*SOFTMAX, "--data", str(digits), "--run", str(run))
    result = json.loads((run / "result.json").read_bytes())
    (run / "result.json").write_bytes((run / "result.json").read_bytes()[:100])
    for name in ("metrics.jsonl", "metrics-rank-2.jsonl", "attempts.jsonl"):
        (run / name).write_bytes(b'{"step": 1, "los')
    (run / "predictions.safetensors").write_bytes(b"cut")
    code, out, err = warm.run(*arguments)
    assert (code, err) == (0, "")
    warnings = [line for line in out.splitlines() if line.startswith("warning: ")]
    for name in ("result.json", "metrics.jsonl", "metrics-rank-2.jsonl"):
        assert [f"/{name}: " in warning for warning in warnings].count(True) >= 1, name
    again = json.loads((run / "result.json").read_bytes())
    assert again["weights_sha256"] == result["weights_sha256"]


def test_no_good_checkpoint_where_one_is_required(run: Path) -> None:
    for step in checkpoint.steps(open_storage(str(run))):
        flip_a_bit(run / "checkpoints", f"step-{step:08d}.safetensors")
    code, message = refused("evaluate", "--run", str(run))
    assert code == 65
    assert "no usable checkpoint" in message


def test_a_loss_that_is_no_number_names_its_step_and_keeps_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    images = np.zeros((64, 4, 4), np.uint8)
    images[:, 0, 0] = 255
    for name in ("train", "t10k"):
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx.encode(images))
        labels = (np.arange(64) % 4).astype(np.uint8)
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(idx.encode(labels))
    run = tmp_path / "run"
    code, message = refused(
        *("train", "--preset", "mlp-65-65", "--optimizer", "sgd", "--learning-rate", "1e30"),
        *("--validation", "0", "--batch-size", "16", "--steps", "40", "--chunk-steps", "2"),
        *("--checkpoint-steps", "1", "--data", str(tmp_path), "--run", str(run)),
    )
    assert code == 2
    assert "at step " in message
    assert "lower learning_rate (1e+30)" in message
    for step in checkpoint.steps(open_storage(str(run))):
        data = (run / checkpoint.object_name(step)).read_bytes()
        kept = checkpoint.decode(data, "kept")
        assert all(np.isfinite(array).all() for array in kept.arrays.values())


def test_an_unwritable_run_folder(digits: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    code, message = refused("train", "--data", str(digits), "--run", str(tmp_path / "run"))
    assert code == 2
    assert str(tmp_path) in message


@pytest.mark.parametrize("kind", ["az", "s3", "gs"][: series.length(1, 3)])
def test_a_store_that_ignores_conditions_is_refused_before_the_first_step(
    stores: Stores, digits: Path, kind: str
) -> None:
    with proxied(stores(kind), Forgetful) as through:
        given = ("--preset", "softmax", "--validation", "400", "--data", str(digits))
        run = ("--run", through.uri, "--workers", "2")
        code, message = refused("train", *given, *run, env=through.environment)
        assert code == 2
        assert f"{through.uri} at {through.proxy.url}" in message
        assert "takes a second write" in message
        assert through.around.list() == []
