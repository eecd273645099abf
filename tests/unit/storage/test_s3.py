"""S3Storage: what a wrong set-up says, and where its settings come from."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import certificates
from tests.support.answers import Says, error, listing
from tests.support.processes import ROOT, free_ports, wait_until
from tests.support.stores import Server, Stores, proxied
from trainer.errors import ConfigError, CredentialsError, UnavailableError, UserError
from trainer.storage.base import ObjectNotFoundError, Storage, open_storage
from trainer.testing.proxy import Answer, Fault, Proxy, Request

CALLS: list[Callable[[Storage], object]] = [
    lambda store: store.create("a", b"1"),
    lambda store: store.replace("a", b"1"),
    lambda store: store.read("a"),
    lambda store: store.list(),
    lambda store: store.delete("a"),
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keys, and nothing of this machine's."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "SSL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")


def at(server: Proxy, monkeypatch: pytest.MonkeyPatch, deadline: float = 20) -> Storage:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    return open_storage("s3://bucket/run", deadline=deadline)


def message(error: type[UserError], call: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def seaweedfs(stores: Stores) -> Iterator[Server]:
    with stores("s3").entered():
        yield stores("s3")


@pytest.mark.process
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("variable", "value", "words", "remedy"),
    [
        ("AWS_ACCESS_KEY_ID", "nobody", "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
        ("AWS_SECRET_ACCESS_KEY", "hush-hush", "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
    ],
)
@pytest.mark.usefixtures("seaweedfs")
def test_a_wrong_key(
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[Storage], object],
    variable: str,
    value: str,
    words: str,
    remedy: str,
) -> None:
    monkeypatch.setenv(variable, value)
    said = message(ConfigError, lambda: call(open_storage("s3://bucket/run", deadline=20)))
    assert "s3://bucket/run/" in said
    assert words in said
    assert remedy in said


@pytest.mark.process
@pytest.mark.parametrize("call", [CALLS[0], CALLS[1], CALLS[4]])
@pytest.mark.usefixtures("seaweedfs")
def test_a_key_that_may_read_only(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[Storage], object]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "read-only")
    store = open_storage("s3://bucket/run")
    assert store.list() == []
    said = message(ConfigError, lambda: call(store))
    assert "permission denied (AccessDenied: Access Denied)" in said
    assert "grant this identity s3:ListBucket on bucket and s3:GetObject, s3:PutObject" in said


@pytest.mark.process
@pytest.mark.usefixtures("seaweedfs")
def test_no_such_bucket() -> None:
    store = open_storage("s3://elsewhere/run")
    said = message(ConfigError, lambda: store.read("a"))
    assert f"no bucket 'elsewhere' at {store.endpoint}; create it" in said  # type: ignore[attr-defined]


@pytest.mark.process
def test_https_for_http(seaweedfs: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweedfs.url.replace("http:", "https:"))
    said = message(ConfigError, lambda: open_storage("s3://bucket/run").list())
    assert "it does not speak TLS; write http://" in said


def test_http_for_https(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, pem = certificates.signed(tmp_path)
    with Says(200, tls=pem) as server:
        said = message(UnavailableError, lambda: at(server, monkeypatch, deadline=2).list())
    assert "try again later, or write https:// if the server has a certificate" in said


def test_certificates_of_a_private_authority(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority, pem = certificates.signed(tmp_path)
    with Says(404, "NoSuchKey", tls=pem) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("http:", "https:"))
        said = message(ConfigError, lambda: open_storage("s3://bucket/run").read("a"))
        assert "its certificate is not trusted (UnknownIssuer)" in said
        assert "AWS_CA_BUNDLE" in said
        for variable in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
            with monkeypatch.context() as patch:
                patch.setenv(variable, str(authority))
                with pytest.raises(ObjectNotFoundError):
                    open_storage("s3://bucket/run").read("a")


def test_a_certificate_that_signed_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pem = certificates.self_signed(tmp_path)
    with Says(404, "NoSuchKey", tls=pem) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("http:", "https:"))
        said = message(ConfigError, lambda: open_storage("s3://bucket/run").read("a"))
        assert "CA" in said
        monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
        said = message(ConfigError, lambda: open_storage("s3://bucket/run").read("a"))
        assert "its certificate is an authority's own (CA:TRUE); give the server one that" in said


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "code", "error", "remedy"),
    [
        (301, "PermanentRedirect", ConfigError, "set AWS_REGION to the bucket's region"),
        (400, "AuthorizationHeaderMalformed", ConfigError, "set AWS_REGION to the bucket's"),
        (400, "ExpiredToken", CredentialsError, "the credentials are too old; get new ones"),
        (403, "RequestTimeTooSkewed", UnavailableError, "set this machine's clock"),
        (403, "AccessDenied", ConfigError, "grant this identity s3:ListBucket on bucket"),
        (404, "NoSuchBucket", ConfigError, "create it or check its name"),
        (404, "XAdminUserNotFound", ConfigError, "check AWS_ACCESS_KEY_ID or the profile's"),
        (404, "NoSuchUser", ConfigError, "check the bucket, the name and the endpoint"),
        (409, "ObjectParentIsFile", ConfigError, "delete or rename that object, or choose another"),
        (409, "ExistingObjectIsDirectory", ConfigError, "delete or rename that object"),
        (400, "XMinioParentIsObject", ConfigError, "delete or rename that object"),
        (400, "InvalidRequest", ConfigError, "check the bucket, the name and the endpoint"),
    ],
)
def test_a_refusal_is_not_repeated_and_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    error: type[UserError],
    remedy: str,
    call: Callable[[Storage], object],
) -> None:
    with Says(status, code, "planned") as server:
        said = message(error, lambda: call(at(server, monkeypatch)))
    assert server.url in said
    assert remedy in said
    assert len(server.requests) == 1


def test_a_server_without_conditional_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    with Says(501, "NotImplemented", "If-None-Match") as server:
        said = message(ConfigError, lambda: at(server, monkeypatch).create("a", b"1"))
    assert "choose a store that has conditional writes" in said
    assert len(server.requests) == 1


def test_a_server_that_is_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    with Says(404, words="<html>nothing</html>") as server:
        for call in CALLS[:4]:
            store = at(server, monkeypatch)
            assert "no bucket 'bucket' at" in message(ConfigError, lambda: call(store))  # noqa: B023


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_is_down(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[Storage], object]
) -> None:
    url = f"http://127.0.0.1:{free_ports(1)}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    store = open_storage("s3://bucket/run", deadline=0.3)
    said = message(UnavailableError, lambda: call(store))
    assert f"{url} gave no good answer within 0.3 s, the last was Connection refused" in said


@pytest.mark.process
@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
def test_a_conflict_is_tried_again(stores: Stores, code: str) -> None:
    with proxied(stores("s3")) as through:
        conflict = Fault("error", "write", times=2, status=409, body=error(code))
        through.proxy.faults = [conflict]
        store = open_storage(through.uri)
        assert store.create("a", b"1")
        conflict.times = 2
        store.replace("a", b"2")
        conflict.times = 2
        assert not store.create("a", b"1")
        assert store.read("a") == b"2"


def test_no_credentials_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with Says(403, words="no metadata here") as metadata, Says(200) as server:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata.url)
        said = message(CredentialsError, lambda: at(server, monkeypatch).read("a"))
        assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in said
        assert len(metadata.requests) == 1
        metadata.stop()
        message(CredentialsError, lambda: at(server, monkeypatch).read("a"))
    assert server.requests == []


def test_pod_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "token").write_text("pod")
    given = '{"AccessKeyId": "temporary", "SecretAccessKey": "b", "Token": "c"'
    given += ', "Expiration": "2999-01-01T00:00:00Z", "RoleArn": "d"}'
    with Says(200, words=given) as agent, Says(404, "NoSuchKey") as server:
        agent.faults = [Fault("error", "read", status=500)]  # in a pod's first seconds
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        with pytest.raises(ObjectNotFoundError):
            at(server, monkeypatch).read("a")
    assert agent.last.headers["authorization"] == "pod"
    assert "Credential=temporary/" in server.last.headers["authorization"]
    assert server.last.headers["x-amz-security-token"] == "c"


def test_a_pod_s_token_that_no_header_can_carry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/v1/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    for token in ("hush\n", "hush hush", "h\u00fcsh"):
        (tmp_path / "token").write_text(token)
        said = message(ConfigError, lambda: open_storage("s3://bucket/a"))
        assert said.startswith(f"{tmp_path / 'token'} (AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE): ")
        assert "hush" not in said
    profile = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n"
    (tmp_path / "credentials").write_text(profile)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    open_storage("s3://bucket/a")  # a profile's keys come first, and no token is asked for


ROLE = """<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>temporary</AccessKeyId><SecretAccessKey>b</SecretAccessKey>
<SessionToken>c</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


