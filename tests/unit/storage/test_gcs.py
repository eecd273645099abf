"""GCSStorage against fake-gcs-server, behind a proxy that fails as networks do."""

import gzip
import json
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from google.cloud import storage

from tests.support import certificates
from tests.support.answers import Certified, Says
from tests.support.stores import Proxied, Stores, proxied
from trainer.errors import ConfigError, CredentialsError, UnavailableError, UserError
from trainer.storage.base import Entry, ObjectNotFoundError, Storage, open_storage, read_at_most
from trainer.storage.gcs import GCSStorage
from trainer.testing.proxy import Answer, Fault, Proxy, Request, Verb, verb_of

# google-api-core says so where it finds gRPC, which TensorFlow brings, and not its companion.
pytestmark = pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning")

SMALL = b"small" * 20_000
LARGE = bytes((8 << 20) + 1)  # over 8 MiB the client sends resumable uploads


@pytest.fixture
def through(stores: Stores) -> Iterator[Proxied]:
    with proxied(stores("gs")) as through:
        yield through


@pytest.fixture
def proxy(through: Proxied) -> Proxy:
    return through.proxy


@pytest.fixture
def around(through: Proxied) -> Storage:
    return through.around


@pytest.fixture
def store(through: Proxied) -> Storage:
    return open_storage(through.uri, deadline=20)


def message(error: type[UserError], call: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("verb", "data"), [("write", SMALL), ("start", LARGE), ("chunk", LARGE)])
def test_create_whose_answer_is_lost_knows_its_own_write(
    proxy: Proxy, store: Storage, verb: Verb, data: bytes
) -> None:
    proxy.faults = [Fault("lose", verb)]
    assert store.create("a", data)
    assert proxy.requests.count(verb) == 2
    assert store.read("a") == data


@pytest.mark.parametrize(("verb", "data"), [("write", SMALL), ("chunk", LARGE)])
def test_create_whose_refusal_is_lost_knows_the_foreign_write(
    proxy: Proxy, around: Storage, store: Storage, verb: Verb, data: bytes
) -> None:
    around.replace("a", b"foreign")
    proxy.faults = [Fault("lose", verb)]
    assert not store.create("a", data)
    assert store.read("a") == b"foreign"


def test_create_overtaken_between_two_tries_leaves_the_other_write(
    proxy: Proxy, around: Storage, store: Storage
) -> None:
    overtake = lambda: around.replace("a", b"foreign")  # noqa: E731
    proxy.faults = [Fault("error", "write", effect=overtake)]
    assert not store.create("a", SMALL)
    assert store.read("a") == b"foreign"


def test_create_starts_over_if_the_other_write_vanishes_before_the_comparison(
    proxy: Proxy, around: Storage, store: Storage
) -> None:
    around.replace("a", b"foreign")
    vanish = lambda: around.delete("a")  # noqa: E731
    proxy.faults = [Fault("slow", "read", effect=vanish)]
    assert store.create("a", SMALL)
    assert store.read("a") == SMALL


def test_replace_whose_answer_is_lost_is_repeated(proxy: Proxy, store: Storage) -> None:
    store.replace("a", b"old")
    proxy.faults = [Fault("lose", "write")]
    store.replace("a", SMALL)
    assert store.read("a") == SMALL


def test_a_lost_resumable_session_is_started_again(proxy: Proxy, store: Storage) -> None:
    proxy.faults = [Fault("error", "chunk", status=404)]
    assert store.create("a", LARGE)
    assert proxy.requests == ["start", "chunk", "list", "start", "chunk"]


CALLS: list[tuple[Verb, Callable[[Storage], object]]] = [
    ("write", lambda store: store.create("b", SMALL)),
    ("write", lambda store: store.replace("b", SMALL)),
    ("start", lambda store: store.create("b", LARGE)),
    ("chunk", lambda store: store.replace("b", LARGE)),
    ("read", lambda store: store.read("a")),
    ("list", lambda store: store.list()),
    ("delete", lambda store: store.delete("a")),
]


@pytest.mark.parametrize(("verb", "call"), CALLS)
def test_every_verb_is_tried_again(
    proxy: Proxy, around: Storage, store: Storage, verb: Verb, call: Callable[[Storage], object]
) -> None:
    around.replace("a", SMALL)
    proxy.faults = [Fault("error", verb, times=2)]
    call(store)
    assert proxy.requests.count(verb) == 3


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_transient_answers_are_tried_again(proxy: Proxy, store: Storage, status: int) -> None:
    proxy.faults = [Fault("error", "write", status=status)]
    assert store.create("a", SMALL)


