import os
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import certificates
from tests.support.mnist import find_mnist
from trainer.data import dataset, idx, sources
from trainer.errors import ConfigError, DataError, UnavailableError, UserError

COUNTS: dict[str, Any] = {"train_count": 40, "test_count": 20}
Answer = Callable[["Handler"], object]


class Handler(BaseHTTPRequestHandler):
    """Answers GET /NAME as the mirror says."""

    server: "Mirror"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.answer(self)

    def log_message(self, *_: object) -> None:
        pass

    def send(self, data: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)


class Mirror(ThreadingHTTPServer):
    """A mirror on the loopback interface; ``answer`` decides what it does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Answer = lambda handler: handler.send_error(404)
        self.asked: list[str] = []
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/mnist"

    def serve_folder(self, folder: Path) -> None:
        def answer(handler: Handler) -> None:
            handler.send((folder / Path(handler.path).name).read_bytes())

        self.answer = answer

    def say_nothing(self) -> None:
        self.answer = lambda _: self.closing.wait()

    def handle_error(self, *_: object) -> None:
        pass  # clients that hang up are part of these tests


@pytest.fixture
def mirrors(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Mirror, Mirror]]:
    """Two mirrors that answer 404 until told otherwise; MNIST_DIR is not set."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("MNIST_DIR", raising=False)
    pair = Mirror(), Mirror()
    monkeypatch.setattr(sources, "MIRRORS", [mirror.url for mirror in pair])
    threads = [threading.Thread(target=mirror.serve_forever, args=(0.01,)) for mirror in pair]
    for thread in threads:
        thread.start()
    yield pair
    for mirror, thread in zip(pair, threads, strict=True):
        mirror.closing.set()
        mirror.shutdown()
        thread.join()
        mirror.server_close()


def unused_url() -> str:
    mirror = Mirror()
    mirror.server_close()
    return mirror.url


@pytest.fixture(scope="module")
def some_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    sources.put("digits", str(folder), **COUNTS)
    return folder


@pytest.fixture(scope="module")
def mnist() -> Path:
    folder = find_mnist()
    if folder is None:
        pytest.skip("MNIST is not on this machine")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def refusal(kind: type[UserError], source: str, to: Path, **options: Any) -> str:
    """The message of the error that put() must raise, having changed nothing."""
    before = contents(to)
    with pytest.raises(kind) as caught:
        sources.put(source, str(to), **COUNTS, **options)
    assert contents(to) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_digits_are_put_compressed(tmp_path: Path) -> None:
    line = sources.put("digits", str(tmp_path), **COUNTS, seed=3)
    data = dataset.load(str(tmp_path), validation=0)
    assert set(contents(tmp_path)) == {f"{name}.gz" for name in dataset.FILES}
    assert (len(data.train.images), len(data.test.images), data.classes) == (40, 20, 10)
    assert line == (
        f"{tmp_path}: 40 training and 20 test images 28x28x1, 10 classes, sha256"
        f" {data.sha256[:12]}, digits drawn by the program from seed 3"
    )


def test_no_digit_is_both_for_training_and_for_testing(tmp_path: Path) -> None:
    drawn = []
    for seed in (0, 1, 2):
        sources.put("digits", str(tmp_path / str(seed)), **COUNTS, seed=seed)
        data = dataset.load(str(tmp_path / str(seed)), validation=0)
        drawn += [image.tobytes() for image in (*data.train.images, *data.test.images)]
    assert len(set(drawn)) == len(drawn)


def test_the_same_data_are_already_there(tmp_path: Path) -> None:
    first = sources.put("digits", str(tmp_path), **COUNTS)
    before = contents(tmp_path)
    assert sources.put("digits", str(tmp_path), **COUNTS) == f"{first}, already there"
    assert contents(tmp_path) == before


def test_the_same_data_are_already_there_though_packed_otherwise(
    tmp_path: Path, some_digits: Path
) -> None:
    for name in dataset.FILES:
        packed = (some_digits / f"{name}.gz").read_bytes()
        (tmp_path / dataset.aliases(name)[2]).write_bytes(idx.encode(idx.decode(packed, name)))
    before = contents(tmp_path)
    assert sources.put("digits", str(tmp_path), **COUNTS).endswith(", already there")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("missing", range(1, 4))
