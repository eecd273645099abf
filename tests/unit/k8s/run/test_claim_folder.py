"""A folder that comes in answers: whole, in as few as fit, and as it was."""

from pathlib import Path

import pytest

from k8s.run import claim_folder
from k8s.run.claim_folder import ClaimFolder
from trainer.errors import ConfigError, DataError, UnavailableError
from trainer.storage import pack
from trainer.storage.base import ObjectNotFoundError
from trainer.storage.local import LocalStorage

MOST = 10  # bytes of an answer


class Pods:
    """Answers as pods do, and counts them."""

    def __init__(self, store: LocalStorage) -> None:
        self.store = store
        self.asked: list[pack.Wanted] = []

    def __call__(self, wanted: pack.Wanted) -> pack.Pack:
        self.asked.append(wanted)
        return pack.unpack(pack.pack(self.store, wanted, MOST))


@pytest.fixture
def pods(tmp_path: Path) -> Pods:
    return Pods(LocalStorage(str(tmp_path / "run"), links=False))


def test_small_objects_come_with_the_listing(pods: Pods) -> None:
    for name in ("a", "b/c", "d"):
        pods.store.create(name, name.encode())
    folder = ClaimFolder("/data/run", pods)
    assert folder.list() == pods.store.list()
    assert folder.list("b/") == pods.store.list("b/")
    assert [folder.read(name) for name in ("a", "b/c", "d")] == [b"a", b"b/c", b"d"]
    with pytest.raises(ObjectNotFoundError, match="no object /data/run/x"):
        folder.read("x")
    assert len(pods.asked) == 1


def test_large_objects_come_in_pieces_and_small_ones_together(pods: Pods) -> None:
    wanted = {"a": bytes(range(35)), **{f"b{n}": b"12345" for n in range(4)}, "c": bytes(20)}
    for name, data in wanted.items():
        pods.store.create(name, data)
    folder = ClaimFolder("/data/run", pods)
    assert {entry.name: folder.read(entry.name) for entry in folder.list()} == wanted
    assert len(pods.asked) <= 1 + 4 + 1 + 2
    before = len(pods.asked)
    assert {entry.name: folder.read(entry.name) for entry in folder.list()} == wanted
    assert len(pods.asked) == before


def test_an_object_that_is_replaced_between_pieces_comes_as_one_of_both(pods: Pods) -> None:
    old, new = b"old " * 6, b"new " * 9
    pods.store.create("a", old)

    def ask(wanted: pack.Wanted) -> pack.Pack:
        if len(pods.asked) == 2:
            pods.store.replace("a", new)
        return pods(wanted)

    assert ClaimFolder("/data/run", ask).read("a") == new


def test_an_object_that_never_keeps_still_is_given_up(
    pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.store.create("a", bytes(20))

    def ask(wanted: pack.Wanted) -> pack.Pack:
        pods.store.replace("a", b"%20d" % len(pods.asked))
        return pods(wanted)

    monkeypatch.setattr(claim_folder, "PATIENCE", 0.2)
    with pytest.raises(UnavailableError, match="changes faster than it is read"):
        ClaimFolder("/data/run", ask).read("a")


def test_an_object_that_goes_meanwhile_is_not_found(pods: Pods) -> None:
    pods.store.create("a", bytes(20))
    folder = ClaimFolder("/data/run", pods)
    folder.list()
    pods.store.delete("a")
    with pytest.raises(ObjectNotFoundError, match="deleted meanwhile"):
        folder.read("a")


def test_an_object_that_pods_cannot_read_is_named(pods: Pods, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"1")
    pods.store.create("a", b"1")
    (tmp_path / "run/out").symlink_to(tmp_path / "secret")
    folder = ClaimFolder("/data/run", pods)
    assert folder.read("a") == b"1"
    with pytest.raises(DataError, match="a link leads out"):
        folder.read("out")


def test_too_large_an_object_is_refused_before_it_comes(
    pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_folder, "LARGEST", 20)
    pods.store.create("a", bytes(21))
    with pytest.raises(ConfigError, match="21 bytes are too many for a pod's log; mount the claim"):
        ClaimFolder("/data/run", pods).read("a")
    assert len(pods.asked) == 1


def test_nothing_is_written(pods: Pods) -> None:
    folder = ClaimFolder("/data/run", pods)
    for write in (folder.create, folder.replace):
        with pytest.raises(ConfigError, match="only read here"):
            write("a", b"1")
    with pytest.raises(ConfigError):
        folder.delete("a")
    assert pods.asked == []