@pytest.mark.parametrize("kind", ["lose", "cut", "reset"])
def test_broken_answers_are_tried_again(
    proxy: Proxy, around: Storage, store: Storage, kind: Any
) -> None:
    around.replace("a", SMALL)
    proxy.faults = [Fault(kind, "read", times=2), Fault(kind, "list", times=2)]
    assert store.read("a") == SMALL
    assert proxy.requests == ["read"] * 3
    assert store.list() == [Entry("a", len(SMALL))]


@pytest.mark.long
def test_a_body_that_arrives_changed_is_tried_again(
    proxy: Proxy, around: Storage, store: Storage
) -> None:
    around.replace("a", SMALL)
    proxy.faults = [Fault("corrupt", "read", times=2)]
    assert store.read("a") == SMALL
    proxy.faults = [Fault("corrupt", "read", times=1000)]
    said = message(UnavailableError, lambda: open_storage(store.uri, deadline=1).read("a"))
    assert "DataCorruption" in said


def test_a_body_cut_short_is_not_mixed_with_a_newer_object(
    proxy: Proxy, around: Storage, store: Storage
) -> None:
    around.replace("a", SMALL)
    newer = SMALL[::-1] + b"newer"
    proxy.faults = [
        Fault("cut", "read"),
        Fault("slow", "read", effect=lambda: around.replace("a", newer)),
    ]
    assert store.read("a") == newer


@pytest.mark.long
def test_a_server_that_comes_back_is_waited_for(proxy: Proxy, store: Storage) -> None:
    store.create("a", SMALL)
    proxy.stop()
    threading.Timer(0.5, proxy.start).start()
    assert store.read("a") == SMALL


@pytest.mark.long
@pytest.mark.parametrize(("verb", "call"), [CALLS[0], CALLS[5]])
def test_out_of_time_names_endpoint_object_and_last_error(
    proxy: Proxy, around: Storage, store: Storage, verb: Verb, call: Callable[[Storage], object]
) -> None:
    around.replace("a", SMALL)
    proxy.faults = [Fault("error", verb, times=1000)]
    said = message(UnavailableError, lambda: call(open_storage(store.uri, deadline=1)))
    assert proxy.requests.count(verb) > 1
    assert proxy.url in said
    assert f"{store.uri}/" in said
    assert "ServiceUnavailable: injected fault" in said


@pytest.mark.long
def test_a_server_that_is_down_or_silent_is_given_up(proxy: Proxy, store: Storage) -> None:
    store = open_storage(store.uri, deadline=0.5)
    proxy.faults = [Fault("slow", "read", times=1000, seconds=3600)]
    assert "TimeoutError: timed out" in message(UnavailableError, lambda: store.read("a"))
    proxy.stop()
    assert "ConnectionRefusedError" in message(UnavailableError, lambda: store.list())


@pytest.mark.parametrize(("verb", "call"), CALLS)
def test_missing_permission_names_the_role(
    proxy: Proxy, around: Storage, store: Storage, verb: Verb, call: Callable[[Storage], object]
) -> None:
    around.replace("a", SMALL)
    proxy.faults = [Fault("error", verb, status=403)]
    said = message(ConfigError, lambda: call(store))
    assert "permission denied (Forbidden: injected fault)" in said
    assert "roles/storage.objectUser" in said


def test_whoever_may_read_but_not_list_still_learns_what_is_missing(
    proxy: Proxy, store: Storage
) -> None:
    proxy.faults = [Fault("error", "list", status=403)]
    with pytest.raises(ObjectNotFoundError):
        store.read("a")


@pytest.mark.parametrize(("verb", "call"), CALLS)
def test_a_refused_request_is_not_repeated(
    proxy: Proxy, around: Storage, store: Storage, verb: Verb, call: Callable[[Storage], object]
) -> None:
    around.replace("a", SMALL)
    proxy.faults = [Fault("error", verb, status=400, times=1000)]
    assert "BadRequest: injected fault" in message(ConfigError, lambda: call(store))
    assert proxy.requests.count(verb) == 1


@pytest.mark.parametrize("call", [call for _, call in CALLS])
def test_no_such_bucket(proxy: Proxy, call: Callable[[Storage], object]) -> None:
    said = message(ConfigError, lambda: call(GCSStorage("elsewhere")))
    assert f"no bucket 'elsewhere' at {proxy.url}" in said


