"""Whatever a run's folder holds, every verb that reads it ends with a page or a line.

TRAINYARD_FOLDERS_SEED sets the first seed. A failure names the seed that makes its damage again.
"""

import json
import random
import resource
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import damage, series
from trainer.cli.main import main
from trainer.config import parse
from trainer.data import dataset
from trainer.errors import UserError
from trainer.gang import attempts
from trainer.report import vega
from trainer.report.tensorboard_server import Mirror
from trainer.report.vega import Spec
from trainer.runs import checkpoint, run_folder, tensorboard_writer
from trainer.storage.local import LocalStorage

COUNT = series.length(40, 1000)
SEED = series.seed("TRAINYARD_FOLDERS_SEED")
PATIENCE = 120  # seconds for one verb, on any machine
MOST_MEMORY = 3 << 30  # bytes; TensorFlow takes half a GiB of it
RARE = 20 if COUNT < 1000 else 100  # of so many folders, the slow verbs read one
Outcomes = Counter[tuple[str, int]]

# Keras warns of itself when it loads what it has exported.
pytestmark = [
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.tensorflow,
    pytest.mark.process,
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage.make(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    pixels = np.full((40, 40), 255, np.uint8)
    pixels[8:32, 18:22] = 0
    path = tmp_path_factory.mktemp("picture") / "one.png"
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    def give_up(*_: Any) -> None:
        raise AssertionError("still reading")

    before = signal.signal(signal.SIGALRM, give_up)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def check_text(text: str) -> None:
    """Check that nothing in it is for a terminal to obey."""
    assert all(c.isprintable() or c == "\n" for c in text), repr(text)
    assert "Traceback" not in text


def read(folder: Path, others: list[str], capsys: pytest.CaptureFixture[str], *words: str) -> int:
    """Run a verb in this process and check that it ends with a page, text, or a line."""
    signal.alarm(PATIENCE)
    verb, *rest = words
    if verb == "compare":
        code = main([verb, str(folder), *others, *rest])
    else:
        code = main([verb, "--run", str(folder), *rest])
    signal.alarm(0)
    out, err = capsys.readouterr()
    check_text(out)
    check_text(err)
    assert code in (0, 2, 65, 69), err
    if "json" in words[-1]:
        assert code or json.loads(out, parse_constant=pytest.fail)
    if code:
        assert err.startswith("trainer: ")
        assert err.count("\n") == 1, err
    else:
        assert out
    return code


def resume(folder: Path, good: Path) -> None:
    """Read what a resumed training reads in the folder; only the weights may stop it."""
    storage, warnings = LocalStorage(str(folder)), list[str]()
    settings = {"preset": "softmax", "epochs": 10.0, "validation": damage.VALIDATION}
    config, data = parse(settings), dataset.load(str(good.parent / "data"), 0)
    digest = run_folder.claim(storage, config, data.sha256, (8, 8, 1), 10)
    run_folder.find_result(storage, warnings.append)
    found = checkpoint.newest_good(storage, None, digest, warnings.append, 1 << 24)
    records = run_folder.read_metrics(storage, found.step if found else 0, warnings.append)
    run_folder.lines(records)
    journal = attempts.AttemptLog(lambda: storage, warnings.append)
    journal.add({"start": 0.0})
    journal.close(PATIENCE)
    log = tensorboard_writer.EventLog(storage, config, 1000, 1000, warnings.append)
    if records:
        log.write(records, {}, None, last=True)
    check_text("\n".join(warnings))


def draw_nothing(shown: dict[str, Spec]) -> dict[str, Any]:
    """Check that charts could be drawn."""
    json.dumps(list(shown.values()), allow_nan=False)
    return {}


def read_all(
    seed: int, folder: Path, good: Path, picture: str, capsys: pytest.CaptureFixture[str]
) -> Iterator[tuple[str, int]]:
    seldom = seed % RARE == 0
    quick = pytest.MonkeyPatch()
    if not seldom:
        quick.setattr(vega, "draw", draw_nothing)
    compared = str(folder.parent / "compare.html")
    with quick.context():
        for words in (
            ("report",),
            ("report", "--text"),
            ("compare", "--output", compared),
            ("compare", "--json"),
            ("predict", picture, "--output", "json"),
        ):
            code = read(folder, [str(good)], capsys, *words)
            yield " ".join(words).replace(compared, "PAGE").replace(picture, "PICTURE"), code
        for where in (compared, str(folder / run_folder.REPORT)):
            if Path(where).is_file():
                text = Path(where).read_text()
                for escaped in ("&lt;script&gt;", "\\u003cscript\\u003e"):
                    text = text.replace(f"{escaped}alert(1)", "")
                assert "alert(1)" not in text
                assert damage.SECRET not in text
        if seldom:
            yield "evaluate", read(folder, [], capsys, "evaluate")
            exported = str(folder.parent / "exported")
            yield (
                "export",
                read(folder, [], capsys, "export", "--format", "keras", "--to", exported),
            )
    quick.undo()
    mirror, told = folder.parent / "mirror", list[str]()
    try:
        Mirror(run_folder.open_folder(str(folder)), mirror, told.append).refresh()
    except UserError as error:
        told.append(str(error))
    for part in mirror.rglob("*tfevents*"):
        assert damage.SECRET.encode() not in part.read_bytes()
    try:
        resume(folder, good)
        yield "resume", 0
    except UserError as error:
        yield "resume", error.exit_code


def test_a_good_folder_is_read_by_every_verb(
    good: Path, tmp_path: Path, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(good, tmp_path / "run")
    outcomes = list(read_all(0, tmp_path / "run", good, picture, capsys))
    assert [code for _, code in outcomes] == [0] * 8


def test_a_damaged_folder_ends_with_a_page_or_a_line(
    good: Path, tmp_path: Path, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes: Outcomes = Counter()
    failures: list[str] = []
    for seed in range(SEED, SEED + COUNT):
        place = tmp_path / str(seed)
        place.mkdir()
        how = "not damaged"
        try:
            how = damage.damage(good, place / "run", random.Random(seed))
            outcomes.update(read_all(seed, place / "run", good, picture, capsys))
        except Exception as error:
            signal.alarm(0)
            where = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(f"seed {seed}: {how}: {type(error).__name__}: {error} in {where}")
            capsys.readouterr()
        shutil.rmtree(place)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with capsys.disabled():
        if COUNT > 1000:
            print(f"\n{COUNT} folders, {peak / 2**20:,.0f} MiB: {sorted(outcomes.items())}")
    assert not failures, "\n".join(failures)
    assert peak < MOST_MEMORY
