"""What the proxy makes of the three protocols; the tests of stores use its faults."""

import pytest

from trainer.testing.proxy import verb_of


@pytest.mark.parametrize(
    ("method", "target", "verb"),
    [
        ("GET", "/storage/v1/b/bucket/o?prefix=a", "list"),
        ("GET", "/storage/v1/b/bucket/o/a%2Fo?alt=media", "read"),
        ("GET", "/download/storage/v1/b/bucket/o/a?alt=media", "read"),
        ("POST", "/upload/storage/v1/b/bucket/o?uploadType=multipart", "write"),
        ("POST", "/upload/storage/v1/b/bucket/o?uploadType=resumable", "start"),
        ("PUT", "/upload/storage/v1/b/bucket/o?uploadType=resumable&upload_id=1", "chunk"),
        ("DELETE", "/storage/v1/b/bucket/o/a", "delete"),
        ("GET", "/bucket?list-type=2&prefix=a", "list"),
        ("GET", "/bucket/a", "read"),
        ("HEAD", "/bucket/a", "read"),
        ("PUT", "/bucket/a", "write"),
        ("DELETE", "/bucket/a", "delete"),
        ("GET", "/account/bucket?restype=container&comp=list", "list"),
        ("GET", "/account/bucket/a", "read"),
        ("PUT", "/account/bucket/a", "write"),
        ("POST", "/account/bucket?restype=container&comp=batch", "delete"),
    ],
)
def test_the_verb_of_a_request(method: str, target: str, verb: str) -> None:
    assert verb_of(method, target) == verb