class Paging(Proxy):
    """Lists three objects at once; fake-gcs-server lists as many as there are."""

    def forward(self, request: Request) -> Answer:
        if verb_of(request.method, request.target) == "list" and "maxResults" not in request.target:
            request = request._replace(target=request.target + "&maxResults=3")
        return super().forward(request)


def test_listings_longer_than_a_page_are_whole(stores: Stores) -> None:
    with proxied(stores("gs"), Paging) as through:
        store = open_storage(through.uri)
        names = sorted(str(number) for number in range(11))
        for name in names:
            store.replace(name, b"")
        open_storage(f"{store.uri}-other").replace("1", b"")
        through.proxy.faults = [Fault("error", "list", times=2), Fault("cut", "list", times=2)]
        assert [entry.name for entry in store.list()] == names
        assert through.proxy.requests.count("list") == 4 + 4


class Terse(Proxy):
    """Leaves the size of an empty object out of listings, as Google's own test bench does."""

    def forward(self, request: Request) -> Answer:
        answer = super().forward(request)
        if verb_of(request.method, request.target) == "list":
            return answer._replace(body=answer.body.replace(b'"size":"0",', b""))
        return answer


def test_an_object_without_a_size_is_empty(stores: Stores) -> None:
    with proxied(stores("gs"), Terse) as through:
        store = open_storage(through.uri)
        store.create("a", b"")
        store.create("b", b"1")
        assert store.list() == [Entry("a", 0), Entry("b", 1)]
        assert read_at_most(store, "a", 10) == b""


def test_folder_marks_of_other_tools_are_not_listed(through: Proxied, store: Storage) -> None:
    prefix = through.uri.removeprefix("gs://bucket/")
    for name in ("/", "/checkpoints/", "/a"):
        upload(through, prefix + name, b"")
    assert store.list() == [Entry("a", 0)]


def upload(through: Proxied, name: str, data: bytes) -> None:
    """Put an object as other tools do, of any name."""
    path = f"/upload/storage/v1/b/bucket/o?uploadType=media&name={quote(name, safe='')}"
    with urllib.request.urlopen(through.server.url + path, data=data) as answer:
        assert answer.status == 200


def test_reads_follow_the_newest_write(around: Storage, store: Storage) -> None:
    store.create("a", b"1")
    assert store.read("a") == b"1"
    around.replace("a", b"2")
    assert store.read("a") == b"2"
    store.replace("a", b"3")
    assert store.read("a") == b"3"


def test_objects_are_read_as_stored(through: Proxied, store: Storage) -> None:
    packed = gzip.compress(b"digits")
    name = f"{through.uri.removeprefix('gs://bucket/')}/a.gz"
    blob = storage.Client(project=None).bucket("bucket").blob(name)
    blob.content_encoding = "gzip"
    blob.upload_from_string(packed)
    assert store.read("a.gz") == packed
    assert store.list() == [Entry("a.gz", len(packed))]


def test_the_endpoint_is_told(proxy: Proxy, store: Storage) -> None:
    assert GCSStorage("bucket").endpoint == proxy.url
    assert store.uri.startswith("gs://bucket/")
    assert open_storage("gs://bucket/").uri == "gs://bucket"


@pytest.mark.parametrize(
    "uri",
    ["gs://", "gs:///a", "gs://A", "gs://ab", "gs://a b c", "gs://bucket//a", "gs://bucket/.."],
)
def test_bad_buckets_and_prefixes_are_refused(uri: str) -> None:
    assert uri in message(ConfigError, lambda: open_storage(uri))


@pytest.mark.parametrize("address", ["localhost:4443", "http://[::1", "http://h:99999", "http://"])
def test_an_emulator_that_is_no_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    said = message(ConfigError, lambda: GCSStorage("bucket"))
    assert f"STORAGE_EMULATOR_HOST={address!r}: not a URL" in said


