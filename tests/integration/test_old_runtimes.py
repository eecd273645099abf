"""Exports give the same answers in the oldest versions that docs/export.md names.

Each version is installed into an environment of its own, so this is a part of ``make test-long``.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import processes, series
from trainer import presets
from trainer.inference import export
from trainer.inference.formats import FORMATS, logits_of

pytestmark = [
    series.only_long,
    pytest.mark.tensorflow,
    pytest.mark.process,
    pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the oldest are for Python 3.11"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning"),
]
ROWS = re.findall(
    r"^\| `(\S+)` \| (\S+)[^|]* \| ([\d.]+)", (processes.ROOT / "docs/export.md").read_text(), re.M
)
PACKAGES = {  # by the name in the page, what is installed for a version
    "onnxruntime": ["onnxruntime=={}", "numpy<2"],
    "OpenCV's": ["opencv-python-headless=={}.*", "numpy<2"],
    "TensorFlow": ["tensorflow-cpu=={}"],
    "3.0.5": ["keras=={}", "tensorflow-cpu==2.16.1"],
    "3.7.0": ["keras=={}", "tensorflow-cpu==2.17.1"],
}
LOAD = {
    "onnxruntime": """
import onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
logits = session.run(["logits"], {"images": images})[0]
""",
    "OpenCV's": """
import cv2
network = cv2.dnn.readNetFromONNX("model.onnx")
network.setInput(images, "images")
logits = network.forward(["logits", "probabilities", "classes"])[0]
""",
    "TensorFlow": """
import tensorflow as tf
loaded = tf.saved_model.load("saved_model/1")
logits = loaded.signatures["serving_default"](images=tf.constant(images))["logits"].numpy()
""",
    "Keras": """
import keras
logits = keras.models.load_model("model.keras").predict(images, verbose=0)
""",
}
SMALL = {"3.0.5": {"softmax", "cnn"}}  # of the presets below; the others need a newer one


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of presets' exports, with images and the logits that are right for them."""
    from trainer.train import models

    made = {}
    for preset in ("softmax", "mlp-100", "cnn"):
        folder = made[preset] = tmp_path_factory.mktemp(preset)
        config = presets.configure({}, {"preset": preset, "data": "x"})
        model = models.build(config, (28, 28, 1), 10)
        images = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), np.uint8)
        np.save(folder / "images.npy", images)
        np.save(folder / "logits.npy", logits_of(model, images))
        for name in export.choose(None):
            FORMATS[name].write(model, folder / FORMATS[name].target.rstrip("/"), ())
    return made


@pytest.mark.parametrize(("file", "runtime", "version"), ROWS)
def test_the_oldest_version_gives_the_same_logits(
    models: dict[str, Path], tmp_path: Path, file: str, runtime: str, version: str
) -> None:
    if file == "model.onnx" and "onnx" not in export.choose(None):
        pytest.skip("tf2onnx or onnxruntime is missing")
    packages = PACKAGES.get(version, PACKAGES.get(runtime))
    assert packages is not None
    python = tmp_path / "env/bin/python"
    uv = [sys.executable, "-m", "uv"]
    wanted = [package.format(version) for package in packages]
    for command in (
        [*uv, "venv", "--python", sys.executable, str(tmp_path / "env")],
        [*uv, "pip", "install", "--only-binary", ":all:", "--python", str(python), *wanted],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
        if done.returncode:
            pytest.skip(f"{wanted[0]} cannot be installed here: {done.stderr[-300:]}")
    for preset, folder in models.items():
        if preset not in SMALL.get(version, models):
            continue
        script = (
            f"import numpy as np\nimages = np.load('images.npy'){LOAD[runtime]}"
            "assert np.abs(logits - np.load('logits.npy')).max() < 1e-4\n"
        )
        done = subprocess.run(
            [str(python), "-I", "-c", script],
            cwd=folder,
            env=processes.environment({"TF_CPP_MIN_LOG_LEVEL": "2"}),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, (preset, done.stderr[-2000:])
