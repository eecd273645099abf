"""Profiles of AWS's shared files, seen from the requests that they lead to."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.answers import Says
from trainer.errors import ConfigError, CredentialsError, UnavailableError, UserError
from trainer.storage.base import ObjectNotFoundError, open_storage

CONFIG = """
[default]
region = eu-north-1

[profile static]
region = eu-west-3
[profile "in quotes"]
region = eu-west-2
[profile 'open]
[profile quotes]
credential_process = give 'a
[profile process]
credential_process = give --for 'a b'
[profile sso]
sso_session = corp
[profile role]
role_arn = arn:aws:iam::1:role/a
source_profile = static
[profile web]
role_arn = arn:aws:iam::1:role/a
web_identity_token_file = /no/such/token
[profile own]
endpoint_url = https://own.example
s3 =
  addressing_style = virtual
[profile service]
services = local
[services local]
s3 =
  endpoint_url = https://service.example
[profile pem]
ca_bundle = /no/such.pem
"""
CREDENTIALS = """
[default]
aws_access_key_id = one
aws_secret_access_key = hush%
[static]
aws_access_key_id = two
aws_secret_access_key = hush
aws_session_token = token
[in quotes]
aws_access_key_id = three
aws_secret_access_key = hush
[copied]
aws_access_key_id = three
aws_secret_access_key = hush\u00a0hush
"""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home with both files, and nothing in the environment."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "SSL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(CONFIG)
    (tmp_path / ".aws/credentials").write_text(CREDENTIALS)
    return tmp_path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Says]:
    with Says(404, "NoSuchKey") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def authorization(server: Says) -> str:
    """What a request for an object says of who asks."""
    with pytest.raises(ObjectNotFoundError):
        open_storage("s3://bucket/run").read("a")
    return server.last.headers["authorization"]


def message(error: type[UserError]) -> str:
    with pytest.raises(error) as caught:
        open_storage("s3://bucket/run").read("a")
    assert type(caught.value) is error
    for hidden in ("\n", "hush"):
        assert hidden not in str(caught.value)
    return str(caught.value)


def program(home: Path, name: str, *lines: str) -> None:
    path = home / "bin" / name
    path.write_text("\n".join(("#!/bin/sh", *lines)))
    path.chmod(0o755)


def test_the_default_profile(server: Says) -> None:
    assert "Credential=one/" in (said := authorization(server))
    assert "/eu-north-1/s3/" in said


def test_a_profile_by_name(server: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "static")
    assert "Credential=two/" in (said := authorization(server))
    assert "/eu-west-3/s3/" in said
    assert server.last.headers["x-amz-security-token"] == "token"


def test_a_profile_whose_name_is_in_quotes(server: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "in quotes")
    assert "Credential=three/" in (said := authorization(server))
    assert "/eu-west-2/s3/" in said


def test_what_no_request_can_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "copied")
    assert "aws_secret_access_key of profile 'copied': holds a space" in message(ConfigError)
    monkeypatch.setenv("AWS_PROFILE", "quotes")
    assert "credential_process is no command; fix its quotes" in message(ConfigError)


def test_the_environment_comes_first(server: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "three")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert "Credential=three/" in (said := authorization(server))
    assert "/us-west-2/s3/" in said
    assert "x-amz-security-token" not in server.last.headers


def test_files_elsewhere(server: Says, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    (home / ".aws").rename(home / "moved")
    monkeypatch.setenv("AWS_CONFIG_FILE", "~/moved/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "moved/credentials"))
    monkeypatch.setenv("AWS_PROFILE", "static")
    assert "Credential=two/" in authorization(server)


def test_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for profile, endpoint in (("own", "bucket.own"), ("service", "service")):
        monkeypatch.setenv("AWS_PROFILE", profile)
        assert open_storage("s3://bucket").endpoint == f"https://{endpoint}.example"  # type: ignore[attr-defined]
    monkeypatch.setenv("AWS_PROFILE", "pem")
    assert "ca_bundle='/no/such.pem': No such file" in message(ConfigError)


GIVEN = """{"Version": 1, "AccessKeyId": "four", "SecretAccessKey": "hush", "SessionToken": "t","""


@pytest.mark.process
def test_a_process_is_asked_once_and_again_when_its_credentials_end(
    server: Says, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "process")
    for end, count in (("2999-01-01T00:00:00Z", 1), ("2020-01-01T00:00:00+00:00", 3)):
        (home / "asked").unlink(missing_ok=True)
        answer = f'echo \'{GIVEN} "Expiration": "{end}"}}\''
        program(home, "give", f'echo "$1 $2" >> {home}/asked', answer)
        store = open_storage("s3://bucket/run")
        for _ in range(2):
            with pytest.raises(ObjectNotFoundError):
                store.read("a")
        assert (home / "asked").read_text() == "--for a b\n" * count
        assert "Credential=four/" in server.last.headers["authorization"]


@pytest.mark.process
@pytest.mark.parametrize("profile", ["sso", "role"])
def test_logins_and_roles_are_left_to_the_cli(
    server: Says, monkeypatch: pytest.MonkeyPatch, home: Path, profile: str
) -> None:
    monkeypatch.setenv("AWS_PROFILE", profile)
    said = message(ConfigError)
    assert "needs the AWS CLI, which is not installed" in said
    assert f'eval "$(aws configure export-credentials --profile {profile} --format env)"' in said
    program(home, "aws", f'echo "$@" > {home}/asked', "echo hush; exit 255")
    assert f"log in again (aws sso login --profile {profile})" in message(CredentialsError)
    assert (home / "asked").read_text() == (
        f"configure export-credentials --profile {profile} --format process\n"
    )
    program(home, "aws", "echo hush")
    assert "wrote something else than credentials" in message(UnavailableError)
    program(home, "aws", f"echo '{GIVEN} \"Expiration\": null}}'")
    assert "Credential=four/" in authorization(server)


def test_a_role_by_web_identity(server: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "web")
    assert "/no/such/token" in message(CredentialsError)
    assert server.requests == []


def test_no_such_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "statik")
    assert "AWS_PROFILE='statik': no such profile" in (said := message(ConfigError))
    assert "did you mean static?" in said


@pytest.mark.parametrize("text", [b"aws_secret_access_key = hush\n", b"[a\nhush", b"[a]\n\xff"])
def test_a_file_that_is_none(home: Path, text: bytes) -> None:
    (home / ".aws/credentials").write_bytes(text)
    assert "credentials: not a file of [profile] and NAME = VALUE" in message(ConfigError)
