"""Exports of real runs give the runs' predictions, and a wrong one is never stored."""

import importlib
import json
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import processes, series, warm
from tests.support.names import HARD
from tests.support.stores import Stores, opened
from trainer import classification, presets, progress
from trainer.cluster_spec import ALONE
from trainer.data import dataset
from trainer.errors import DataError, UserError
from trainer.inference import export
from trainer.inference.formats import FORMATS, NEWER
from trainer.runs import predictions, run_folder
from trainer.storage.base import open_storage
from trainer.train.run import Run
from trainer.train.trainer import Trainer

pytestmark = [
    # Keras 3.15 with NumPy 2: when it opens a Keras file, and when it patches tf2onnx.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning"),
]
DOCS = (processes.ROOT / "docs/export.md").read_text()
SAVED_MODEL = {
    "saved_model/1/fingerprint.pb",
    "saved_model/1/saved_model.pb",
    "saved_model/1/variables/variables.data-00000-of-00001",
    "saved_model/1/variables/variables.index",
}
ALL = {"model.keras", "model.onnx"} | SAVED_MODEL
Train = Callable[..., Path]
Exported = Callable[[str], tuple[Path, list[str]]]


class Silent(progress.Reporter):
    def warn(self, message: str, **_: Any) -> None:
        raise AssertionError(message)


@pytest.fixture(scope="module")
def train(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Return a function that trains a run, in this process and once for each setting."""
    data = dataset.load(str(digits), 400)
    done: dict[str, Path] = {}

    def train(**settings: Any) -> Path:
        name = json.dumps(settings)
        if name not in done:
            given = {"steps": 10, "validation": 400, "eval_epochs": 0, **settings}
            config = presets.configure({}, {**given, "keep_best": False, "data": str(digits)})
            done[name] = tmp_path_factory.mktemp("run")
            storage = open_storage(str(done[name]))
            digest = run_folder.claim(storage, config, data.sha256, data.input_shape, data.classes)
            trainer = Trainer(Run(config, ALONE, data, storage, digest, Silent()))
            trainer.train(threading.Event(), started=0.0)
        return done[name]

    return train


@pytest.fixture(scope="module")
def exported(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return a function that exports a preset's run, once, to a folder, and what it said."""
    done: dict[str, tuple[Path, list[str]]] = {}

    def exported(preset: str) -> tuple[Path, list[str]]:
        if preset not in done:
            done[preset] = (tmp_path_factory.mktemp("model"), [])
            folder, lines = done[preset]
            export.export(str(train(preset=preset)), str(folder), formats(), lines.append)
        return done[preset]

    return exported


@pytest.fixture
def small(train: Train, tmp_path: Path) -> Path:
    """Return a copy of a run that a test may change."""
    return shutil.copytree(train(preset="softmax"), tmp_path / "small")


def stored(folder: Path) -> set[str]:
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return names - {"architecture.json"}


def formats() -> str:
    """Return all formats that can be tried here."""
    return ",".join(export.choose(None))


def expected(names: set[str]) -> set[str]:
    return names if "onnx" in formats() else names - {"model.onnx"}


def test_names_of_classes_lie_where_users_of_each_format_look(small: Path) -> None:
    names = list(HARD)
    config = json.loads((small / run_folder.CONFIG).read_text())
    (small / run_folder.CONFIG).write_text(json.dumps({**config, "class_names": names}))
    lines: list[str] = []
    export.export(str(small), None, formats(), lines.append)
    model = small / "model"
    labels, extra = "labels.txt", "saved_model/1/assets.extra/labels.txt"
    assert stored(model) == expected(ALL | {labels, extra})
    for name in (labels, extra):
        assert (model / name).read_text().split("\n") == [*names, ""]
    assert "labels.txt   10 class names, a line each" in lines
    if "onnx" in formats():
        runtime = importlib.import_module("onnxruntime")
        meta = runtime.InferenceSession(model / "model.onnx").get_modelmeta()
        assert json.loads(meta.custom_metadata_map["class_names"]) == names
    # A model without names, exported over it, does not leave them behind.
    (small / run_folder.CONFIG).write_text(json.dumps({**config, "class_names": []}))
    lines.clear()
    export.export(str(small), None, "savedmodel", lines.append)
    assert stored(model) == expected(ALL)
    assert "labels.txt deleted: this model's classes have no names" in lines
    lines.clear()
    export.export(str(small), None, "savedmodel", lines.append)
    assert "deleted" not in " ".join(lines)


@pytest.mark.parametrize(
    "preset",
    ["cnn-best", "softmax", *(pytest.param(p, marks=series.only_long) for p in ("cnn", "mlp-100"))],
)
def test_every_export_gives_the_predictions_of_the_run(
    train: Train, exported: Exported, preset: str
) -> None:
    folder, (model, lines) = train(preset=preset), exported(preset)
    assert stored(model) == expected(ALL)
    kept = predictions.read(open_storage(str(folder)))
    assert kept is not None
    assert lines[0] == f"{folder} at step 10, checked on {len(kept.labels):,} test images"
    assert len(lines) == 2 + len(export.choose(None))
    config = json.loads((folder / run_folder.CONFIG).read_text())
    images = dataset.load(config["data"], 0).test.images
    wanted = classification.probabilities(kept.logits)
    for name in export.choose(None):
        target = FORMATS[name].target
        found = export._all(FORMATS[name].load(model / target), images)
        shares = (
            classification.probabilities(found.logits) if name == "keras" else found.probabilities
        )
        assert shares is not None
        assert np.abs(shares - wanted).max() < 1e-5
        line = next(line for line in lines if line.startswith(target))
        told = re.search(r"([\d.]+) MB  probabilities within (\d\.\de[-+]\d+)", line)
        assert told is not None
        assert float(told[2]) >= np.abs(shares - wanted).max() * 0.9
        if name != "keras":
            assert found.classes is not None
            assert found.classes.dtype == np.int64


@pytest.mark.skipif("onnx" in export.choose(None), reason="ONNX's packages are here")
def test_that_onnx_is_left_out_is_told(small: Path) -> None:
    lines: list[str] = []
    export.export(str(small), None, None, lines.append)
    assert "pip install" in lines[1]


@pytest.mark.skipif("onnx" not in export.choose(None), reason="tf2onnx or onnxruntime is missing")
def test_onnx_names_its_inputs_and_outputs(exported: Exported) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported("softmax")[0] / "model.onnx")
    puts = {put.name: put.type for put in (*session.get_inputs(), *session.get_outputs())}
    assert puts == {
        "images": "tensor(uint8)",
        "logits": "tensor(float)",
        "probabilities": "tensor(float)",
        "classes": "tensor(int64)",
    }


