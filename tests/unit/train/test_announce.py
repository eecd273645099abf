"""What a run says before its first step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.cluster_spec import ALONE
from trainer.config import parse
from trainer.data.dataset import Dataset, Split
from trainer.progress import Reporter
from trainer.storage.local import LocalStorage
from trainer.train import announce
from trainer.train.run import Run

pytestmark = pytest.mark.tensorflow


class Warnings(Reporter):
    def __init__(self) -> None:
        self.found: list[str] = []

    def warn(self, message: str, **_: Any) -> None:
        self.found.append(message)


def alone(folder: Path, first: int = 0) -> tuple[Run, Warnings]:
    labels = np.arange(first, 27).astype(np.int32)
    split = Split(np.zeros((len(labels), 2, 2, 1), np.uint8), labels)
    data = Dataset(train=split, validation=split, test=split, classes=27, sha256="0" * 64)
    warnings = Warnings()
    return Run(parse({}), ALONE, data, LocalStorage(str(folder)), "", warnings), warnings


@pytest.mark.parametrize(("first", "warned"), [(0, 0), (1, 1)])
def test_classes_without_an_image_to_train_on_cost_a_warning(
    tmp_path: Path, first: int, warned: int
) -> None:
    run, warnings = alone(tmp_path, first)
    announce._warn_of_classes(run)
    assert len(warnings.found) == warned
    assert all(
        each.startswith("class 0 of 27 has no training image; ") and "\n" not in each
        for each in warnings.found
    )


XEON = {"model": "Intel(R) Xeon(R) CPU @ 2.80GHz", "instructions": "x86_64 avx avx2 fma avx512f"}
EPYC = {"model": "AMD EPYC 7B12", "instructions": "x86_64 avx avx2 fma"}


@pytest.mark.parametrize(
    ("stored", "warned"),
    [
        ({"processor": XEON}, 0),
        ({"processor": {**XEON, "model": "another of these"}}, 0),
        ({"processor": EPYC}, 1),
        ({}, 0),  # of an earlier version
        ({"processor": "EPYC"}, 0),
        (None, 0),
    ],
)
def test_another_kind_of_processor_costs_a_warning(
    stored: dict[str, Any] | None, warned: int, tmp_path: Path
) -> None:
    run, warnings = alone(tmp_path)
    announce._warn_of_processor(run, XEON, stored or {})
    assert len(warnings.found) == warned
    for words in warnings.found:
        assert "AMD EPYC 7B12 (x86_64 avx avx2 fma) before, now Intel(R) Xeon(R)" in words