def test_web_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "token").write_text("hush")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/a")
    authority, pem = certificates.signed(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    with Says(200, words=ROLE, tls=pem) as agent, Says(404, "NoSuchKey") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", agent.url.replace("http:", "https:"))
        with pytest.raises(ObjectNotFoundError):
            at(server, monkeypatch).read("a")
        assert "WebIdentityToken=hush" in agent.last.target
        assert "Credential=temporary/" in server.last.headers["authorization"]
        assert server.last.headers["x-amz-security-token"] == "c"
        agent.says(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
        said = message(CredentialsError, lambda: at(server, monkeypatch).read("a"))
    assert "AccessDenied: Not authorized" in said
    assert "give a pod's service account a role (IRSA or EKS Pod Identity)" in said


class Metadata(Proxy):
    """The service of an EC2 instance that gives out its role's credentials."""

    def forward(self, request: Request) -> Answer:
        """Answer."""
        answers = {
            "/latest/api/token": "session",
            "/latest/meta-data/iam/security-credentials/": "role",
        }
        given = '{"AccessKeyId": "temporary", "SecretAccessKey": "b", "Token": "c", '
        given += '"Expiration": "2999-01-01T00:00:00Z"}'
        return Answer(200, [], answers.get(request.target, given).encode())


def test_the_role_of_an_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with Metadata("http://nowhere") as metadata, Says(404, "NoSuchKey") as server:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata.url)
        with pytest.raises(ObjectNotFoundError):
            at(server, monkeypatch).read("a")
    assert "Credential=temporary/" in server.last.headers["authorization"]
    assert server.last.headers["x-amz-security-token"] == "c"


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_plain_http_is_for_this_machine_or_on_demand(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for address in ("localhost:1", "127.0.0.1:1", "127.9.9.9", "[::1]:1"):
        monkeypatch.setenv(name, f"http://{address}/")
        assert open_storage("s3://bucket").endpoint == f"http://{address}"  # type: ignore[attr-defined]
    for address in ("store.svc:8333", "10.0.0.1", "127.0.0.1.example.com"):
        monkeypatch.setenv(name, f"http://{address}")
        said = message(ConfigError, lambda: open_storage("s3://bucket"))
        assert f"{name}='http://{address}'" in said
        assert "set AWS_ALLOW_HTTP=true" in said
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ALLOW_HTTP", "true")
            open_storage("s3://bucket")


@pytest.mark.parametrize(
    "endpoint",
    [
        *(
            "store:8333",
            "ftp://store",
            "https://",
            "http://u:hush@h",
            "https://[::1",
            "https://a b",
        ),
        *("https://h:x", "https://h?a", "https://h#a", "https://ü", "https://h:65536"),
        *("https://[::::]", "https://..", "https://h/bucket", "https://h/a/bucket/"),
    ],
)
def test_an_endpoint_that_is_no_address(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert "AWS_ENDPOINT_URL" in message(ConfigError, lambda: open_storage("s3://bucket"))


def test_addresses_by_path_or_by_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with Says(404, "NoSuchKey") as server:
        with pytest.raises(ObjectNotFoundError):
            at(server, monkeypatch).read("a")
        assert server.last.target == "/bucket/run/a"
        monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("127.0.0.1", "localhost"))
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        store = open_storage("s3://bucket/run", deadline=2)
        with pytest.raises((ObjectNotFoundError, UnavailableError)) as caught:
            store.read("a")
        if isinstance(caught.value, UnavailableError):  # where the system has no address for it
            assert "http://bucket.localhost:" in str(caught.value)
        else:
            assert server.last.target == "/run/a"
            assert server.last.headers["host"].startswith("bucket.localhost:")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_an_ip_address_takes_no_bucket_in_front(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:9000")
    config = tmp_path / "config"
    config.write_text("[default]\ns3 =\n  addressing_style = virtual\n")
    for name, value in (
        ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"),
        ("AWS_CONFIG_FILE", str(config)),
    ):
        with monkeypatch.context() as only:
            only.setenv(name, value)
            said = message(ConfigError, lambda: open_storage("s3://bucket/run"))
        assert f"http://{host}:9000: is an IP address" in said
    open_storage("s3://bucket/run")


class PanicException(BaseException):
    """As the library raises it, which exports no name for it."""


def test_a_defect_of_the_library_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_storage("s3://bucket/run")

    def panic(*_: object) -> None:
        raise PanicException("called Result::unwrap() on an Err value\nand more")

    monkeypatch.setattr(store, "_download", panic)
    with pytest.raises(ConfigError, match=r"cannot read s3://bucket/run/a at .*unwrap") as caught:
        store.read("a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://",
        "s3:///a",
        "s3://ab",
        "s3://a b c",
        "s3://bucket//a",
        "s3://bucket/..",
        "s3://-bucket",
        "s3://a..b",
    ],
)
def test_bad_buckets_and_prefixes_are_refused(uri: str) -> None:
    assert uri in message(ConfigError, lambda: open_storage(uri))


def test_a_file_without_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "it.pem"
    for content, fault in (
        (None, "No such file"),
        (b"", "holds none"),
        (b"\x30\x82", "holds none"),
    ):
        if content is not None:
            path.write_bytes(content)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
        said = message(ConfigError, lambda: open_storage("s3://bucket"))
        assert f"AWS_CA_BUNDLE='{path}': {fault}" in said


@pytest.mark.parametrize("value", ["hush\n", " hush", "hu sh", "hush\u200b", "hüsh"])
@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
)
def test_a_key_that_no_request_can_carry(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    said = message(ConfigError, lambda: open_storage("s3://bucket").list())
    assert said.startswith(f"{name}: holds a space, a line break or")


def test_half_of_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    said = message(ConfigError, lambda: open_storage("s3://bucket"))
    assert "Missing SecretAccessKey; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in said


def test_writes_are_conditional_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    with Says(412, "PreconditionFailed") as server, pytest.raises(ConfigError):
        at(server, monkeypatch).create("a", b"1")
    assert server.requests == ["write", "read"]


def test_marks_of_folders_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"run/": 0, "run/logs/": 0, "run/logs/a": 1, "run/logs-b": 0, "run/c": 1, "run/c/d": 0}
    with Says(200, words=listing(names)) as server:
        store = at(server, monkeypatch)
        assert [entry.name for entry in store.list()] == ["c", "c/d", "logs-b", "logs/a"]
        assert [entry.name for entry in store.list("logs/")] == ["logs/a"]


@pytest.mark.parametrize("name", ["run//a", "run/../a", "run/a\tb"])
def test_an_object_whose_name_the_library_refuses(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with Says(200, words=listing({name: 1})) as server:
        said = message(ConfigError, lambda: at(server, monkeypatch).list())
    assert "delete or rename that object" in said


class Elsewhere(Proxy):
    """Leads every request to another address."""

    def forward(self, request: Request) -> Answer:
        """Answer."""
        del request
        return Answer(302, [("Location", "https://elsewhere.invalid/")], b"")


def test_a_write_that_is_led_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with Elsewhere("http://nowhere") as server:
        said = message(ConfigError, lambda: at(server, monkeypatch).replace("a", b"1"))
    assert "302 Found; give the endpoint that it leads to, perhaps https://" in said


def test_a_page_in_the_stores_place(monkeypatch: pytest.MonkeyPatch) -> None:
    page = "<html><head><title>Sign in</title></head><body><p>hello</body></html>"
    with Says(403, words=page) as server:
        said = message(ConfigError, lambda: at(server, monkeypatch).list())
        assert "permission denied (403 Forbidden: Sign in)" in said
        server.says(200, words=page)
        said = message(ConfigError, lambda: at(server, monkeypatch).list())
        assert "check the bucket, the name and the endpoint" in said


def test_who_pays_for_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    with Says(404, "NoSuchKey") as server:
        with pytest.raises(ObjectNotFoundError):
            at(server, monkeypatch).read("a")
        assert server.last.headers["x-amz-request-payer"] == "requester"


def test_empty_variables_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "")
    store = open_storage("s3://bucket")
    assert store.endpoint == "https://s3.us-east-1.amazonaws.com"  # type: ignore[attr-defined]
    with Says(404, "NoSuchKey") as server:
        with pytest.raises(ObjectNotFoundError):
            at(server, monkeypatch).read("a")
        assert "x-amz-security-token" not in server.last.headers


def test_a_region_decides_on_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for region, end in (("eu-west-3", "com"), ("cn-north-1", "com.cn")):
        monkeypatch.setenv("AWS_REGION", region)
        assert open_storage("s3://bucket").endpoint == f"https://s3.{region}.amazonaws.{end}"  # type: ignore[attr-defined]
    for endpoint in ("", "https://store.example"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for region in ("eu west", "eu-west-1\n", "ü"):
            monkeypatch.setenv("AWS_REGION", region)
            said = message(ConfigError, lambda: open_storage("s3://bucket"))
            assert f"AWS_REGION={region!r}: not a region" in said


WAITING = """
import signal
from trainer.storage.base import open_storage
signal.alarm(60)
open_storage("s3://bucket").read("a")
"""


@pytest.mark.process
def test_a_request_that_waits_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    with Says(200) as server:
        server.faults = [Fault("slow", "read", seconds=3600)]
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        command = [sys.executable, "-c", WAITING]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as waiting:
            wait_until(lambda: server.requests)
            waiting.send_signal(signal.SIGINT)
            _, err = waiting.communicate(timeout=30)
    assert b"KeyboardInterrupt" in err
    assert waiting.returncode == -signal.SIGINT
