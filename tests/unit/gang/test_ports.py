"""A rank says that it is ready only where its worker can listen."""

import socket

import pytest

from tests.support import processes
from trainer.cluster_spec import Cluster
from trainer.common import sockets
from trainer.config import parse
from trainer.gang.supervisor import _port_trouble


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("taken", [0, 2], ids=["TensorFlow's", "the all-reduce's"])
def test_a_pods_ports_are_tried(taken: int, family: int) -> None:
    port = processes.free_ports(3)
    pod = Cluster(0, (f"a-0.a:{port}", f"a-1.a:{port}"), local=False)
    assert _port_trouble(pod, parse({})) is None
    with socket.create_server(("", port + taken), family=family):
        assert _port_trouble(pod, parse({})) == (port + taken, "Address already in use")
        without_ring = _port_trouble(pod, parse({"all_reduce": "tensorflow"}))
        assert (without_ring is None) == (taken == 2)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_on_all_addresses_is_reached_by_both_families(host: str) -> None:
    with sockets.listen("", 0) as server:
        socket.create_connection((host, server.getsockname()[1]), 5).close()


@pytest.mark.parametrize("host", ["a-1.a", "10.0.0.7", "fd00::7"])
def test_an_endpoint_is_taken_apart_as_it_was_put_together(host: str) -> None:
    assert sockets.split_endpoint(sockets.endpoint(host, 2222)) == (host, 2222)
