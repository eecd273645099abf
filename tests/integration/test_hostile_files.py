"""Each file of a run's folder and of a dataset, made to hurt: a verb ends with text or one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s.__main__ import main as k8s
from tests.support import damage
from trainer.cli.main import main as trainer
from trainer.data import dataset, description
from trainer.runs import run_folder

pytestmark = pytest.mark.tensorflow

OWN = "tiny_models:linear"
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b1m\u202e"
LOG = "logs/rank-0/20260101T000000Z-aaaa.00000.log"
LINE = {"step": 1, "train_seconds": 1, "attempt": 1}
CONTENTS = {
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "many digits": b'{"step": %s, "train_seconds": 1, "label_offset": 9}' % (b"9" * 5000),
    "no number": b'{"step": NaN, "train_seconds": NaN, "test_accuracy": NaN, "class_names": [NaN]}',
    "escapes": (
        json.dumps({**LINE, "loss": ESCAPES, "cause": {"message": ESCAPES}, "source": ESCAPES})
        + f"\n{ESCAPES}\n"
    ).encode(),
    "half a character": b'{"\\ud800": "\\udfff", "source": "\\ud800", "warning": "\\udfff"}',
    "zeros": bytes(1000),
    "a long line": b"x" * (5 << 20),
    "another thing": b"[]",
    "a pickle": b"\x80\x04cos\nsystem\n(S'touch mark'\ntR.",
}
FILES = (
    run_folder.CONFIG,
    run_folder.RESULT,
    run_folder.METRICS,
    run_folder.ATTEMPTS,
    run_folder.PREDICTIONS,
    run_folder.ARCHITECTURE,
    damage.POINT,
    LOG,
)
SETTINGS: dict[str, list[Any]] = {
    "model": ["os:system", "subprocess:run", "..:f", f"{ESCAPES}:f", "x" * 5000, "", 5],
    "code": ["sha256:" + "0" * 64, "../../etc", ESCAPES, 5],
    "data": ["/dev/zero", "/proc/self/environ", "\0", ESCAPES, "x" * 70_000],
    "class_names": [[ESCAPES] * 10, ["a"] * 10, ["\ud800", *"abcdefghi"], [{}] * 10, "x"],
    "preset": [ESCAPES, "x" * 5000, None],
    "classes": [0, -1, 1 << 40, "10"],
    "input_shape": [[1 << 20, 1 << 20, 1], [-1, 8, 1], ["8", 8, 1], "881"],
    "epochs": [1e308, -1],
    ESCAPES: [1],
}
VERBS: tuple[tuple[Callable[[list[str]], int], str], ...] = (
    (trainer, "report --text --run run"),
    (trainer, "compare run good --json"),
    (trainer, "predict one.png --run run"),
    (trainer, "evaluate --run run"),
    (trainer, f"predict one.png --run run --trust-code {'0' * 64}"),
    (k8s, "result --folder run"),
    (k8s, "result --folder run -o json"),
    (k8s, "logs --folder run"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage.make(tmp_path_factory.mktemp("good"), OWN)


@pytest.fixture
def good(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of a run, ``good`` in the current directory, in which no mark may appear."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "good")
    (tmp_path / "one.png").touch()
    return tmp_path / "good"


def say(
    main: Callable[[list[str]], int], words: str, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run a verb; return its exit code and all that it said."""
    code = main(words.split())
    out, err = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in out + err), words
    assert code in (0, 2, 65), (words, err)
    assert err.count("\n") == 1 or not code, (words, err)
    assert max(map(len, err.splitlines()), default=0) < 3000, words
    assert not Path("mark").exists(), words
    return code, out + err


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_run(
    name: str, content: str, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(good, good.parent / "run")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(CONTENTS[content])
    for main, words in VERBS:
        say(main, words, capsys)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_a_run(name: str, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value in SETTINGS[name]:
        folder = shutil.copytree(good, good.parent / "run", dirs_exist_ok=True)
        config = json.loads((folder / run_folder.CONFIG).read_bytes())
        (folder / run_folder.CONFIG).write_text(json.dumps({**config, name: value}))
        damage.sign(folder, lambda point: point)
        for main, words in VERBS:
            say(main, words, capsys)


@pytest.mark.parametrize("name", [description.NAME, "shards.json", *dataset.FILES[:2]])
def test_a_file_of_a_dataset(name: str, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del good
    say(trainer, "data put --from digits --samples 30 --test-count 10 --to there", capsys)
    for content in CONTENTS.values():
        folder = shutil.copytree(Path("there"), Path("data"))
        for there in folder.glob(f"{name}.gz" if name in dataset.FILES else "train-*"):
            if name != description.NAME:
                there.unlink()
        (folder / name).write_bytes(content)
        for words in ("show data", "show data --json", "put --from data --to to"):
            say(trainer, f"data {words}", capsys)
        shutil.rmtree(folder)
        shutil.rmtree("to", ignore_errors=True)
