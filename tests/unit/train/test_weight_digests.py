"""Digests of states, and whose are wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.cluster_spec import Cluster
from trainer.errors import CorruptError, PeerLostError
from trainer.train.weight_digests import WeightDigests, digest, wrong

DTYPES = (np.float32, np.float16, np.int64, np.uint8, np.bool_)
shapes = st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=4)


def arrays(shapes: list[list[int]], seed: int) -> dict[str, np.ndarray]:
    dice = np.random.default_rng(seed)
    made = (dice.integers(0, 2, shape).astype(DTYPES[len(shape)]) for shape in shapes)
    return {str(place): array for place, array in enumerate(made)}


@given(shapes, st.integers(0, 2**32 - 1))
def test_any_flipped_bit_changes_the_digest(shapes: list[list[int]], seed: int) -> None:
    state = arrays(shapes, seed)
    before = digest(state)
    assert before == digest({name: array.copy() for name, array in state.items()})
    assert 0 <= before < 2**64
    for array in state.values():
        data = array.reshape(-1).view(np.uint8)
        for place in range(min(len(data), 20)):
            data[place] ^= 1 << seed % 8
            assert digest(state) != before
            data[place] ^= 1 << seed % 8
    assert digest(state) == before


def test_the_order_of_tensors_counts() -> None:
    first, second = np.arange(4.0), np.arange(5.0)
    assert digest({"a": first, "b": second}) != digest({"a": second, "b": first})


@given(st.integers(2, 1024), st.data())
def test_the_few_are_wrong_and_of_as_many_nobody_is(ranks: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, ranks - 1), max_size=ranks // 2))
    found = wrong([7 if rank in bad else 3 for rank in range(ranks)])
    assert found == (tuple(sorted(bad)) if 2 * len(bad) < ranks else None)


def test_of_two_nobody_knows() -> None:
    assert wrong([1, 2]) is None
    assert wrong([1, 1]) == ()
    assert wrong([1, 2, 3]) is None


def gang(count: int, members: tuple[int, ...] = ()) -> list[WeightDigests]:
    addresses = tuple(f"localhost:{2000 + rank}" for rank in range(count))
    clusters = [Cluster(rank, addresses, local=True, members=members) for rank in range(count)]
    return [WeightDigests(each) for each in clusters]


def outcome(member: WeightDigests, shared: np.ndarray) -> tuple[type[Exception] | None, str]:
    try:
        member.check(shared)
    except (CorruptError, PeerLostError) as error:
        return type(error), str(error)
    return None, ""


@pytest.mark.parametrize("count", [2, 3, 5])
def test_what_each_rank_says(count: int) -> None:
    members, states = gang(count), [np.arange(9, dtype=np.float32) for _ in range(count)]

    def outcomes() -> list[tuple[type[Exception] | None, str]]:
        for member, state in zip(members, states, strict=True):
            member.begin(40, {"w": state})
        shared = np.stack([member.mine() for member in members])
        return [outcome(member, shared) for member in members]

    assert outcomes() == [(None, "")] * count
    states[1].view(np.uint32)[4] ^= 1
    kinds = [kind for kind, _ in outcomes()]
    if count == 2:
        assert kinds == [CorruptError, PeerLostError]
        assert "nobody knows whose are wrong" in outcomes()[0][1]
    else:
        assert kinds == [CorruptError if rank == 1 else PeerLostError for rank in range(count)]
        assert f"the other {count - 1} ranks: host " in outcomes()[1][1]
        assert "weights of rank 1 are wrong" in outcomes()[0][1]


def test_after_a_shrink_the_wrong_rank_is_named_as_before_it() -> None:
    members = gang(3, members=(0, 2, 4))
    for rank, member in enumerate(members):
        member.begin(40, {"w": np.array([rank == 1], np.float32)})
    shared = np.stack([member.mine() for member in members])
    with pytest.raises(CorruptError) as wrong_one:
        members[1].check(shared)
    assert wrong_one.value.rank == 2
    with pytest.raises(PeerLostError, match="weights of rank 2 are wrong"):
        members[2].check(shared)
