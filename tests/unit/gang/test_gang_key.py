"""Who gets a gang's key, and from where."""

import re
from pathlib import Path

import pytest

from trainer.errors import DataError
from trainer.gang.gang_key import VARIABLE, Keyring, new
from trainer.runs.run_folder import gang_key, is_gang_key
from trainer.storage.local import LocalStorage

NAME = gang_key("mnist-cnn")


def keyring(folder: Path, env: dict[str, str] | None = None) -> Keyring:
    return Keyring(lambda: LocalStorage(str(folder)), NAME, {} if env is None else env)


def test_members_read_what_rank_0_made_and_its_successor_finds_it(tmp_path: Path) -> None:
    key = keyring(tmp_path).make()
    assert re.fullmatch(rb"[0-9a-f]{64}", key)
    successor, member = keyring(tmp_path), keyring(tmp_path)
    assert successor.make() == member.read(again=False) == key
    (tmp_path / NAME).write_bytes(b"damaged")
    assert member.read(again=False) == key
    with pytest.raises(DataError, match="damaged"):
        member.read(again=True)
    renewed = keyring(tmp_path).make()
    assert renewed not in (key, b"damaged")
    assert member.read(again=True) == renewed
    successor.remove()
    successor.remove()
    assert not (tmp_path / NAME).exists()


def test_an_inherited_key_touches_no_store_and_is_passed_on_to_nobody(tmp_path: Path) -> None:
    env = {VARIABLE: new(), "OTHER": "stays"}
    inherited = env[VARIABLE].encode()
    ring = keyring(tmp_path, env)
    assert env == {"OTHER": "stays"}
    assert ring.make() == ring.read(again=True) == inherited
    ring.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 64, b"0" * 5000])
def test_what_is_no_key_is_told(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not there; rank 0 writes it as it starts"):
        keyring(tmp_path).read(again=False)
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        keyring(tmp_path).read(again=False)


def test_two_gangs_in_one_folder_have_keys_of_their_own() -> None:
    assert gang_key("one") != gang_key("two")
    assert is_gang_key(NAME)
