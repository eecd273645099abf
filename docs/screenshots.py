"""Makes the pictures of the documentation from real runs: ``make pictures``.

It takes the runs below --runs, the best of them for the report, and needs Debian's chromium.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from tests.support import hostile
from tests.support.chromium import FLAGS
from tests.support.processes import free_ports, running, wait_until, workers
from trainer.data import digits

DOCS = Path(__file__).parent
TOP = {"x": 0, "y": 0, "width": 1280, "height": 1060}
SEVEN = [(0.25, 0.2), (0.72, 0.18), (0.6, 0.45), (0.48, 0.85)]  # shares of the paper's sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", required=True, help="folder of runs")
    parser.add_argument("--run", required=True, help="the run whose report is shown")
    options = parser.parse_args()
    path = shutil.which("chromium")
    if path is None:
        sys.exit("needs chromium; apt-get install chromium")
    sheet()
    trainer("predict", "--run", options.run, str(DOCS / "sheet.jpg"), "--show")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        folder = Path(name)
        page_of = {
            "report": ("report", "--run", options.run),
            "compare": ("compare", options.runs),
        }
        for page, arguments in page_of.items():
            trainer(*arguments, "--output", str(folder / f"{page}.html"))
        report = (folder / "report.html").as_uri()
        take(browser, report, "report.png", 1280, lambda page: page.screenshot(clip=TOP))
        take(browser, report, "draw.png", 1000, drawn)
        compare = (folder / "compare.html").as_uri()
        take(browser, compare, "compare.png", 1280, lambda page: page.screenshot(clip=TOP))
        board(browser, options.runs)
        watched(browser, options.run, folder)
        browser.close()


def sheet() -> None:
    """Write docs/sheet.jpg: a handful of drawn digits with a blue pen, lit from one side."""
    random = np.random.default_rng(5)
    images, labels = digits.draw(50, seed=8)
    ink = np.zeros((420, 1040))
    for place, digit in enumerate((2, 0, 4, 7, 5)):
        image = hostile.fine(images[np.flatnonzero(labels == digit)[0]])
        top, left = int(random.integers(70, 130)), 60 + 180 * place
        ink[top : top + len(image), left : left + len(image)] += np.maximum(image, 0)
    light = hostile.gradient(random)(*ink.shape) * hostile.vignette(random)(*ink.shape)
    paper, pen = np.array([236, 228, 208]), np.array([40, 60, 150])
    picture = (paper + ink.clip(0, 1)[..., None] * (pen - paper)) * light[..., None]
    picture += random.normal(0, 4, picture.shape)
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(DOCS / "sheet.jpg", quality=70)


def trainer(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "trainer", *arguments], check=True)


def take(browser: Any, url: str, name: str, width: int, shoot: Callable[[Any], bytes]) -> None:
    """Write docs/NAME: what ``shoot`` sees of a page, in at most 256 colours."""
    page = browser.new_page(viewport={"width": width, "height": 1100}, color_scheme="light")
    page.goto(url)
    picture = Image.open(io.BytesIO(shoot(page))).convert("RGB").quantize(256)
    picture.save(DOCS / name, optimize=True)
    page.close()
    sys.stdout.write(f"docs/{name}: {(DOCS / name).stat().st_size:,} bytes\n")


def drawn(page: Any) -> bytes:
    """Draw a seven and return the panel's picture."""
    panel = page.locator("#draw")
    panel.scroll_into_view_if_needed()
    box = panel.locator("[data-draw=paper]").bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in SEVEN]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=10)
    page.mouse.up()
    page.wait_for_timeout(300)
    picture: bytes = panel.screenshot()
    return picture


def board(browser: Any, runs: str) -> None:
    """Start TensorBoard and take a picture of its curves."""
    port = free_ports(1)
    server = subprocess.Popen(
        [sys.executable, "-m", "trainer", "tensorboard", "--run", runs, "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        while (line := server.stdout.readline()) and "http" not in line:
            pass

        def shoot(page: Any) -> bytes:
            page.wait_for_timeout(15_000)  # it draws when its own requests are answered
            picture: bytes = page.screenshot()
            return picture

        take(browser, f"http://127.0.0.1:{port}/#timeseries", "tensorboard.png", 1280, shoot)
    finally:
        server.kill()
        server.wait()


def watched(browser: Any, like: str, empty: Path) -> None:
    """Train a run on the data of another one, kill a worker, and take a picture of the page."""
    data = json.loads((Path(like) / "config.json").read_text())["data"]
    run = "bucket/runs/cnn-8465e808"
    port = free_ports(1)
    flags = (
        "--workers",
        "2",
        "--steps",
        "3000",
        "--tensorboard",  # whose pictures the page shows
        "on",
        "--eval-epochs",
        "0.5",
        "--checkpoint-steps",
        "100",
    )
    with (
        contextlib.chdir(empty),
        running("watch", "--run", run, "--port", str(port)),
        running("train", *flags, "--data", data, "--run", run) as training,
    ):
        wait_until(lambda: (empty / run / "checkpoints/step-00000500.safetensors").exists())
        os.kill(workers(training.pid)[1], signal.SIGKILL)

        def shoot(page: Any) -> bytes:
            page.set_default_timeout(300_000)
            page.locator("#restarts tbody tr").wait_for()
            page.get_by_text("Validation after step").wait_for()
            page.locator("#steps", has_text="step 1,000 of").wait_for()
            picture: bytes = page.screenshot(full_page=True)
            return picture

        take(browser, f"http://127.0.0.1:{port}/", "watch.png", 1280, shoot)


if __name__ == "__main__":
    main()
