"""Sums among threads, over real sockets."""

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import series
from trainer.cluster_spec import Cluster
from trainer.errors import UnavailableError
from trainer.train import all_reduce, peer_connections
from trainer.train.all_reduce import AllReduce, Vector
from trainer.train.peer_connections import PeerGoneError

pytestmark = pytest.mark.long

LIMIT = 30.0
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ROUNDING = 2.0**-8 + 2.0**-24  # of 8 significant bits, after one of 24
Rows = npt.NDArray[np.int64]


def meeting(count: int) -> Callable[[int], Callable[[Rows], Rows]]:
    """Return a function that gives each rank its ``gather`` among threads."""
    rows: list[Rows] = [np.empty(0, np.int64)] * count
    barrier = threading.Barrier(count)

    def gather_of(rank: int) -> Callable[[Rows], Rows]:
        def gather(own: Rows) -> Rows:
            rows[rank] = own
            barrier.wait(LIMIT)
            return np.stack(rows)

        return gather

    return gather_of


@contextlib.contextmanager
def joined(
    count: int, sent_as: npt.DTypeLike = np.float32
) -> Iterator[tuple[ThreadPoolExecutor, list[AllReduce]]]:
    gather_of, hosts = meeting(count), ["127.0.0.1"] * count

    def member(rank: int) -> AllReduce:
        return AllReduce(rank, hosts, (hosts[rank], 0), gather_of(rank), sent_as=sent_as)

    with ThreadPoolExecutor(count) as pool, contextlib.ExitStack() as stack:
        made = pool.map(member, range(count))
        yield pool, [stack.enter_context(contextlib.closing(each)) for each in made]


def in_stated_order(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The sum of [members, n] in the order of the exchanges that all_reduce's docstring names."""
    count, size = vectors.shape
    cuts = [size * block // count for block in range(count + 1)]

    def held(block: int, rank: int, step: int) -> npt.NDArray[np.float32]:
        """What a rank has of a block after so many exchanges."""
        own = vectors[rank % count, cuts[block] : cuts[block + 1]]
        for at in range(step):
            before, kept = all_reduce.rounds(count)[at]
            if (block - rank) % count < before - kept:
                own = own + held(block, rank - kept, at)
        return own

    return np.concatenate([held(b, b, len(all_reduce.rounds(count))) for b in range(count)])


def ways(members: list[AllReduce]) -> Iterator[None]:
    """Have vectors never travel whole, then as was measured, then always where that may be."""
    measured, count = members[0]._hop_bytes, len(members)
    for hop_bytes in {0.0, measured, np.inf if count & count - 1 == 0 else 0.0}:
        for each in members:
            each._hop_bytes = hop_bytes
        yield


def sums_exactly(count: int, sizes: list[int]) -> None:
    with joined(count) as (pool, members):
        for turn, size in enumerate(sizes):
            random = np.random.default_rng([turn, size])
            vectors = random.normal(size=(count, size)).astype(np.float32)
            before = vectors.copy()
            expected = in_stated_order(vectors).tobytes()
            for _ in ways(members):
                sums = list(pool.map(lambda r: members[r].sum(vectors[r]), range(count)))  # noqa: B023
                assert [each.tobytes() for each in sums] == [expected] * count
            assert np.array_equal(vectors, before)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 16), st.lists(st.integers(0, 5000), min_size=1, max_size=3))
def test_all_get_the_sum_in_the_stated_order(count: int, sizes: list[int]) -> None:
    sums_exactly(count, sizes)


@pytest.mark.parametrize("count", [11, 13, 17, 32, 33])
def test_many_members_get_the_sum_of_vectors_shorter_and_longer_than_they_are(count: int) -> None:
    sums_exactly(count, [0, 1, count - 1, count, count + 1, 10 * count, 1009])


@series.only_long
@pytest.mark.parametrize("count", [64, 100, 128])
def test_a_hundred_members_get_the_sum(count: int) -> None:
    sums_exactly(count, [1, count + 1, 80_000])


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([*range(2, 10), 16]),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(3, 60)), min_size=1, max_size=3),
)
def test_gradients_in_bfloat16_get_equal_bits_on_all_and_the_rest_stays_exact(
    count: int, sizes: list[tuple[int, int]]
) -> None:
    with joined(count, BFLOAT16) as (pool, members):
        for turn, (gradients, others) in enumerate(sizes):
            random = np.random.default_rng([turn, gradients])
            vectors = random.normal(size=(count, gradients + others)).astype(np.float32)
            vectors *= 10.0 ** random.integers(-20, 20, gradients + others).astype(np.float32)
            before = vectors.copy()
            rounded = in_stated_order(vectors[:, :gradients].astype(BFLOAT16)).astype(np.float32)
            rest = in_stated_order(vectors[:, gradients:])
            for _ in ways(members):
                for each in members:
                    each.sums.clear()
                totals = list(
                    pool.map(lambda r: members[r].sum_step(gradients, vectors[r]), range(count))  # noqa: B023
                )
                assert {each.tobytes() for each in totals} == {rounded.tobytes() + rest.tobytes()}
                assert [len(each.sums) for each in members] == [1] * count
            assert np.array_equal(vectors, before)
            exact, most = vectors[:, :gradients].astype(float), 1 + (count - 1).bit_length()
            error = np.abs(rounded - exact.sum(axis=0))
            assert (error <= ((1 + ROUNDING) ** most - 1) * np.abs(exact).sum(axis=0)).all()


