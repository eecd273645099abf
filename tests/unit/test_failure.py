"""The record of a failure: its bounds, what is read from outside, and which error becomes what."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import failure
from trainer.errors import (
    ConfigError,
    CorruptError,
    DataError,
    PeerLostError,
    StoppedError,
    UserError,
)
from trainer.failure import KINDS, MOST_BYTES, FailedError, Failure

OLD = {"rank": 1, "code": 75, "message": "rank 1: its supervisor was lost", "consequence": False}


def test_a_record_is_read_as_it_was_written() -> None:
    for kind in KINDS:
        found = Failure(kind=kind, rank=3, code=69, message="a", remedy="b", missing=(1, 2))
        assert failure.parse(json.loads(json.dumps(found.record()))) == found


def test_a_record_of_an_earlier_version_keeps_its_words() -> None:
    found = failure.parse({**OLD, "asked": False})
    assert found
    assert (found.kind, found.sentence(workers=2)) == ("unknown", OLD["message"])
    newer = failure.parse({**OLD, "kind": "of a later version", "more": [1]})
    assert newer == found


@pytest.mark.parametrize(
    "value",
    [
        None,
        "words",
        [OLD],
        {},
        {**OLD, "code": "1"},
        {**OLD, "code": True},
        {**OLD, "code": 10**30},
        {**OLD, "rank": -1},
        {**OLD, "rank": 1024},
        {**OLD, "message": None},
        {**OLD, "consequence": 0},
        {**OLD, "remedy": ["x"]},
        {**OLD, "missing": [1, -1]},
        {**OLD, "missing": ["1"]},
        {name: value for name, value in OLD.items() if name != "message"},
    ],
)
def test_what_is_no_record_is_none(value: Any) -> None:
    assert failure.parse(value) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*OLD, "kind", "missing", "remedy"]), JSON))
def test_nothing_from_outside_raises(value: dict[str, Any]) -> None:
    failure.parse(value)


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "\N{FIRE}" * 50_000, "\udcff" * 50_000, '"' * 9_000, "a b\n" * 9_000]
)
def test_no_record_is_too_long_or_cannot_be_printed(text: str) -> None:
    found = Failure(code=1, rank=1023, message=text, remedy=text, missing=tuple(range(1024)))
    line = json.dumps(found.record())
    assert len(line) <= MOST_BYTES
    assert len(line) > MOST_BYTES * 3 // 4
    assert found.message.isprintable()
    assert found.message.encode()


def test_the_rank_is_named_where_there_are_others() -> None:
    found = Failure(kind="killed", rank=2, code=1, message="what", remedy="do")
    assert found.sentence(workers=1) == "what; do"
    assert found.sentence(workers=2) == "rank 2: what; do"
    assert found.but(rank=None, remedy="").sentence(workers=2) == "what"


def test_wrong_weights_have_a_kind_and_nobody_s_have_no_rank() -> None:
    for rank in (3, None):
        found = failure.of(CorruptError("w", rank), 3)
        assert (found.kind, found.rank, found.code) == ("corrupt", rank, 1)
        assert found.sentence(4) == ("rank 3: w" if rank else "w")
        assert found.names_a_cause


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError("w"), "config"),
        (DataError("w"), "data"),
        (StoppedError("w"), "stopped"),
        (PeerLostError("w"), "peer_lost"),
        (UserError("w"), "crashed"),
    ],
)
def test_an_error_has_its_kind(error: UserError, kind: str) -> None:
    found = failure.of(error, 4)
    assert (found.kind, found.rank, found.code, found.message) == (kind, 4, error.exit_code, "w")
    assert failure.of(FailedError(found, 8, 1)) == found
    assert FailedError(found, 8).exit_code == error.exit_code
    assert FailedError(found, 8, 1).exit_code == 1
