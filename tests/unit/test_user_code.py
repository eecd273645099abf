"""Whose code runs when somebody's run is opened: the user's, or a copy that the user trusts."""

import argparse
import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

from trainer.cli import shared
from trainer.config import parse
from trainer.errors import ConfigError, DataError, UserError
from trainer.runs import run_folder, trained_weights, user_code
from trainer.storage.local import LocalStorage

MARK = "import pathlib; pathlib.Path({!r}).touch()\n"


def tar_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as made:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture(autouse=True)
def imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what makes code importable."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv(user_code.UNPACKED, "")


@pytest.fixture
def archive(tmp_path: Path) -> user_code.Archive:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "net.py").write_text(MARK.format(str(tmp_path / "ran")))
    return user_code.pack(tmp_path / "theirs")


def a_run(tmp_path: Path, archive: user_code.Archive) -> str:
    """Return the folder of a run that somebody trained with code of theirs."""
    storage = LocalStorage(str(tmp_path / "run"))
    config = parse({"model": "net:f", "code": archive.reference})
    run_folder.claim(storage, config, "d" * 64, (8, 8, 1), 4, code=archive)
    return storage.uri


def options(run: str, **flags: str) -> argparse.Namespace:
    wanted: dict[str, str | None] = {"model": None, "code": None, "trust_code": None, **flags}
    return argparse.Namespace(run=run, **wanted)


def digest(archive: user_code.Archive) -> str:
    return archive.reference.removeprefix(user_code.SCHEME)


def test_nothing_of_the_run_can_be_imported_unless_it_is_trusted(
    tmp_path: Path, archive: user_code.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path, archive)
    monkeypatch.chdir(run)  # where the current directory is the stranger's
    before = list(sys.path)
    assert shared.own_model(options(run)) is None
    assert sys.path == before
    with pytest.raises(ConfigError) as caught:
        trained_weights.restore_with(run, None)
    assert str(caught.value).endswith(f"or trust the run's copy: --trust-code {digest(archive)}")
    assert not (tmp_path / "ran").exists()


def test_trusted_code_is_named_before_it_runs(
    tmp_path: Path, archive: user_code.Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path, archive)
    for given in (digest(archive), archive.reference):
        assert shared.own_model(options(run, trust_code=given)) == "net:f"
    assert not (tmp_path / "ran").exists()  # that is for whoever imports it
    said = capsys.readouterr().err
    assert f"running {run}/{user_code.object_name(archive.reference)} as net:f: net.py\n" in said
    folder = sys.path[0]
    assert Path(folder, "net.py").is_file()
    assert not os.access(folder, os.W_OK) or os.geteuid() == 0


@pytest.mark.parametrize("given", ["", "0" * 64, "../../etc/passwd", "sha256:", "A" * 64])
def test_other_digests_are_refused(tmp_path: Path, archive: user_code.Archive, given: str) -> None:
    run = a_run(tmp_path, archive)
    with pytest.raises(ConfigError) as caught:
        shared.own_model(options(run, trust_code=given))
    assert str(caught.value) == (
        f"--trust-code: {given!r}: the run {run} has code {archive.reference}"
    )


@pytest.mark.parametrize("model", ["os:system", "subprocess:run", "net2:f", "a.net:f"])
def test_trusted_code_is_what_runs(tmp_path: Path, archive: user_code.Archive, model: str) -> None:
    """The SHA-256 is of the code; the name of the function in it is not trusted with it."""
    storage = LocalStorage(str(tmp_path / "run"))
    config = parse({"model": model, "code": archive.reference})
    run_folder.claim(storage, config, "d" * 64, (8, 8, 1), 4, code=archive)
    with pytest.raises(ConfigError, match="holds no module"):
        shared.own_model(options(storage.uri, trust_code=digest(archive)))


def test_code_that_was_exchanged_is_refused(tmp_path: Path, archive: user_code.Archive) -> None:
    run = a_run(tmp_path, archive)
    name = user_code.object_name(archive.reference)
    LocalStorage(run).replace(name, tar_of({"net.py": b"evil"}))
    with pytest.raises(DataError, match="its bytes have another SHA-256 than its name"):
        shared.own_model(options(run, trust_code=digest(archive)))


def test_trusted_code_does_not_leave_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for names in ({"net.py": b"", "../out.py": b""}, {"net.py": b"", "a": b"", "a/b": b""}):
        data = tar_of(names)
        hostile = user_code.Archive(data, "theirs")
        assert hostile.reference == user_code.SCHEME + hashlib.sha256(data).hexdigest()
        run = a_run(tmp_path / str(len(names)), hostile)
        with pytest.raises(DataError, match="code: damaged"):
            shared.own_model(options(run, trust_code=digest(hostile)))
    escapes = user_code.Archive(tar_of({"net.py": b"", "a\x1b[2Jb.py": b""}), "theirs")
    run = a_run(tmp_path / "escapes", escapes)
    assert shared.own_model(options(run, trust_code=digest(escapes))) == "net:f"
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"code": "x"}, "--code: needs --model package.module:function"),
        ({"trust_code": "x", "model": "m:f"}, "leave --model and --code away"),
        ({"trust_code": "x", "code": "x"}, "leave --model and --code away"),
        ({"model": "m:f", "code": "/no/such"}, "code: /no/such: no such file or folder"),
    ],
)
def test_flags_that_contradict_each_other(
    tmp_path: Path, archive: user_code.Archive, flags: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        shared.own_model(options(a_run(tmp_path, archive), **flags))
    assert words in str(caught.value)


def test_a_run_of_a_version_that_kept_no_code_can_still_be_resumed(
    tmp_path: Path, archive: user_code.Archive
) -> None:
    storage = LocalStorage(str(tmp_path / "old"))
    old = parse({"model": "net:f"})
    wanted = {k: v for k, v in old.identity().items() if k != "code"} | {"data_sha256": "d" * 64}
    storage.create(run_folder.CONFIG, run_folder.pretty(wanted))
    config = parse({"model": "net:f", "code": archive.reference})
    assert run_folder.claim(storage, config, "d" * 64, code=archive) == run_folder.digest(wanted)


def test_changed_code_in_a_runs_folder_is_refused_by_file(
    tmp_path: Path, archive: user_code.Archive
) -> None:
    run = a_run(tmp_path, archive)
    (tmp_path / "theirs" / "more.py").write_text("")
    changed = user_code.pack(tmp_path / "theirs")
    config = parse({"model": "net:f", "code": changed.reference})
    with pytest.raises(ConfigError, match=r"other settings: code \(more\.py only here\); give"):
        run_folder.claim(LocalStorage(run), config, "d" * 64, (8, 8, 1), 4, code=changed)
