"""Which store a folder is in, and how this machine reaches it."""

import pytest

from k8s import stores
from trainer.storage.base import open_storage


@pytest.mark.parametrize(
    ("uri", "service"),
    [
        ("gs://bucket/a", stores.GCS),
        ("s3://bucket", stores.S3),
        ("s3://bucket/a/{name}", stores.S3),
        ("az://container/a", stores.AZURE),
        ("abfss://container@account.dfs.core.windows.net/a", stores.AZURE),
        ("abfs://container@account.blob.core.usgovcloudapi.net", stores.AZURE),
        ("https://account.blob.core.windows.net/container/a", stores.AZURE),
        ("https://account.blob.core.windows.net.example.org/container/a", None),
        ("https://account.blob.example.org/container/a", None),
        ("https://account.blob.core.windows.net/container/a?sig=b", None),
        ("s3:/bucket", None),
        ("/data/mnist", None),
        ("s3://bucket/a\x1b", None),
        ("s3://bucket/a?b", None),
        ("file:///data", None),
    ],
)
def test_a_folder_is_in_a_store_or_it_is_none(uri: str, service: stores.Service | None) -> None:
    assert stores.of(uri) == service


@pytest.mark.parametrize("service", stores.SERVICES)
def test_every_example_is_a_folder_that_can_be_opened(
    service: stores.Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in service.endpoints:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv(stores.AZURE_ACCOUNT[0], "account")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "a2V5")
    uri = service.example.lower()
    assert stores.of(uri) == service
    assert open_storage(uri, deadline=0.2).uri == uri


def test_the_machines_endpoint_wins_and_all_else_is_the_runs() -> None:
    run = {
        "AWS_ENDPOINT_URL_S3": "http://store:8333",
        "AWS_REGION": "eu-west-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_PROFILE": "theirs",
        "HOME": "/elsewhere",
        "STORAGE_EMULATOR_HOST": "http://other:1",
    }
    seen = {key: run[key] for key in ("AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_ALLOW_HTTP")}
    assert stores.from_here("s3://bucket/a", run, {"AWS_REGION": "us-east-1"}) == seen
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        mine = {name: "http://127.0.0.1:8333"}
        assert "AWS_ENDPOINT_URL_S3" not in stores.from_here("s3://bucket/a", run, mine)
    assert stores.from_here("gs://bucket/a", run, {}) == {"STORAGE_EMULATOR_HOST": "http://other:1"}
    assert stores.from_here("/data", run, {}) == {}


def test_no_setting_is_a_secret() -> None:
    names = [name for each in stores.SERVICES for name in (*each.endpoints, *each.settings)]
    assert not [name for name in names if "KEY" in name or "TOKEN" in name or "SECRET" in name]
