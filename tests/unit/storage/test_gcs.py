"""GCSStorage against a server that fails as networks and Cloud Storage do."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import ConfigError, UnavailableError, UserError
from trainer.storage.base import Entry, ObjectNotFoundError, open_storage
from trainer.storage.gcs import GCSStorage
from trainer.testing.gcs_server import Fault, GCSServer, Verb

# google-api-core says so where it finds gRPC, which TensorFlow brings, and not its companion.
pytestmark = pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning")

SMALL = b"small" * 20_000
LARGE = bytes((8 << 20) + 1)  # over 8 MiB the client sends resumable uploads


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GCSServer]:
    with GCSServer("bucket") as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture
def store(server: GCSServer) -> GCSStorage:  # noqa: ARG001
    return GCSStorage("bucket", "run", deadline=20)


def message(error: type[UserError], call: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("verb", "data"), [("insert", SMALL), ("start", LARGE), ("chunk", LARGE)])
def test_create_whose_answer_is_lost_knows_its_own_write(
    server: GCSServer, store: GCSStorage, verb: Verb, data: bytes
) -> None:
    server.faults = [Fault("lose", verb)]
    assert store.create("a", data)
    assert server.requests.count(verb) == 2
    assert store.read("a") == data


@pytest.mark.parametrize(("verb", "data"), [("insert", SMALL), ("chunk", LARGE)])
def test_create_whose_refusal_is_lost_knows_the_foreign_write(
    server: GCSServer, store: GCSStorage, verb: Verb, data: bytes
) -> None:
    server.put("bucket", "run/a", b"foreign")
    server.faults = [Fault("lose", verb)]
    assert not store.create("a", data)
    assert store.read("a") == b"foreign"


def test_create_overtaken_between_two_tries_leaves_the_other_write(
    server: GCSServer, store: GCSStorage
) -> None:
    overtake = lambda: server.put("bucket", "run/a", b"foreign")  # noqa: E731
    server.faults = [Fault("error", "insert", effect=overtake)]
    assert not store.create("a", SMALL)
    assert store.read("a") == b"foreign"


def test_create_starts_over_if_the_other_write_vanishes_before_the_comparison(
    server: GCSServer, store: GCSStorage
) -> None:
    server.put("bucket", "run/a", b"foreign")
    vanish = lambda: server.delete("bucket", "run/a", {})  # noqa: E731
    server.faults = [Fault("slow", "media", effect=vanish)]
    assert store.create("a", SMALL)
    assert store.read("a") == SMALL


def test_replace_whose_answer_is_lost_is_repeated(server: GCSServer, store: GCSStorage) -> None:
    store.replace("a", b"old")
    server.faults = [Fault("lose", "insert")]
    store.replace("a", SMALL)
    assert store.read("a") == SMALL


def test_a_lost_resumable_session_is_started_again(server: GCSServer, store: GCSStorage) -> None:
    server.faults = [Fault("slow", "chunk", effect=server.sessions.clear)]
    assert store.create("a", LARGE)
    assert server.requests == ["start", "chunk", "list", "start", "chunk"]


CALLS: list[tuple[Verb, Callable[[GCSStorage], object]]] = [
    ("insert", lambda store: store.create("b", SMALL)),
    ("insert", lambda store: store.replace("b", SMALL)),
    ("start", lambda store: store.create("b", LARGE)),
    ("chunk", lambda store: store.replace("b", LARGE)),
    ("media", lambda store: store.read("a")),
    ("list", lambda store: store.list()),
    ("delete", lambda store: store.delete("a")),
]


@pytest.mark.parametrize(("verb", "call"), CALLS)
def test_every_verb_is_tried_again(
    server: GCSServer, store: GCSStorage, verb: Verb, call: Callable[[GCSStorage], object]
) -> None:
    server.put("bucket", "run/a", SMALL)
    server.faults = [Fault("error", verb, times=2)]
    call(store)
    assert server.requests.count(verb) == 3


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_transient_answers_are_tried_again(
    server: GCSServer, store: GCSStorage, status: int
) -> None:
    server.faults = [Fault("error", "insert", status=status)]
    assert store.create("a", SMALL)


@pytest.mark.parametrize("kind", ["lose", "cut"])
def test_broken_answers_are_tried_again(server: GCSServer, store: GCSStorage, kind: Any) -> None:
    server.put("bucket", "run/a", SMALL)
    server.faults = [Fault(kind, "media", times=2), Fault(kind, "list", times=2)]
    assert store.read("a") == SMALL
    assert server.requests == ["media"] * 3
    assert store.list() == [Entry("a", len(SMALL))]


@pytest.mark.long
def test_a_body_that_arrives_changed_is_tried_again(server: GCSServer, store: GCSStorage) -> None:
    server.put("bucket", "run/a", SMALL)
    server.faults = [Fault("corrupt", "media", times=2)]
    assert store.read("a") == SMALL
    server.faults = [Fault("corrupt", "media", times=1000)]
    said = message(UnavailableError, lambda: GCSStorage("bucket", deadline=1).read("run/a"))
    assert "DataCorruption" in said


def test_a_body_cut_short_is_not_mixed_with_a_newer_object(
    server: GCSServer, store: GCSStorage
) -> None:
    server.put("bucket", "run/a", SMALL)
    newer = SMALL[::-1] + b"newer"
    server.faults = [
        Fault("cut", "media"),
        Fault("slow", "media", effect=lambda: server.put("bucket", "run/a", newer)),
    ]
    assert store.read("a") == newer


@pytest.mark.long
def test_a_server_that_comes_back_is_waited_for(server: GCSServer, store: GCSStorage) -> None:
    store.create("a", SMALL)
    server.stop()
    threading.Timer(0.5, server.start).start()
    assert store.read("a") == SMALL


@pytest.mark.long
@pytest.mark.parametrize(("verb", "call"), [CALLS[0], CALLS[5]])
def test_out_of_time_names_endpoint_object_and_last_error(
    server: GCSServer, verb: Verb, call: Callable[[GCSStorage], object]
) -> None:
    server.put("bucket", "run/a", SMALL)
    server.faults = [Fault("error", verb, times=1000)]
    said = message(UnavailableError, lambda: call(GCSStorage("bucket", "run", deadline=1)))
    assert server.requests.count(verb) > 1
    assert server.url in said
    assert "gs://bucket/run/" in said
    assert "ServiceUnavailable: planned fault" in said


@pytest.mark.long
def test_a_server_that_is_down_or_silent_is_given_up(server: GCSServer) -> None:
    store = GCSStorage("bucket", deadline=0.5)
    server.faults = [Fault("slow", "media", times=1000, seconds=3600)]
    assert "TimeoutError: timed out" in message(UnavailableError, lambda: store.read("a"))
    server.stop()
    assert "ConnectionRefusedError" in message(UnavailableError, lambda: store.list())


@pytest.mark.parametrize(("verb", "call"), CALLS)
def test_missing_permission_names_the_role(
    server: GCSServer, store: GCSStorage, verb: Verb, call: Callable[[GCSStorage], object]
) -> None:
    server.put("bucket", "run/a", SMALL)
    server.faults = [Fault("error", verb, status=403)]
    said = message(ConfigError, lambda: call(store))
    assert "permission denied (Forbidden: planned fault)" in said
    assert "roles/storage.objectUser" in said


def test_whoever_may_read_but_not_list_still_learns_what_is_missing(
    server: GCSServer, store: GCSStorage
) -> None:
    server.faults = [Fault("error", "list", status=403)]
    with pytest.raises(ObjectNotFoundError):
        store.read("a")


@pytest.mark.parametrize(("verb", "call"), CALLS)
def test_a_refused_request_is_not_repeated(
    server: GCSServer, store: GCSStorage, verb: Verb, call: Callable[[GCSStorage], object]
) -> None:
    server.put("bucket", "run/a", SMALL)
    server.faults = [Fault("error", verb, status=400, times=1000)]
    assert "BadRequest: planned fault" in message(ConfigError, lambda: call(store))
    assert server.requests.count(verb) == 1


@pytest.mark.parametrize("call", [call for _, call in CALLS])
def test_no_such_bucket(server: GCSServer, call: Callable[[GCSStorage], object]) -> None:
    said = message(ConfigError, lambda: call(GCSStorage("elsewhere")))
    assert f"no bucket 'elsewhere' at {server.url}" in said


def test_listings_longer_than_a_page_are_whole(server: GCSServer, store: GCSStorage) -> None:
    for number in range(1005):
        server.put("bucket", f"run/{number}", b"")
    server.put("bucket", "other/1", b"")
    expected = sorted(str(number) for number in range(1005))
    assert [entry.name for entry in store.list()] == expected
    assert server.requests.count("list") == 2
    server.page_size = 3
    server.faults = [Fault("error", "list", times=2), Fault("cut", "list", times=2)]
    assert [entry.name for entry in store.list("10")] == [n for n in expected if n[:2] == "10"]
    assert server.requests.count("list") == 2 + 6 + 4


def test_folder_marks_of_other_tools_are_not_listed(server: GCSServer, store: GCSStorage) -> None:
    for name in ("run/", "run/checkpoints/", "run/a"):
        server.put("bucket", name, b"")
    assert store.list() == [Entry("a", 0)]


def test_reads_follow_the_newest_write(server: GCSServer, store: GCSStorage) -> None:
    store.create("a", b"1")
    assert store.read("a") == b"1"
    server.put("bucket", "run/a", b"2")
    assert store.read("a") == b"2"
    store.replace("a", b"3")
    assert store.read("a") == b"3"


def test_objects_are_read_as_stored(server: GCSServer, store: GCSStorage) -> None:
    packed = gzip.compress(b"digits")
    server.put("bucket", "run/a.gz", packed, encoding="gzip")
    assert store.read("a.gz") == packed
    assert store.list() == [Entry("a.gz", len(packed))]


def test_the_endpoint_is_told(server: GCSServer, store: GCSStorage) -> None:
    assert store.endpoint == server.url
    assert store.uri == "gs://bucket/run"
    assert open_storage("gs://bucket/").uri == "gs://bucket"


@pytest.mark.parametrize(
    "uri",
    ["gs://", "gs:///a", "gs://A", "gs://ab", "gs://a b c", "gs://bucket//a", "gs://bucket/.."],
)
def test_bad_buckets_and_prefixes_are_refused(uri: str) -> None:
    assert uri in message(ConfigError, lambda: open_storage(uri))


def test_an_emulator_without_scheme_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "localhost:4443")
    said = message(ConfigError, lambda: GCSStorage("bucket"))
    assert "STORAGE_EMULATOR_HOST='localhost:4443'" in said


@pytest.mark.parametrize("key", ["missing.json", ""])  # no such file, and a folder
def test_missing_credentials_name_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / key))
    said = message(UnavailableError, lambda: open_storage("gs://bucket"))
    assert str(tmp_path / key) in said
    assert "gcloud auth application-default login" in said
    assert "Workload Identity" in said


def test_credentials_that_name_no_project_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
    (tmp_path / "key.json").write_text(json.dumps(key))
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")  # an installed gcloud would be asked for the project
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    assert GCSStorage("bucket").endpoint == "https://storage.googleapis.com"


def test_rejected_credentials_name_the_remedy(
    server: GCSServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("token")
    (tmp_path / "key.json").write_text(
        json.dumps(
            {
                "type": "external_account",
                "audience": "//iam.googleapis.com/projects/1",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": f"{server.url}/token",  # the server knows no such page: 404
                "credential_source": {"file": str(tmp_path / "token")},
            }
        )
    )
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", server.url)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "any")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    said = message(UnavailableError, lambda: open_storage("gs://bucket/run").read("a"))
    assert "gs://bucket/run/a" in said
    assert "gcloud auth application-default login" in said
    assert server.requests == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("report.html", "text/html"),
        ("result.json", "application/json"),
        ("step-00000100.safetensors", "application/octet-stream"),
        ("t10k-labels-idx1-ubyte.gz", "application/octet-stream"),
    ],
)
def test_a_browser_knows_what_an_object_is(
    server: GCSServer, store: GCSStorage, name: str, kind: str
) -> None:
    store.replace(name, b"data")
    assert server.get("bucket", f"run/{name}", {}).content_type == kind
    assert store.create(f"new-{name}", b"data")
    assert server.get("bucket", f"run/new-{name}", {}).content_type == kind
