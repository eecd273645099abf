"""A rank says that it is ready only where its worker can listen."""

import socket

import pytest

from tests import processes
from trainer.cluster import Cluster
from trainer.config import parse
from trainer.supervisor import _port_trouble


@pytest.mark.parametrize("taken", [0, 2], ids=["TensorFlow's", "the ring's"])
def test_a_pods_ports_are_tried(taken: int) -> None:
    port = processes.free_ports(3)
    pod = Cluster(0, (f"a-0.a:{port}", f"a-1.a:{port}"), local=False)
    assert _port_trouble(pod, parse({})) is None
    with socket.create_server(("", port + taken)):
        assert _port_trouble(pod, parse({})) == (port + taken, "Address already in use")
        without_ring = _port_trouble(pod, parse({"all_reduce": "tensorflow"}))
        assert (without_ring is None) == (taken == 2)