@pytest.mark.parametrize("words", ["[]", "1", '{"items": null}', '{"items": [{"size": "x"}]}'])
def test_a_list_that_is_none_of_cloud_storage(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    with Says(200, words=words) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        said = message(ConfigError, lambda: open_storage("gs://bucket").list())
        assert f"{server.url} does not list as Cloud Storage does" in said
        server.says(403, words="<html><head><title>Sign in</title></head></html>")
        said = message(ConfigError, lambda: open_storage("gs://bucket").list())
        assert "permission denied (Forbidden: Sign in)" in said


def test_certificates_of_a_private_authority(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = stores("gs")
    authority, pem = certificates.signed(tmp_path)
    with Certified(store.url, pem) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url.replace("http:", "https:"))
        uri = f"{store.uri}/{uuid.uuid4().hex}"
        said = message(ConfigError, lambda: open_storage(uri).read("a"))  # at once
        assert "CERTIFICATE_VERIFY_FAILED" in said
        assert said.endswith("of its certificate's authority in REQUESTS_CA_BUNDLE")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        trusting = open_storage(uri)
        assert trusting.create("a", SMALL)
        assert trusting.read("a") == SMALL
        assert trusting.list() == [Entry("a", len(SMALL))]


def test_https_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with Says(200) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url.replace("http:", "https:"))
        said = message(ConfigError, lambda: open_storage("gs://bucket").list())
    assert "write http:// where the server has no certificate" in said


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_bundle_without_certificates_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "https://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    said = message(ConfigError, lambda: open_storage("gs://bucket/run"))
    assert said.startswith(f"REQUESTS_CA_BUNDLE={str(path)!r}: ")
    assert said.endswith("give a file of PEM certificates")


@pytest.mark.parametrize("key", ["missing.json", ""])  # no such file, and a folder
def test_missing_credentials_name_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / key))
    said = message(CredentialsError, lambda: open_storage("gs://bucket"))
    assert str(tmp_path / key) in said
    assert "gcloud auth application-default login" in said
    assert "Workload Identity" in said


@pytest.mark.parametrize(("in_a_pod", "code"), [(False, 2), (True, 69)])
def test_credentials_may_come_late_only_in_a_pod(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_a_pod: bool, code: int
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    if in_a_pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(CredentialsError) as caught:
        open_storage("gs://bucket")
    assert caught.value.exit_code == code
    assert "Your default credentials were not found; run 'gcloud auth" in str(caught.value)


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
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("token")
    (tmp_path / "key.json").write_text(
        json.dumps(
            {
                "type": "external_account",
                "audience": "//iam.googleapis.com/projects/1",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": f"{proxy.url}/token",  # the server knows no such page: 404
                "credential_source": {"file": str(tmp_path / "token")},
            }
        )
    )
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", proxy.url)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "any")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    said = message(CredentialsError, lambda: open_storage("gs://bucket/run").read("a"))
    assert "gs://bucket/run/a" in said
    assert "gcloud auth application-default login" in said
    assert proxy.requests == ["write"]  # for a token, and nothing in its place


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
    through: Proxied, store: Storage, name: str, kind: str
) -> None:
    store.replace(name, b"data")
    assert content_type(through, name) == kind
    assert store.create(f"new-{name}", b"data")
    assert content_type(through, f"new-{name}") == kind


def content_type(through: Proxied, name: str) -> str:
    name = quote(f"{through.uri.removeprefix('gs://bucket/')}/{name}", safe="")
    with urllib.request.urlopen(f"{through.server.url}/storage/v1/b/bucket/o/{name}") as answer:
        kind: str = json.load(answer)["contentType"]
    return kind


def test_what_a_bucket_keeps_is_not_a_matter_of_roles(proxy: Proxy, store: Storage) -> None:
    for words in ("is subject to bucket's retention policy", "is under active Temporary hold"):
        body = json.dumps({"error": {"message": f"Object 'bucket/run/a' {words}"}}).encode()
        proxy.faults = [Fault("error", "delete", status=403, body=body)]
        said = message(ConfigError, lambda: store.delete("a"))
        assert words in said
        assert "choose one without a retention policy or hold" in said
        assert "roles/" not in said


def test_who_pays_for_requests(
    proxy: Proxy, store: Storage, through: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "Bucket is a requester pays bucket but no user project provided."
    body = json.dumps({"error": {"message": words}}).encode()
    proxy.faults = [Fault("error", "list", status=400, body=body)]
    said = message(ConfigError, lambda: store.list())
    assert "set GOOGLE_CLOUD_QUOTA_PROJECT to the project that pays" in said
    targets: list[str] = []
    forward = proxy.forward

    def noted(request: Request) -> Answer:
        targets.append(request.target)
        return forward(request)

    monkeypatch.setattr(proxy, "forward", noted)
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")
    paying = open_storage(through.uri)
    paying.create("a", SMALL)
    paying.read("a")
    paying.list()
    paying.delete("a")
    assert len(targets) == 4
    assert all("userProject=payer" in target for target in targets)
