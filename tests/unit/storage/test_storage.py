"""What every storage promises, asked of each: a folder, the servers of tests/support/stores.py.

TRAINYARD_TEST_STORE names a store of your own to ask, too, below a prefix that is deleted after.
"""

import contextlib
import random
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support import series
from tests.support.stores import KINDS, START, Forgetful, Stores, opened, proxied
from trainer.errors import ConfigError
from trainer.storage.base import Entry, ObjectNotFoundError, Storage, check_name, open_storage
from trainer.storage.foreign_names import FOREIGN

# google-api-core says so where it finds gRPC, which TensorFlow brings, and not its companion.
pytestmark = pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning")

ROOT = Path(__file__).parents[3]
WRITERS = 16


FOLDER_AND_STORES = [
    pytest.param(kind, marks=() if kind in ("folder", "gs") else pytest.mark.process)
    for kind in ("folder", *KINDS)
]


@pytest.fixture(params=FOLDER_AND_STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "folder":
        yield open_storage(str(tmp_path / "a/b"))
        return
    with opened(request.getfixturevalue("stores")(request.param)) as storage:
        yield storage


def test_a_new_storage_is_empty(store: Storage) -> None:
    assert store.list() == []
    assert store.list("a/b") == []
    store.delete("a/b")


def test_create_writes_once(store: Storage) -> None:
    assert store.create("a/b/c", b"first")
    assert not store.create("a/b/c", b"second")
    assert not store.create("a/b/c", b"")
    assert store.read("a/b/c") == b"first"


def test_create_of_the_same_bytes_counts_as_done(store: Storage) -> None:
    assert store.create("a", b"same")
    assert store.create("a", b"same")


def test_replace_writes_over_and_anew(store: Storage) -> None:
    store.replace("metrics.jsonl", b"1\n")
    store.replace("metrics.jsonl", b"1\n2\n")
    assert store.read("metrics.jsonl") == b"1\n2\n"
    store.create("other", b"longer than what follows")
    store.replace("other", b"short")
    assert store.read("other") == b"short"
    assert [entry.name for entry in store.list()] == ["metrics.jsonl", "other"]


def test_a_part_of_an_object_is_read_by_itself(store: Storage) -> None:
    store.create("a/b", b"0123456789")
    assert store.read_part("a/b", 0, 3) == b"012"
    assert store.read_part("a/b", 3, 4) == b"3456"
    assert store.read_part("a/b", 7, 100) == b"789"
    with pytest.raises(ObjectNotFoundError):
        store.read_part("a/c", 0, 1)


def test_read_of_an_absent_object_names_it(store: Storage) -> None:
    with pytest.raises(ObjectNotFoundError, match=f"{store.uri}/a/missing") as caught:
        store.read("a/missing")
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)


def test_delete_makes_the_name_free(store: Storage) -> None:
    store.create("a", b"1")
    store.delete("a")
    store.delete("a")
    with pytest.raises(ObjectNotFoundError):
        store.read("a")
    assert store.create("a", b"2")
    assert store.read("a") == b"2"


def test_a_folder_is_no_object(store: Storage) -> None:
    store.create("folder/a", b"1")
    with pytest.raises(ObjectNotFoundError):
        store.read("folder")
    with pytest.raises(ObjectNotFoundError):
        store.read("folder/a/b")
    store.delete("folder")
    store.delete("folder/a/b")
    assert store.list() == [Entry("folder/a", 1)]


NAMES = ["b-x", "b.x", "b/1", "b/10", "b/2/y", "b/2/z/y", "b0", "c", "é"]


@pytest.mark.parametrize(
    "prefix",
    ["", "b", "b/", "b/1", "b/10", "b/2", "b/2/", "b/2/z", "c", "c/", "é", "/", ".", "..", "../"],
)
def test_list_takes_any_string_as_prefix(store: Storage, prefix: str) -> None:
    for name in NAMES:
        store.create(name, name.encode())
    expected = [Entry(name, len(name.encode())) for name in NAMES if name.startswith(prefix)]
    assert store.list(prefix) == sorted(expected)


