"""Quantities as Kubernetes writes them."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s.quantity import asked, parse, show


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", "2"),
        ("0.5", "0.5"),
        ("500m", "0.5"),
        ("1500000u", "1.5"),
        ("100n", "0.0000001"),
        ("2k", "2000"),
        ("2M", "2000000"),
        ("1e3", "1000"),
        ("12E", "12000000000000000000"),
        ("1Ki", "1024"),
        ("1.5Gi", "1610612736"),
        ("-1", "-1"),
        ("", "0"),
        ("plenty", "0"),
        ("NaN", "0"),
        ("1e999999999E", "0"),
        (None, "0"),
        (4, "4"),
    ],
)
def test_a_quantity_is_a_number(text: object, value: str) -> None:
    assert parse(text) == Decimal(value)


@given(st.text(max_size=12))
def test_whatever_is_no_quantity_is_none_of_it(text: str) -> None:
    assert parse(text).is_finite()


@pytest.mark.parametrize(
    ("resource", "text", "shown"),
    [
        ("cpu", "2", "2"),
        ("cpu", "1250m", "1.25"),
        ("requests.cpu", "10", "10"),
        ("cpu", "0", "0"),
        ("cpu", "45m", "45m"),
        ("requests.cpu", "0.9", "900m"),
        ("cpu", "0.0001", "1m"),
        ("cpu", "1925m", "1.925"),
        ("nvidia.com/gpu", "8", "8"),
        ("pods", "1200", "1,200"),
        ("memory", "512Mi", "512 MiB"),
        ("limits.memory", "3584Mi", "3.5 GiB"),
        ("ephemeral-storage", "2Gi", "2 GiB"),
        ("hugepages-2Mi", "100Mi", "100 MiB"),
    ],
)
def test_an_amount_is_told_for_people(resource: str, text: str, shown: str) -> None:
    assert show(resource, parse(text)) == shown


def container(**requests: str) -> dict[str, Any]:
    return {"name": "trainer", "resources": {"requests": requests}}


def test_a_pod_asks_for_its_containers_together_or_for_the_one_before_them() -> None:
    spec: dict[str, Any] = {"containers": [container(cpu="1", memory="1Gi"), container(cpu="500m")]}
    assert asked(spec) == {"cpu": Decimal("1.5"), "memory": Decimal(2**30), "pods": 1}
    spec["initContainers"] = [container(cpu="2")]
    assert asked(spec)["cpu"] == 2
    beside = {**container(cpu="100m"), "restartPolicy": "Always"}
    spec["initContainers"] = [beside, container(cpu="1450m"), container(cpu="100m")]
    assert asked(spec)["cpu"] == Decimal("1.6")  # all that run for good, beside the sidecar
    spec["initContainers"] = [container(cpu="1700m"), beside]
    assert asked(spec)["cpu"] == Decimal("1.7")
    limited = {"containers": [{"resources": {"limits": {"cpu": "3", "memory": "1Mi"}}}]}
    assert asked(limited) == {"cpu": 3, "memory": Decimal(2**20), "pods": 1}
    assert asked({"containers": None}) == {"pods": 1}