def test_an_interrupted_put_is_completed_by_the_same_command(
    tmp_path: Path, some_digits: Path, missing: int
) -> None:
    sources.put("digits", str(tmp_path), **COUNTS)
    for name in dataset.FILES[-missing:]:
        (tmp_path / f"{name}.gz").unlink()
    assert "already there" not in sources.put("digits", str(tmp_path), **COUNTS)
    assert contents(tmp_path) == contents(some_digits)


@pytest.mark.parametrize("name", dataset.FILES)
def test_other_data_are_not_overwritten(tmp_path: Path, some_digits: Path, name: str) -> None:
    other = idx.decode((some_digits / f"{name}.gz").read_bytes(), name)[::-1]
    (tmp_path / name).write_bytes(idx.encode(other))
    assert refusal(ConfigError, "digits", tmp_path) == (
        f"{tmp_path}/{name} holds other data, and nothing is overwritten; put into another"
        " folder, or delete the dataset there first"
    )


def test_a_torn_file_at_the_destination_is_other_data(tmp_path: Path, some_digits: Path) -> None:
    stored = f"{dataset.FILES[0]}.gz"
    (tmp_path / stored).write_bytes((some_digits / stored).read_bytes()[:-1])
    assert f"{stored} holds other data" in refusal(ConfigError, "digits", tmp_path)


def test_a_folder_is_put_as_it_is_under_the_usual_names(tmp_path: Path, some_digits: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    packed = contents(some_digits)
    images, labels, *test_names = dataset.FILES
    plain = idx.encode(idx.decode(packed[f"{images}.gz"], images))
    (source / images.replace("-idx", ".idx")).write_bytes(plain)
    (source / labels).write_bytes(packed[f"{labels}.gz"])  # its name does not say gzip
    for name in test_names:
        (source / f"{name}.gz").write_bytes(packed[f"{name}.gz"])
    line = sources.put(f"file://{source}", f"file://{target}")
    assert line.endswith(f", from file://{source}")
    assert contents(target) == {images: plain} | {
        f"{name}.gz": packed[f"{name}.gz"] for name in (labels, *test_names)
    }


def test_a_folder_with_an_error_is_not_put(tmp_path: Path, some_digits: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name, data in contents(some_digits).items():
        (source / name).write_bytes(data)
    (source / f"{dataset.FILES[3]}.gz").write_bytes(idx.encode(np.zeros(19, np.uint8)))
    message = refusal(DataError, str(source), target)
    assert message.startswith(f"{source}: t10k-images-idx3-ubyte holds 20 images but")
    assert not target.exists()


def test_an_unknown_source_is_refused(tmp_path: Path) -> None:
    for unknown in ("mnits", str(tmp_path / "nowhere")):
        assert refusal(ConfigError, unknown, tmp_path) == (
            f"{unknown}: no file, folder or dataset of this name; give auto, mnist, digits, a "
            "folder or URI of IDX files, a folder of pictures, an .npz, a .csv or a .parquet file"
        )


def test_a_name_is_not_looked_for_below_the_folders_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "venv/lib/package").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    seen, scandir = list[Path](), os.scandir

    def recorded(path: str) -> Any:
        seen.append(Path(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", recorded)
    assert "no file, folder or dataset" in refusal(ConfigError, "mnits", tmp_path / "to")
    assert seen
    assert not any("lib" in path.parts for path in seen)


@pytest.mark.parametrize(
    "options", [{"train_count": 0}, {"test_count": -1}, {"train_count": 0, "split": 2}]
)
def test_digits_that_cannot_be_drawn_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"give at least 1 each$"):
        sources.put("digits", str(tmp_path), **(COUNTS | options))
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_a_seed_out_of_range_is_refused_whatever_it_would_decide(
    tmp_path: Path, some_digits: Path, seed: int
) -> None:
    for source in ("digits", str(some_digits)):
        message = refusal(ConfigError, source, tmp_path / "to", seed=seed, split=2)
        assert message == f"seed: {seed}; give 0 to 2**63 - 1"


def test_mnist_comes_from_the_first_mirror_that_has_it(
    tmp_path: Path,
    mirrors: tuple[Mirror, Mirror],
    mnist: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirrors[1].serve_folder(mnist)
    monkeypatch.setattr(sources, "MIRRORS", [unused_url(), *sources.MIRRORS])
    line = sources.put("mnist", str(tmp_path))
    assert line.endswith(f", MNIST from {mirrors[1].url}")
    assert contents(tmp_path) == contents(mnist)
    assert mirrors[0].asked == [f"/mnist/{dataset.FILES[0]}.gz"]


def test_data_other_than_mnist_are_not_put(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror], some_digits: Path
) -> None:
    mirrors[0].serve_folder(some_digits)
    message = refusal(DataError, "mnist", tmp_path)
    assert f"{mirrors[0].url}/{dataset.FILES[0]}.gz: the SHA-256 of the uncompressed" in message
    assert f"{dataset.FILES[0]}.gz: HTTP Error 404: Not Found" in message


def test_a_mirror_that_answers_with_a_web_page_has_no_mnist(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror]
) -> None:
    mirrors[0].answer = lambda handler: handler.send(b"<html>Log in to the hotel's network</html>")
    message = refusal(DataError, "mnist", tmp_path)
    assert "the file starts with 0x3c68746d" in message


def test_a_mirror_that_never_ends_is_given_up(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror]
) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:  # until the client hangs up
            handler.wfile.write(bytes(1 << 20))

    mirrors[0].answer = endless
    message = refusal(DataError, "mnist", tmp_path)
    assert "more than 16777216 bytes, so it is not MNIST" in message


