"""Somebody's run folder is data, whatever it names: no verb runs its code or leaves the folder."""

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import damage, processes, warm
from tests.support.processes import environment, free_ports, running, wait_until
from trainer.runs import run_folder, user_code
from trainer.storage.local import LocalStorage

PAYLOAD = "from pathlib import Path\n\nPath(__file__).with_name('mark').write_text('run')\n"
FOLDER = "bucket/runs/evil"
REFERENCE = "bucket.runs.evil.payload:f"
OWN = "tiny_models:linear"  # what the user has
LEAST_MEMORY, MOST_MEMORY = 1 << 26, 1 << 31  # bytes; TensorFlow alone takes more than the first
REFUSED = f"has a model of its own, '{REFERENCE}'"
TRAINING = ("--data", "bucket/data", "--validation", "10", "--batch-size", "20")
SMALL = ("--preset", "softmax")  # takes images that are too small for the default preset
ESCAPES = "\x1b]0;owned\x07\x1b[2J"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working directory with a run that names code in its own folder."""
    place = tmp_path_factory.mktemp("hostile")
    made = damage.make(place / "bucket", OWN)
    folder = place / FOLDER
    folder.parent.mkdir(parents=True)
    made.rename(folder)
    (folder / "payload.py").write_text(PAYLOAD)
    config = json.loads((folder / run_folder.CONFIG).read_bytes())
    (folder / run_folder.CONFIG).write_text(json.dumps({**config, "model": REFERENCE}))
    damage.sign(folder, lambda point: point)
    (folder / run_folder.ARCHITECTURE).write_text(json.dumps(architecture()))
    pixels = np.full((40, 40), 255, np.uint8)
    pixels[8:32, 18:22] = 0
    Image.fromarray(pixels).save(place / "one.png")
    return place


def architecture() -> dict[str, Any]:
    """Return a model of layers that Keras would run or import while it loads them."""
    code = {"class_name": "__lambda__", "config": {"code": "4wAAAA==", "defaults": None}}
    layers = [
        {
            "class_name": "Lambda",
            "module": "keras.layers",
            "config": {"name": "l", "function": code},
        },
        {"class_name": "f", "module": REFERENCE.partition(":")[0], "config": {"name": "f"}},
    ]
    return {
        "class_name": "Sequential",
        "module": "keras",
        "config": {"name": "trainer", "layers": layers},
    }


def verb(place: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a verb as somebody does who stands above the bucket."""
    return checked(place, *warm.run(*arguments, cwd=place))


def fresh_verb(place: Path, *arguments: str, before: str = "") -> tuple[int, str, str]:
    """Run a verb in a process of its own, after a command of the shell."""
    done = subprocess.run(
        ["sh", "-c", f'{before} exec "$@"', "sh", sys.executable, "-m", "trainer", *arguments],
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return checked(place, done.returncode, done.stdout, done.stderr)


def checked(place: Path, code: int, out: str, err: str) -> tuple[int, str, str]:
    assert not (place / FOLDER / "mark").exists(), "its code was run"
    assert "\x1b" not in out + err
    assert "Traceback" not in err
    return code, out, err


@pytest.mark.parametrize("arguments", [("predict", "one.png"), ("evaluate",), ("export",)])
def test_code_that_a_folder_names_is_refused(place: Path, arguments: tuple[str, ...]) -> None:
    code, out, err = verb(place, *arguments, "--run", FOLDER)
    assert (code, out) == (2, "")
    assert REFUSED in err
    assert "give --model package.module:function with your own function" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [("predict", "one.png"), ("evaluate",), ("export", "--format", "keras")],
    ids=lambda arguments: str(arguments[0]),
)
def test_the_users_own_function_opens_it(place: Path, arguments: tuple[str, ...]) -> None:
    code, out, err = verb(place, *arguments, "--run", FOLDER, "--model", OWN)
    assert (code, err) == (0, "")
    assert out


@pytest.mark.parametrize("arguments", [("predict", "one.png"), ("evaluate",), ("export",)])
def test_a_function_that_does_not_fit_the_weights_is_refused(
    place: Path, arguments: tuple[str, ...]
) -> None:
    code, out, err = verb(place, *arguments, "--run", FOLDER, "--model", "tiny_models:noisy")
    assert (code, out) == (65, "")
    assert "use the model that it was trained with" in err


@pytest.mark.parametrize(
    "arguments",
    [("report",), ("report", "--text"), ("compare", "--output", "page.html", FOLDER)],
    ids=" ".join,
)
def test_what_only_shows_a_run_imports_nothing(place: Path, arguments: tuple[str, ...]) -> None:
    where = () if arguments[0] == "compare" else ("--run", FOLDER)
    code, out, err = verb(place, *arguments, *where)
    assert (code, err) == (0, "")
    assert out