# SeaweedFS lists 1,000 objects at once, as S3 does, Azurite 5,000; test_gcs.py has pages of gs://.
PAGES = [("s3", 1100), *([("az", 5100)] if series.length(0, 1) else [])]


@pytest.mark.process
@pytest.mark.parametrize(("kind", "count"), PAGES)
def test_lists_longer_than_a_page_are_whole(stores: Stores, kind: str, count: int) -> None:
    with opened(stores(kind)) as store, ThreadPoolExecutor(WRITERS) as pool:
        names = sorted(f"a/{number}" for number in range(count))
        list(pool.map(lambda name: store.create(name, b""), names))
        assert store.list() == store.list("a/") == [Entry(name, 0) for name in names]


ODD_NAMES = [
    "with space/and  two",
    " leading and trailing ",
    "ünïcödé/数字/🧮",
    "%2F",
    "a%20b/100%",
    "a+b",
    "a#b",
    "a?b=c&d",
    "'single' \"double\" `back`",
    "a:b;c,d=e@f!g$h(i)*[j]{k}|l<m>n^o~p",
    ".hidden/..two/...three",
    "trailing.",
    "-rf",
    "~",
    "x" * 255 + "/" + "y" * 244,
    "ü" * 127 + "/z",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_odd_names(store: Storage, name: str) -> None:
    data = name.encode()
    assert store.create(name, data)
    assert store.create(name, data)
    assert store.read(name) == data
    assert store.list() == [Entry(name, len(data))]
    assert store.list(name[:5]) == [Entry(name, len(data))]
    store.replace(name, b"")
    assert store.read(name) == b""
    store.delete(name)
    assert store.list() == []


BAD_NAMES = [
    "",
    "/a",
    "a/",
    "a//b",
    "back\\slash",
    ".",
    "..",
    "a/../b",
    "./a",
    "a\nb",
    "a\0b",
    "a\x7fb",
    "a\x85b",
    "\udcff",
    "\ufffe",
    "\uffff",
    "x" * 256,
    "ü" * 128,
    "/".join("x" * 100 for _ in range(5)),
    ".trainyard-tmp-1",
    "a/.trainyard-tmp-1",
    ".well-known/acme-challenge/a",
    *(pattern.replace("*", "x") for pattern in FOREIGN),
    ".nfs/a",
    "a/.DS_Store",
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_names_that_one_storage_could_not_hold_are_refused_by_all(
    store: Storage, name: str
) -> None:
    for call in (
        lambda: store.read(name),
        lambda: store.create(name, b""),
        lambda: store.replace(name, b""),
        lambda: store.delete(name),
    ):
        with pytest.raises(ConfigError, match="object name") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.process
@settings(max_examples=series.length(40, 1000), deadline=None)
@given(
    st.text(st.one_of(st.characters(), st.sampled_from("./%+#?\\ \n\x7f")), min_size=1, max_size=12)
)
@example("İ")
@example(".nfs")
@example("Thumbs.db/x")
@example("\ufffd\U0001ffff")
def test_any_name_is_taken_by_all_storages_or_by_none(every: list[str], name: str) -> None:
    try:
        check_name(name)
    except ConfigError:
        return
    for uri in every:
        store = open_storage(f"{uri}/{uuid.uuid4().hex}")  # a folder that was one stays one
        assert store.create(name, b"1"), uri
        assert store.list() == [Entry(name, 1)]
        assert store.read(name) == b"1"
        store.delete(name)


@pytest.fixture(scope="module")
def every(stores: Stores) -> Iterator[list[str]]:
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        servers = [stack.enter_context(opened(stores(kind))) for kind in KINDS]
        yield [folder, *(server.uri for server in servers)]


@pytest.mark.long
@pytest.mark.parametrize("size", [0, series.length(9, 64) << 20])
def test_smallest_and_large_objects(store: Storage, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert store.create("large", data)
    assert store.list() == [Entry("large", size)]
    assert store.read("large") == data
    assert store.create("large", data)
    if size:
        flipped = bytes([data[0] ^ 1]) + data[1:]
        assert not store.create("large", flipped)


def assert_one_winner(store: Storage, name: str) -> None:
    start = threading.Barrier(WRITERS)

    def write(data: bytes) -> bool:
        start.wait()
        return store.create(name, data)

    offers = [bytes([writer]) * 10_000 for writer in range(WRITERS)]
    with ThreadPoolExecutor(WRITERS) as pool:
        won = list(pool.map(write, offers))
    assert won.count(True) == 1
    assert store.read(name) == offers[won.index(True)]


def test_of_racing_writers_one_wins(store: Storage) -> None:
    # SeaweedFS has waiting writers ask again once a second.
    for round_ in range(series.length(1, 5)):
        assert_one_winner(store, f"race/{round_}")


@pytest.mark.process
@pytest.mark.parametrize("kind", START)
def test_the_contract_fails_where_conditions_are_ignored(stores: Stores, kind: str) -> None:
    with proxied(stores(kind), Forgetful) as through, pytest.raises(AssertionError):
        test_create_writes_once(open_storage(through.uri))


# A process of its own forks the writers: this one has threads, which a fork would break.
RACE = """
import os, sys, time
from trainer.storage.foreign_names import FOREIGN
from trainer.storage.base import open_storage
start = time.monotonic() + 0.2
children = []
for writer in range(int(sys.argv[2])):
    pid = os.fork()
    if pid == 0:
        time.sleep(max(0, start - time.monotonic()))
        os._exit(open_storage(sys.argv[1]).create("race", bytes([writer]) * 100_000))
    children.append(pid)
won = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
print(*won)
"""


@pytest.mark.process
def test_of_racing_processes_one_wins(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(tmp_path), str(WRITERS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    won = [int(number) for number in done.stdout.split()]
    assert sorted(won) == [0] * (WRITERS - 1) + [1]
    assert open_storage(str(tmp_path)).read("race") == bytes([won.index(1)]) * 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["race"]


def test_a_reader_never_sees_a_torn_replace(store: Storage) -> None:
    size = 300_000
    store.replace("a", bytes(size))

    def write(writer: int) -> None:
        for _ in range(8):
            store.replace("a", bytes([writer]) * size)

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, writer) for writer in range(1, 5)]
        while not all(writer.done() for writer in writers):
            data = store.read("a")
            assert data == data[:1] * size
            assert store.list() == [Entry("a", size)]
        for writer in writers:
            writer.result()
    assert store.read("a")[0] in range(1, 5)


def test_a_second_storage_at_the_uri_sees_the_same(store: Storage) -> None:
    store.create("a/b", b"1")
    again = open_storage(store.uri + "/")
    assert again.uri == store.uri
    assert again.read("a/b") == b"1"
    assert open_storage(store.uri + "/a").list() == [Entry("b", 1)]


@pytest.mark.parametrize(
    "uri",
    [
        *("s4://bucket/a", "http://host/a", "gs:/bucket/a", "hdfs://a", "s3:bucket/a"),
        "arn:aws:s3:::bucket/a",
    ],
)
def test_an_unknown_scheme_is_refused_with_the_known_ones(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"file://PATH, gs://BUCKET") as caught:
        open_storage(uri)
    assert uri in str(caught.value)


@pytest.mark.process
def test_importing_and_local_use_load_no_heavy_package(tmp_path: Path) -> None:
    program = (
        "import sys, trainer.storage.base as s; s.open_storage(sys.argv[1]).create('a', b'');"
        "heavy = {'google', 'obstore', 'tensorflow', 'numpy'};"
        "sys.exit(any(m.split('.')[0] in heavy for m in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, timeout=30, check=True)
