"""Chaos refuses at once what it cannot make fail."""

import re

import pytest

from trainer.errors import ConfigError
from trainer.testing.chaos import chaos


@pytest.mark.parametrize(
    ("kinds", "store", "words"),
    [
        (["store"], None, "kinds: 'store': needs a bucket; give --store URI"),
        (["kill"], "s3://bucket", "by plain http"),
        (["kill"], "s3://bucket", "set AWS_ENDPOINT_URL_S3 to http://HOST"),
        (["kill"], "./folder", "give gs://, s3:// or az://"),
        (["kil"], None, "kinds: 'kil': must be of kill, pod, "),
    ],
)
def test_what_cannot_fail_is_refused(
    kinds: list[str], store: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=re.escape(words)):
        chaos({}, 2, 1, 7, kinds, store=store)