def test_tensorboard_imports_nothing(place: Path) -> None:
    folder = str(place / FOLDER)
    with running("tensorboard", "--run", folder, "--port", str(free_ports(1))) as process:
        assert process.stdout is not None
        lines = process.stdout
        wait_until(lambda: "is at http" in lines.readline())
    assert not (place / FOLDER / "mark").exists()


def test_nothing_is_imported_from_where_somebody_stands(place: Path, tmp_path: Path) -> None:
    for name in ("random", "json", "keras", "numpy", "yaml", "vl_convert", "tensorboard"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')\n")
    folder = str(place / FOLDER)
    for words in (("report", "--run", folder), ("evaluate", "--run", folder, "--model", OWN)):
        assert fresh_verb(tmp_path, *words)[0] == 0


def test_training_goes_by_the_users_settings_alone(place: Path) -> None:
    code, _, err = fresh_verb(place, "train", "--run", FOLDER, *TRAINING, *SMALL)
    assert code == 2
    assert "belongs to a run with other settings" in err
    assert f'model ("{REFERENCE[:9]}' in err


@pytest.fixture
def with_code(place: Path) -> Iterator[tuple[Path, Path]]:
    """Return a run with code of its own, below ``place``, and the file that the code leaves."""
    folder, mark, source = place / "with-code", place / "ran", place / "theirs"
    source.mkdir()
    text = f"import pathlib\n\npathlib.Path({str(mark)!r}).touch()\n"
    (source / "net.py").write_text(f"{text}from tiny_models import linear\n")
    subprocess.run(["cp", "-r", place / FOLDER, folder], check=True)
    keep(folder, user_code.pack(source))
    yield folder, mark
    mark.unlink(missing_ok=True)
    shutil.rmtree(source)
    shutil.rmtree(folder)


def keep(folder: Path, archive: user_code.Archive) -> None:
    """Make this the code of a run, whose model is in net.py."""
    archive.store(LocalStorage(str(folder)))
    config = json.loads((folder / run_folder.CONFIG).read_bytes())
    config |= {"model": "net:linear", "code": archive.reference}
    (folder / run_folder.CONFIG).write_text(json.dumps(config))
    damage.sign(folder, lambda point: point)


def test_code_that_is_trusted_by_its_digest_is_named_and_runs(
    place: Path, with_code: tuple[Path, Path]
) -> None:
    folder, mark = with_code
    for arguments in (("predict", "one.png"), ("evaluate",), ("export", "--format", "keras")):
        words = (*arguments, "--run", "with-code")
        code_, out, err = verb(place, *words)
        assert (code_, out, err.count("\n")) == (2, "", 1)
        digest = err.rstrip().rpartition("--trust-code ")[2]
        assert (folder / "code" / f"{digest}.tar").is_file()
        wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
        code_, out, err = verb(place, *words, "--trust-code", wrong)
        assert (code_, out, err.count("\n")) == (2, "", 1)
        assert not mark.exists()
        code_, out, err = verb(place, *words, "--trust-code", digest)
        assert (code_, bool(out)) == (0, True)
        running = f"trainer: warning: running {folder.name}/code/{digest}.tar as net:linear: net.py"
        assert err == f"{running}\n"
        assert mark.exists()
        mark.unlink()


def test_an_archive_of_code_is_only_compared(place: Path, with_code: tuple[Path, Path]) -> None:
    """Whoever trains in the folder has code of the same name, and the tar of the run is hostile."""
    folder, mark = with_code
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 4
    chain = (header.tobuf(tarfile.GNU_FORMAT) + b"abc\0" + bytes(508)) * 3000
    keep(folder, user_code.Archive(chain, "theirs"))
    (place / "net.py").write_text("from tiny_models import linear\n")
    words = ("train", "--run", "with-code", "--model", "net:linear", *TRAINING)
    code_, _, err = fresh_verb(place, *words)
    (place / "net.py").unlink()
    assert code_ == 65, err
    assert "code: damaged: " in err.splitlines()[-1]
    assert not mark.exists()


def test_what_a_folder_says_does_not_reach_the_terminal_raw(place: Path) -> None:
    folder = place / "escapes"
    subprocess.run(["cp", "-r", place / FOLDER, folder], check=True)
    config = json.loads((folder / run_folder.CONFIG).read_bytes())
    config |= {"model": f"{ESCAPES}:f", "data": f"/no/{ESCAPES}"}
    (folder / run_folder.CONFIG).write_text(json.dumps(config))
    damage.sign(folder, lambda point: point)
    for arguments in (
        ("report", "--text", "--run", "escapes"),
        ("compare", "escapes", FOLDER, "--output", "page.html"),
        ("predict", "one.png", "--run", "escapes"),
        ("export", "--run", "escapes"),
        ("evaluate", "--run", "escapes", "--model", OWN),
        ("train", "--run", "escapes", *TRAINING, *SMALL),
    ):
        run = fresh_verb if arguments[0] == "train" else verb
        _, out, err = run(place, *arguments)
        assert all(c.isprintable() or c == "\n" for c in out + err)
        assert "owned" in out + err or arguments[0] == "train"


def test_links_lead_nowhere(place: Path) -> None:
    folder, outside = place / "links", place / "outside"
    subprocess.run(["cp", "-r", place / FOLDER, folder], check=True)
    outside.mkdir()
    (outside / "metrics.jsonl").write_text('{"step": 1, "train_seconds": 1, "loss": 0.123456}\n')
    (folder / run_folder.METRICS).unlink()
    (folder / run_folder.METRICS).symlink_to(outside / "metrics.jsonl")
    shutil.rmtree(folder / "model")
    (folder / "model").symlink_to(outside)
    code, out, _ = verb(place, "report", "--text", "--run", "links")
    assert code == 0
    assert "a link leads out of the folder" in " ".join(out.split())
    assert "0.123456" not in out
    arguments = ("export", "--format", "keras", "--run", "links", "--model", OWN)
    code, _, err = verb(place, *arguments)
    assert code == 65
    assert "a link leads out of the folder" in err
    assert [path.name for path in outside.iterdir()] == ["metrics.jsonl"]


def test_too_little_room_for_the_library_that_draws_costs_the_charts_alone(place: Path) -> None:
    limit = "ulimit -v 6291456;"  # KiB
    code, _, err = fresh_verb(place, "report", "--run", FOLDER, before=limit)
    assert (code, err) == (0, "")
    page = (place / FOLDER / run_folder.REPORT).read_text()
    assert "This chart could not be drawn" in page
    code, _, err = fresh_verb(place, "compare", FOLDER, "--output", "page.html", before=limit)
    assert (code, err) == (0, "")
    assert "This chart could not be drawn" in (place / "page.html").read_text()
    assert verb(place, "report", "--run", FOLDER)[0] == 0
    assert "could not be drawn" not in (place / FOLDER / run_folder.REPORT).read_text()


def shape(height: int, width: int, preset: str = "softmax") -> Callable[[Path], None]:
    """Return what has a run name images of this size; its checkpoint has its digest."""

    def spoil(folder: Path) -> None:
        config = json.loads((folder / run_folder.CONFIG).read_bytes())
        config |= {"input_shape": [height, width, 1], "preset": preset, "model": None}
        (folder / run_folder.CONFIG).write_text(json.dumps(config))
        damage.sign(folder, lambda point: point)

    return spoil


def many_lines(folder: Path) -> None:
    line = b'{"step": 1, "train_seconds": 1}\n'
    (folder / run_folder.METRICS).write_bytes(line * 5_000_000)
    (folder / run_folder.rank_metrics(1)).write_bytes(line * 900_000)


def huge_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.name != run_folder.CONFIG:
            with path.open("ab") as file:
                file.truncate(1 << 40)


def huge_header(folder: Path) -> None:
    for path in folder.rglob("*.safetensors"):
        path.write_bytes((1 << 62).to_bytes(8, "little") + b"{" * (1 << 20))


SHOW = (("report",), ("report", "--text"), ("compare", "--output", "page.html"))
OPEN = (("predict", "one.png"), ("evaluate",), ("export",))


@pytest.mark.parametrize(
    ("spoil", "verbs"),
    [
        (shape(100_000, 100_000), OPEN[:1]),
        (shape(2048, 2048, "linear-512-256-128"), OPEN),
        (many_lines, SHOW),
        (huge_files, (*SHOW, *OPEN[:1])),
        (huge_header, (*SHOW[:1], *OPEN[:1])),
    ],
    ids=["shape", "dense", "lines", "files", "header"],
)
def test_no_size_that_a_folder_names_takes_the_memory(
    place: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    verbs: tuple[tuple[str, ...], ...],
) -> None:
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", place / FOLDER, folder], check=True)
    spoil(folder)
    for words in verbs:
        where = (str(folder),) if words[0] == "compare" else ("--run", str(folder))
        process = warm.start(*words, *where, cwd=place)
        code, _, err = checked(place, *processes.finish(process))
        assert code in (0, 2, 65), err
        assert err.count("\n") <= 1
        assert isinstance(process, warm.Fork)
        assert LEAST_MEMORY < process.peak * 1024 < MOST_MEMORY
