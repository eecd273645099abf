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


@pytest.mark.parametrize(("first", "warned"), [(0, 0), (1, 1)])
def test_classes_without_an_image_to_train_on_cost_a_warning(
    tmp_path: Path, first: int, warned: int
) -> None:
    labels = np.arange(first, 27).astype(np.int32)
    split = Split(np.zeros((len(labels), 2, 2, 1), np.uint8), labels)
    data = Dataset(train=split, validation=split, test=split, classes=27, sha256="0" * 64)
    warnings = Warnings()
    run = Run(parse({}), ALONE, data, LocalStorage(str(tmp_path)), "", warnings)
    announce._warn_of_classes(run)
    assert len(warnings.found) == warned
    assert all(
        each.startswith("class 0 of 27 has no training image; ") and "\n" not in each
        for each in warnings.found
    )