@pytest.mark.skipif("onnx" not in export.choose(None), reason="tf2onnx or onnxruntime is missing")
def test_onnx_computes_no_shape_and_leaves_nothing_unused(exported: Exported) -> None:
    """OpenCV computes shapes once, for one image, and knows no TopK."""
    onnx = importlib.import_module("onnx")
    graph = onnx.load(exported("cnn-best")[0] / "model.onnx").graph
    assert {node.op_type for node in graph.node}.isdisjoint({"Shape", "Concat", "TopK"})
    names = {name for node in graph.node for name in node.input}
    assert {each.name for each in graph.initializer} <= names


@pytest.mark.skipif("onnx" not in export.choose(None), reason="tf2onnx or onnxruntime is missing")
def test_onnx_holds_what_layers_hold_besides_their_weights(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    class Masked(keras.layers.Layer):  # type: ignore[misc]
        def build(self, _: Any) -> None:
            self.mask = tf.constant(np.eye(12, dtype=np.float32)[..., None])  # above 128 elements

        def call(self, images: Any) -> Any:
            return tf.cond(tf.reduce_any(images > 0), lambda: images * self.mask, lambda: images)

    normalization = keras.layers.Normalization()
    generator = np.random.default_rng(0)
    normalization.adapt(generator.random((50, 12, 12, 1)))
    last = [normalization, Masked(), keras.layers.Flatten(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((12, 12, 1)), keras.layers.Rescaling(1 / 255), *last])
    FORMATS["onnx"].write(model, tmp_path / "model.onnx", ())
    images = generator.integers(0, 256, (5, 12, 12, 1), np.uint8)
    answers = FORMATS["onnx"].load(tmp_path / "model.onnx")(images)
    np.testing.assert_allclose(answers.logits, model(images).numpy(), atol=1e-5)


def test_a_keras_file_has_no_settings_that_older_versions_refuse(exported: Exported) -> None:
    with zipfile.ZipFile(exported("cnn-best")[0] / "model.keras") as archive:
        config = archive.read("config.json").decode()
    assert "BatchNormalization" in config
    assert not [name for name in NEWER if f'"{name}"' in config]


def test_serving_s_requests_fit_the_signature(tmp_path: Path) -> None:
    """The page's request, read as TensorFlow Serving's REST interface reads it."""
    import keras
    import tensorflow as tf

    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((2, 2, 1), dtype="uint8"), *layers])
    FORMATS["savedmodel"].write(model, tmp_path / "saved", ())
    loaded = tf.saved_model.load(tmp_path / "saved" / "1")
    signature = loaded.signatures["serving_default"]
    [[name, spec]] = signature.structured_input_signature[1].items()
    [body] = re.findall(r"curl .*\n    -d '(.*)'", DOCS)
    instances = json.loads(body)["instances"]
    assert f'"inputs": {{"{name}": [IMAGE, ...]}}' in " ".join(DOCS.split())
    answer = signature(**{name: tf.constant(instances, spec.dtype)})
    assert set(answer) == {"logits", "probabilities", "classes"}
    wanted = model(np.array(instances, np.uint8)).numpy()
    np.testing.assert_allclose(answer["logits"].numpy(), wanted, atol=1e-6)
    assert answer["classes"].numpy().tolist() == wanted.argmax(axis=1).tolist()