def test_mirrors_out_of_reach_are_all_named(
    tmp_path: Path,
    mirrors: tuple[Mirror, Mirror],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirrors[0].answer = lambda handler: handler.send(b"\x1f\x8b", length=100)
    nobody = unused_url()
    monkeypatch.setattr(sources, "MIRRORS", [nobody, *sources.MIRRORS])
    message = refusal(UnavailableError, "mnist", tmp_path)
    name = f"{dataset.FILES[0]}.gz"
    assert message.startswith("MNIST could not be downloaded (")
    assert f"{nobody}/{name}: [Errno " in message
    assert f"{mirrors[0].url}/{name}: connection lost after 2 of 100 bytes" in message
    assert f"{mirrors[1].url}/{name}: HTTP Error 404: Not Found" in message


@pytest.fixture
def untrusted(tmp_path_factory: pytest.TempPathFactory, mirrors: tuple[Mirror, Mirror]) -> Mirror:
    """Give the first mirror a certificate that nobody has signed, and its URL https."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.self_signed(tmp_path_factory.mktemp("tls")))
    mirror = mirrors[0]
    mirror.socket = context.wrap_socket(mirror.socket, server_side=True)
    mirror.url = mirror.url.replace("http:", "https:")
    sources.MIRRORS[0] = mirror.url  # type: ignore[index]  # the fixture's own list
    return mirror


def test_a_mirror_that_cannot_be_trusted_is_said_to_be_that(
    tmp_path: Path, untrusted: Mirror
) -> None:
    message = refusal(UnavailableError, "mnist", tmp_path)
    name = f"{untrusted.url}/{dataset.FILES[0]}.gz"
    assert f"({name}: TLS: self-signed certificate; http" in message
    assert "name its file in SSL_CERT_FILE, or put a folder" in message
    assert "try again later" not in message


def test_auto_says_that_a_mirror_cannot_be_trusted(
    tmp_path: Path, untrusted: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PROBE_SECONDS", 60)
    line = sources.put("auto", str(tmp_path), **COUNTS)
    assert f", because {untrusted.url}/{dataset.FILES[3]}.gz: TLS: self-signed certificate" in line
    assert line.endswith("name its file in SSL_CERT_FILE")
    assert "answered within" not in line


def test_a_mirror_without_tls_is_said_to_be_that(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror]
) -> None:
    for mirror in mirrors:
        mirror.url = mirror.url.replace("http:", "https:")
    sources.MIRRORS[:] = [mirror.url for mirror in mirrors]  # type: ignore[index]
    message = refusal(UnavailableError, "mnist", tmp_path)
    assert "TLS: " in message


def test_auto_keeps_what_is_there(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.put("digits", str(tmp_path), **COUNTS)
    before = contents(tmp_path)
    line = sources.put("auto", str(tmp_path))
    assert line.startswith(f"{tmp_path}: 40 training and 20 test images")
    assert line.endswith(", kept as it was")
    monkeypatch.setenv("MNIST_DIR", str(tmp_path))
    assert sources.put("auto", str(tmp_path)) == line
    for name in ("other", "nowhere"):
        if name == "other":
            sources.put("digits", str(tmp_path / name), **{**COUNTS, "seed": 1})
        monkeypatch.setenv("MNIST_DIR", str(tmp_path / name))
        said = sources.put("auto", str(tmp_path))
        if name == "other":
            words = f", not replaced by {tmp_path / name}, which MNIST_DIR names: to train on that"
        else:
            words = f"; MNIST_DIR names {tmp_path / name}, which does not exist"
        assert said.startswith(line + words)
    shutil.rmtree(tmp_path / "other")
    assert contents(tmp_path) == before
    assert mirrors[0].asked == mirrors[1].asked == []


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("daisy/1.jpg", "such as daisy/1.jpg: python -m trainer data put --from {} --to FOLDER"),
        (
            "notes.md",
            "into a folder of its own: python -m trainer data put --from mnist --to FOLDER",
        ),
    ],
)
def test_auto_puts_nothing_beside_other_files(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror], file: str, remedy: str
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    message = refusal(ConfigError, "auto", tmp_path)
    assert message.startswith(f"{tmp_path}: holds other files, such as {file}, but no dataset; ")
    assert message.endswith(remedy.format(tmp_path))
    assert mirrors[0].asked == mirrors[1].asked == []


def test_auto_puts_a_dataset_beside_hidden_files(
    tmp_path: Path, some_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "data"
    target.mkdir()
    for name in (".gitkeep", ".DS_Store", "Thumbs.db"):
        (target / name).touch()
    monkeypatch.setenv("MNIST_DIR", str(some_digits))
    assert sources.put("auto", str(target)).endswith("which MNIST_DIR names")


def test_auto_prefers_mnist_dir(
    tmp_path: Path,
    mirrors: tuple[Mirror, Mirror],
    some_digits: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MNIST_DIR", str(some_digits))
    line = sources.put("auto", str(tmp_path))
    assert line.endswith(f", from {some_digits}, which MNIST_DIR names")
    assert contents(tmp_path) == contents(some_digits)
    assert mirrors[0].asked == mirrors[1].asked == []


@pytest.mark.usefixtures("mirrors")
def test_auto_does_not_pass_over_a_bad_mnist_dir(
    tmp_path: Path,
    some_digits: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, to = tmp_path / "mnist", tmp_path / "to"
    monkeypatch.setenv("MNIST_DIR", str(folder))
    message = refusal(ConfigError, "auto", to)
    assert message.startswith(f"MNIST_DIR={folder}: no file, folder or dataset of this name;")
    folder.mkdir()
    for name, data in contents(some_digits).items():
        (folder / name).write_bytes(data[:-1])
    message = refusal(DataError, "auto", to)
    assert message.startswith(f"MNIST_DIR={folder}/train-images-idx3-ubyte.gz: the gzip stream is")


def test_auto_takes_the_mirror_that_answers(
    tmp_path: Path,
    mirrors: tuple[Mirror, Mirror],
    mnist: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "PROBE_SECONDS", 60)
    mirrors[0].say_nothing()
    mirrors[1].serve_folder(mnist)
    line = sources.put("auto", str(tmp_path))
    assert line.endswith(f", MNIST from {mirrors[1].url}")
    assert contents(tmp_path) == contents(mnist)


def test_auto_draws_digits_where_no_mirror_answers(
    tmp_path: Path,
    mirrors: tuple[Mirror, Mirror],
    some_digits: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "PROBE_SECONDS", 0.2)
    for mirror in mirrors:
        mirror.say_nothing()  # until this test has ended: put() cannot have waited for them
    line = sources.put("auto", str(tmp_path), **COUNTS)
    assert line.endswith(
        ", digits drawn by the program from seed 0, because MNIST_DIR is not set and no mirror of"
        " MNIST answered within 0.2 s"
    )
    assert contents(tmp_path) == contents(some_digits)


@pytest.mark.usefixtures("mirrors")
def test_auto_does_not_wait_where_every_mirror_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "PROBE_SECONDS", 1e6)
    line = sources.put("auto", str(tmp_path), **COUNTS)
    assert "digits drawn by the program" in line


def test_auto_draws_digits_where_a_mirror_has_no_mnist(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror], some_digits: Path
) -> None:
    mirrors[0].serve_folder(some_digits)
    line = sources.put("auto", str(tmp_path), **COUNTS)
    assert "digits drawn by the program from seed 0, because MNIST could not be" in line
    assert contents(tmp_path) == contents(some_digits)