def test_bfloat16_halves_the_bytes_that_gradients_take(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    exchange = AllReduce._exchange

    def counted(self: AllReduce, to: int, mine: Vector, source: int, theirs: Vector) -> None:
        sent.append(mine.nbytes)
        exchange(self, to, mine, source, theirs)

    monkeypatch.setattr(AllReduce, "_exchange", counted)
    vector, found = np.ones(10_003, np.float32), []
    for kind in (np.float32, BFLOAT16):
        with joined(3, kind) as (pool, members):
            sent.clear()
            list(pool.map(lambda each: each.sum_step(10_000, vector), members))
        found.append(sum(sent))
    assert found[0] == 4 * 10_003 * 4  # each sends 2 (N - 1) / N of a vector of four bytes each
    assert found[1] == 4 * (10_000 * 2 + 3 * 4)


def test_bfloat16_has_the_range_of_float32_and_keeps_what_is_no_number() -> None:
    vector = np.array([1e38, 2.0**-125, 70_000, np.nan, -np.inf, 0.5, 0.25, 0], np.float32)
    with joined(2, BFLOAT16) as (pool, members):
        for total in pool.map(lambda each: each.sum_step(5, vector), members):
            np.testing.assert_allclose(total, 2 * vector, rtol=2.0**-8)
            assert total.dtype == np.float32


@given(st.integers(2, 2000))
def test_each_rank_exchanges_with_few_others_and_never_sends_a_block_twice(count: int) -> None:
    rounds = all_reduce.rounds(count)
    assert len(rounds) == (count - 1).bit_length()
    assert sum(held - kept for held, kept in rounds) == count - 1
    assert [held for held, _ in rounds[1:]] == [kept for _, kept in rounds[:-1]]
    assert rounds[-1][1] == 1


def test_all_members_choose_alike_and_whole_vectors_only_where_pairs_make_up_the_gang() -> None:
    for count in (2, 3, 4, 6, 8):
        with joined(count) as (_, members):
            for size in (0, 4, 100_000, 10**9):
                [whole] = {each.sends_whole(size) for each in members}
                assert whole <= (count & count - 1 == 0)
                assert whole or count > 2
            ratio = members[0]._hop_bytes
            assert (0 < ratio <= np.inf) == (count & count - 1 == 0)


def test_what_each_gives_all_get_and_each_sum_leaves_its_times() -> None:
    with joined(3) as (pool, members):
        for each in members:
            each.sums.clear()
        rows = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
        shared = list(pool.map(lambda rank: members[rank].share(rows[rank]), range(3)))
        assert all(np.array_equal(each, rows) for each in shared)
        for each in members:
            ((entered, left),) = each.sums
            assert entered <= left


@pytest.mark.parametrize("count", [2, 3, 8, 11])
@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_what_is_gathered_keeps_every_bit(count: int, dtype: type) -> None:
    words = np.random.default_rng(count).integers(0, 2**32, (count, 2, 6), np.uint32)
    words[:, :, :2] = 0x80000000, 0x7F800001  # -0.0, and a NaN that signals
    rows: npt.NDArray[Any] = words.view(dtype)
    with joined(count) as (pool, members):
        gathered = list(pool.map(lambda rank: members[rank].gather(rows[rank]), range(count)))
    assert {(each.dtype, each.shape) for each in gathered} == {(rows.dtype, rows.shape)}
    assert {each.tobytes() for each in gathered} == {rows.tobytes()}


@pytest.mark.parametrize("order", ["text", "reversed", "two gangs"])
def test_wrong_peers_are_refused_before_the_first_step(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_reduce, "FIRST_SUM", 2.0)
    monkeypatch.setattr(peer_connections, "CONNECT", 4.0)
    count = 12
    orders = {
        "text": sorted(range(count), key=str),
        "reversed": list(reversed(range(count))),
        "two gangs": [r % 6 for r in range(count)],
    }
    gather_of, hosts = meeting(count), ["127.0.0.1"] * count

    def join(rank: int) -> str:
        gather = gather_of(rank)
        try:
            made = AllReduce(rank, hosts, (hosts[rank], 0), lambda own: gather(own)[orders[order]])
        except PeerGoneError as error:
            return type(error).__name__
        made.close()
        return "joined"

    with ThreadPoolExecutor(count) as pool:
        ends = list(pool.map(join, range(count)))
    assert "joined" not in ends


def test_more_than_the_sockets_hold_passes() -> None:
    with joined(2) as (pool, members):
        vectors = np.random.default_rng(1).normal(size=(2, 4_000_000)).astype(np.float32)
        one, two = pool.map(lambda r: members[r].sum(vectors[r]), range(2))
        assert np.array_equal(one, vectors[0] + vectors[1])
        assert np.array_equal(one, two)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_worker_is_noticed_by_its_peers(lost: int) -> None:
    vector = np.ones(1000, np.float32)

    def fail(each: AllReduce) -> PeerGoneError:
        with pytest.raises(PeerGoneError, match="a sum broke off: ") as caught:
            each.sum(vector)
        each.close()  # as the process does that ends then
        assert each.error is caught.value
        return caught.value

    with joined(3) as (pool, members):
        members[lost].close()
        left = [each for rank, each in enumerate(members) if rank != lost]
        assert len(list(pool.map(fail, left))) == 2


def test_a_peer_that_falls_silent_is_not_waited_for_without_end() -> None:
    with joined(2) as (_, members):
        for each in members[0]._sockets.values():
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert (
                each.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < peer_connections.SILENCE
            )
            sent = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert sent == peer_connections.SILENCE * 1000


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
        with pytest.raises(
            PeerGoneError, match=f"^port {address[1]} cannot be listened on: .*; free it"
        ):
            AllReduce(0, ["127.0.0.1"] * 2, address, lambda own: own)


def test_a_stranger_is_not_let_in() -> None:
    gather_of, hosts = meeting(2), ["127.0.0.1"] * 2
    strangers: list[socket.socket] = []

    def with_strangers(rank: int) -> Callable[[Rows], Rows]:
        def gather(own: Rows) -> Rows:
            for said in (
                b"",
                b"x" * peer_connections.TOKEN,
                b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100,
            ):
                stranger = socket.create_connection(("127.0.0.1", int(own[0])), LIMIT)
                strangers.append(stranger)
                stranger.sendall(said)
                stranger.shutdown(socket.SHUT_WR)
            return gather_of(rank)(own)

        return gather

    with ThreadPoolExecutor(2) as pool:
        members = list(
            pool.map(lambda r: AllReduce(r, hosts, (hosts[r], 0), with_strangers(r)), range(2))
        )
        one, two = pool.map(lambda r: members[r].sum(np.full(3, r, np.float32)), range(2))
        assert one.tolist() == two.tolist() == [1.0] * 3
    for each in members:
        each.close()
    for stranger in strangers:
        stranger.close()


def test_a_peer_that_never_calls_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connections, "CONNECT", 0.2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))  # refuses until it listens, and nobody else gets its port

        def gather(own: Rows) -> Rows:
            return np.stack([own, np.array([other.getsockname()[1], *own[1:]], np.int64)])

        with pytest.raises(PeerGoneError, match=r"rank 1 cannot be reached at 127.0.0.1:\d+: "):
            AllReduce(0, ["127.0.0.1"] * 2, ("127.0.0.1", 0), gather)
        with pytest.raises(PeerGoneError, match=r"rank 0 did not call port \d+; open this port"):
            AllReduce(1, ["127.0.0.1"] * 2, ("127.0.0.1", 0), gather)

        first = Cluster(0, ("127.0.0.1:0",) * 2, local=True, members=(2, 5))
        with pytest.raises(UnavailableError, match="rank 5 cannot be reached at "):
            all_reduce.join(first, gather)
        with pytest.raises(UnavailableError, match="rank 2 did not call port "):
            all_reduce.join(dataclasses.replace(first, rank=1), gather)