def test_random_layers_rest_in_every_export(train: Train, tmp_path: Path) -> None:
    own = "tiny_models:flipped"
    export.export(str(train(model=own)), str(tmp_path), formats(), lambda _: None, own)
    assert stored(tmp_path) == expected(ALL)


@pytest.mark.parametrize("broken", ["keras", "savedmodel", "onnx"])
def test_an_export_with_one_other_weight_is_refused(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    if broken not in export.choose(None):
        pytest.skip("tf2onnx or onnxruntime is missing")
    right = FORMATS[broken]

    def wrong(model: Any, path: Path, class_names: Sequence[str]) -> None:
        bias = model.weights[-1]
        kept = bias.numpy()
        bias.assign(kept + 1e-3 * np.eye(1, len(kept))[0])
        right.write(model, path, class_names)
        bias.assign(kept)

    monkeypatch.setitem(FORMATS, broken, replace(right, write=wrong))
    lines: list[str] = []
    with pytest.raises(
        UserError, match=rf"{right.target}: differs from the run by up to \d\.\de-04"
    ):
        export.export(str(train(preset="softmax")), str(tmp_path), formats(), lines.append)
    assert stored(tmp_path) == set()
    assert len(lines) == 1


def test_an_export_that_cannot_be_read_again_is_not_stored(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(model: Any, path: Path, class_names: Sequence[str]) -> None:
        FORMATS["savedmodel"].write(model, path, class_names)  # a folder where a file must be

    monkeypatch.setitem(FORMATS, "keras", replace(FORMATS["keras"], write=torn))
    with pytest.raises(UserError, match="keras: cannot hold this model") as error:
        export.export(
            str(train(preset="softmax")), str(tmp_path), "keras,savedmodel", lambda _: None
        )
    assert error.value.exit_code == 1
    assert stored(tmp_path) == SAVED_MODEL


def test_without_the_data_the_check_is_on_random_images(small: Path) -> None:
    config = json.loads((small / run_folder.CONFIG).read_text())
    (small / run_folder.CONFIG).write_text(json.dumps({**config, "data": str(small / "nothing")}))
    lines: list[str] = []
    export.export(str(small), None, "keras", lines.append)
    assert "on 1,000 random images against its restored model alone" in lines[0]
    assert "nothing: no train-images-idx3-ubyte" in lines[0]
    assert stored(small / "model") == {"model.keras"}


def test_weights_that_are_not_those_of_the_predictions_are_not_exported(small: Path) -> None:
    kept = predictions.read(open_storage(str(small)))
    assert kept is not None
    one_off = kept.logits.copy()
    one_off[-1, 0] += 0.01
    other = predictions.encode(replace(kept, logits=one_off))
    (small / run_folder.PREDICTIONS).write_bytes(other)
    with pytest.raises(UserError, match="the restored model: differs from the run"):
        export.export(str(small), None, "keras", lambda _: None)
    (small / run_folder.PREDICTIONS).write_bytes(predictions.encode(replace(kept, step=5)))
    with pytest.raises(DataError, match="checkpoint is of step 10, but its predictions are of"):
        export.export(str(small), None, "keras", lambda _: None)
    assert stored(small / "model") == set()
    (small / run_folder.PREDICTIONS).write_bytes(predictions.encode(kept))
    export.export(str(small), None, "keras", lambda _: None)
    assert stored(small / "model") == {"model.keras"}


def test_a_layer_of_ones_own(train: Train, tmp_path: Path) -> None:
    own = "tiny_models:known"
    folder = train(model=own)
    export.export(str(folder), str(tmp_path / "known"), formats(), lambda _: None, own)
    assert stored(tmp_path / "known") == expected(ALL)
    own = "tiny_models:unknown"
    folder = train(model=own)
    lines: list[str] = []
    with pytest.raises(UserError, match=r"keras: cannot hold this model: .*locate class 'Unknown'"):
        export.export(str(folder), str(tmp_path / "unknown"), formats(), lines.append, own)
    assert stored(tmp_path / "unknown") == expected(ALL - {"model.keras"})
    assert lines[-1] == f"stored in {tmp_path / 'unknown'}/"


def test_the_page_s_snippets_run_where_the_trainer_is_not(
    train: Train, exported: Exported, tmp_path: Path
) -> None:
    folder, (model, _) = train(preset="cnn-best"), exported("cnn-best")
    (tmp_path / "bucket/runs/first").mkdir(parents=True)
    (tmp_path / "bucket/runs/first/model").symlink_to(model)
    kept = predictions.read(open_storage(str(folder)))
    assert kept is not None
    config = json.loads((folder / run_folder.CONFIG).read_text())
    np.save(tmp_path / "images.npy", dataset.load(config["data"], 0).test.images[:300])
    np.save(tmp_path / "wanted.npy", kept.logits[:300].argmax(axis=1))
    blocks = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert len(blocks) == 4
    assert all(len(block.split("\n")) <= 8 for block in blocks)
    blocks = [block for block in blocks if "cv2" not in block]  # tried with the oldest versions
    script = "import importlib.util\nassert importlib.util.find_spec('trainer') is None\n"
    for block in blocks:
        if "onnxruntime" not in block or "onnx" in formats():
            script += f"{block}assert (classes == np.load('wanted.npy')).all()\nprint('right')\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=tmp_path,
        env=processes.environment({"TF_CPP_MIN_LOG_LEVEL": "2"}),
        capture_output=True,
        text=True,
        timeout=processes.LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["right"] * len(export.choose(None))


def test_from_a_bucket_to_a_bucket(train: Train, stores: Stores) -> None:
    server = stores("gs")
    with opened(server) as run:
        folder = train(preset="softmax")
        for path in folder.rglob("*"):
            if path.is_file():
                run.create(path.relative_to(folder).as_posix(), path.read_bytes())
        before = {entry.name for entry in run.list()}
        code, out, err = warm.run("export", "--run", run.uri, env=server.environment)
        assert (code, err) == (0, "")
        after = {entry.name for entry in run.list()} - before
        assert after == {f"model/{name}" for name in expected(ALL)}
        assert out.endswith(f"stored in {run.uri}/model/\n")


def test_a_mistake_in_the_arguments_is_told_at_once(small: Path) -> None:
    code, out, err = warm.run("export", "--run", str(small), "--format", "kers")
    assert (code, out) == (2, "")
    assert err == (
        "trainer: --format 'kers': 'kers' is not one of keras, savedmodel, onnx; did you mean "
        "keras?; give some of them, with commas\n"
    )
    code, out, err = warm.run("export", "--run", str(small / "nothing"))
    assert (code, out) == (2, "")
    assert "give the folder of a run" in err
