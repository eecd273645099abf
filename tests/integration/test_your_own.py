"""Every command of docs/your-own.md, one after another: own data and own model, and a submit."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.support import warm
from tests.support.apiserver import ApiServer
from tests.support.controller import Controller
from tests.support.processes import LIMIT, ROOT, environment
from tests.support.stores import Stores, make_bucket
from trainer.runs import user_code

pytestmark = [pytest.mark.process, pytest.mark.tensorflow]

PAGE = (ROOT / "docs/your-own.md").read_text()


def block(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with twenty pictures of each of three flowers, and the page's two files."""
    draw = np.random.default_rng(0)
    for number, name in enumerate(("daisy", "rose", "tulip")):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for picture in range(1, 21):
            pixels = draw.integers(0, 200, (40, 30, 3)).astype(np.uint8)
            pixels[..., number] += 55
            Image.fromarray(pixels).save(tmp_path / "flowers" / name / f"{picture:03}.png")
    (tmp_path / "mymodels.py").write_text(block("python")[0])
    (tmp_path / "flowers.yaml").write_text(block("yaml")[0])
    return tmp_path


@pytest.mark.early
def test_every_command(place: Path, stores: Stores) -> None:
    commands = "".join(block("sh")).replace("python -m", "./python -P -m")
    commands = commands.replace("trainer train", "trainer train --tensorboard off")
    requests = warm.lend(place / "python")
    server = stores("gs")
    assert make_bucket(server.url, "my-bucket")
    with server.entered(), ApiServer() as api:
        Controller(api)
        own: dict[str, str] = {
            "KUBECONFIG": api.kubeconfig(place / "kubeconfig"),
            **server.environment,
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            ["bash", "-ec", commands],
            cwd=place,
            env=environment(own),
            pass_fds=[requests],
            timeout=LIMIT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        config = api.objects["ConfigMap", "default", "flowers"]
    assert "51 training and 9 test images 32x32x3, 3 classes" in done.stdout
    assert "created ConfigMap" in done.stdout
    settings: dict[str, Any] = yaml.safe_load(config["data"]["config.yaml"])
    stored = json.loads((place / "bucket/runs/flowers/config.json").read_text())
    assert settings["code"] == stored["code"]  # the pods get what trained here
    name = user_code.object_name(stored["code"])
    assert (place / "bucket/runs/flowers" / name).is_file()
    assert stored["class_names"] == ["daisy", "rose", "tulip"]
    assert re.search(r"^1 rose +17 +3$", done.stdout, re.MULTILINE)
    assert re.search(r"^ *1 rose  +[\d.]+%", done.stdout, re.MULTILINE)
    assert re.search(
        r"^flowers/rose/001\.png  (daisy|rose|tulip) +[\d.]+%", done.stdout, re.MULTILINE
    )
    assert "<bdi>1 rose</bdi>" in (place / "bucket/runs/flowers/report.html").read_text()
    assert (place / "flowers.png").is_file()