@pytest.mark.parametrize("loss", [0.5, np.nan, np.inf, -np.inf])
def test_a_loss_that_is_no_number_keeps_the_weights_as_they_are(loss: float) -> None:
    vector = np.array([1, np.nan, 2, loss, 0.25, 1], np.float32)
    kept = [2, np.nan, 4] if np.isfinite(loss) else [0] * 3
    with joined(2) as (pool, members):
        for total in pool.map(lambda each: each.sum_step(3, vector), members):
            np.testing.assert_array_equal(total, [*kept, 2 * loss, 0.5, 2])


def test_vectors_are_float32() -> None:
    vector: Vector = np.ones(3, np.float32)
    with joined(2) as (pool, members):
        assert {r.dtype for r in pool.map(lambda each: each.sum(vector), members)} == {vector.dtype}


def test_a_gang_that_cannot_connect_is_an_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_connections, "CONNECT", 0.2)
    cluster = Cluster(0, ("127.0.0.1:1", "127.0.0.1:2"), local=True)
    with socket.socket() as wall:
        wall.bind(("127.0.0.1", 0))  # refuses, as it does not listen
        port = wall.getsockname()[1]
        with pytest.raises(UnavailableError) as caught:
            all_reduce.join(cluster, lambda own: np.stack([own, np.array([port, *own[1:]])]))
    assert str(caught.value) == (
        f"rank 1 cannot be reached at 127.0.0.1:{port}: Connection refused; open "
        "this port between all workers, or set all_reduce to tensorflow"
    )
