import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.cluster_spec import ALONE, DEFAULT_PORT, Cluster, environment, from_environment
from trainer.errors import ConfigError

POD = {
    "JOB_COMPLETION_INDEX": "1",
    "TRAINYARD_WORKERS": "3",
    "TRAINYARD_SERVICE": "train-7",
    "TRAINYARD_PORT": "4000",
}
REMEDY = "outside of a Job, unset JOB_COMPLETION_INDEX"


def refusal(env: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        from_environment(env)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_outside_of_a_job_there_is_no_gang() -> None:
    assert from_environment({}) is None
    assert from_environment({"TRAINYARD_WORKERS": "3", "TRAINYARD_SERVICE": "s"}) is None
    assert ALONE.workers == 1


def test_a_pod_finds_its_peers_by_the_services_names() -> None:
    cluster = from_environment(POD)
    assert cluster == Cluster(
        rank=1,
        addresses=("train-7-0.train-7:4000", "train-7-1.train-7:4000", "train-7-2.train-7:4000"),
        local=False,
        rendezvous="train-7-0.train-7:4001",
        service="train-7",
    )
    assert cluster.workers == 3


def test_the_port_has_a_default() -> None:
    cluster = from_environment({k: v for k, v in POD.items() if k != "TRAINYARD_PORT"})
    assert cluster is not None
    assert cluster.addresses[2] == f"train-7-2.train-7:{DEFAULT_PORT}"


def test_tf_config_is_what_tensorflow_reads() -> None:
    cluster = from_environment(POD)
    assert cluster is not None
    assert json.loads(cluster.tf_config()) == {
        "cluster": {
            "worker": [
                "train-7-0.train-7:4000",
                "train-7-1.train-7:4000",
                "train-7-2.train-7:4000",
            ]
        },
        "task": {"type": "worker", "index": 1},
    }


@given(workers=st.integers(2, 40), port=st.integers(1, 65535 - 40), data=st.data())
def test_workers_of_one_machine_agree_on_distinct_ports(
    workers: int, port: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, workers - 1))
    cluster = from_environment(environment(rank, workers, port))
    assert cluster is not None
    assert cluster.rank == rank
    assert cluster.local
    assert cluster.addresses == tuple(f"127.0.0.1:{port + r}" for r in range(workers))
    assert cluster.rendezvous == f"127.0.0.1:{port + workers}"


def test_a_gang_of_one_needs_no_service() -> None:
    assert from_environment({"JOB_COMPLETION_INDEX": "0"}) == Cluster(
        0, (f"localhost:{DEFAULT_PORT}",), local=True
    )


@pytest.mark.parametrize(
    ("changed", "value", "low", "high"),
    [
        ("JOB_COMPLETION_INDEX", "3", 0, 2),
        ("JOB_COMPLETION_INDEX", "-1", 0, 2),
        ("JOB_COMPLETION_INDEX", "", 0, 2),
        ("TRAINYARD_WORKERS", "0", 1, 1024),
        ("TRAINYARD_WORKERS", "1025", 1, 1024),
        ("TRAINYARD_WORKERS", "two", 1, 1024),
        ("TRAINYARD_WORKERS", "2.0", 1, 1024),
        ("TRAINYARD_PORT", "0", 1, 65533),
        ("TRAINYARD_PORT", "65535", 1, 65533),
        ("TRAINYARD_PORT", " 4000", 1, 65533),
    ],
)
def test_a_variable_out_of_range_is_named(changed: str, value: str, low: int, high: int) -> None:
    message = refusal({**POD, changed: value})
    why = " (TRAINYARD_WORKERS is 3)" if changed == "JOB_COMPLETION_INDEX" else ""
    assert message == (
        f"{changed}: {value!r}: must be a whole number from {low} to {high}{why}; {REMEDY}"
    )


def test_a_number_of_thousands_of_digits_is_out_of_range() -> None:
    message = refusal({**POD, "TRAINYARD_WORKERS": "1" * 5000})
    assert message.endswith(f": must be a whole number from 1 to 1024; {REMEDY}")
    assert len(message) < 180


def test_a_rank_without_the_number_of_workers_is_out_of_range() -> None:
    assert refusal({"JOB_COMPLETION_INDEX": "1"}) == (
        "JOB_COMPLETION_INDEX: '1': must be a whole number from 0 to 0 "
        f"(TRAINYARD_WORKERS is not set); {REMEDY}"
    )


def test_a_gang_without_a_service_is_refused() -> None:
    message = refusal({**POD, "TRAINYARD_SERVICE": ""})
    assert message == (
        f"TRAINYARD_SERVICE: not set: a gang needs the name of its headless Service; {REMEDY}"
    )


def test_a_gang_that_may_grow_has_pods_of_any_rank() -> None:
    newcomer = from_environment({**POD, "JOB_COMPLETION_INDEX": "5"}, may_grow=True)
    first = from_environment({**POD, "JOB_COMPLETION_INDEX": "0"}, may_grow=True)
    assert newcomer
    assert first
    assert (newcomer.rank, newcomer.addresses[5]) == (5, "train-7-5.train-7:4000")
    assert (first.workers, first.rendezvous) == (3, newcomer.rendezvous)
    assert first.address(5) == newcomer.addresses[5]
    assert first.seen_at({0: "10.0.0.1", 5: "fd00::5"}, [0, 2, 5]) == [
        "10.0.0.1:4000",
        "train-7-2.train-7:4000",
        "[fd00::5]:4000",
    ]
    with pytest.raises(ConfigError, match=r"'1024': must be a whole number from 0 to 1023 "):
        from_environment({**POD, "JOB_COMPLETION_INDEX": "1024"}, may_grow=True)
    with pytest.raises(ConfigError, match=r"'3': must be a whole number from 0 to 2 "):
        from_environment(environment(3, 3, 4000), may_grow=True)


def test_the_rendezvouss_port_must_exist_too() -> None:
    assert from_environment(environment(0, 3, 65532)) is not None
    message = refusal(environment(0, 3, 65533))
    assert message == "TRAINYARD_PORT: '65533': must be a whole number from 1 to 65532"


@given(st.integers(1, 64), st.integers(1, 64))
def test_workers_of_a_machine_take_all_of_its_cores_and_none_twice(
    workers: int, count: int
) -> None:
    cores = list(range(100, 100 + count))
    parts = [
        Cluster(rank, ("host:1",) * workers, local=True).part(cores) for rank in range(workers)
    ]
    taken = [core for part in parts for core in part]
    if count >= workers:
        assert taken == cores
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    else:
        assert set(taken) == set(cores)
        assert {len(part) for part in parts} == {1}
        assert max(map(taken.count, cores)) - min(map(taken.count, cores)) <= 1
