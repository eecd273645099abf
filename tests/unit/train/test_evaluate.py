"""How the scores of a run are printed."""

import json

import numpy as np
import pytest
from rich.cells import cell_len

from tests.support.names import HARD
from trainer import classification
from trainer.common.text import printable
from trainer.errors import ConfigError
from trainer.train import evaluate
from trainer.train.evaluate import Report

pytestmark = pytest.mark.tensorflow


def report(class_names: tuple[str, ...] = ()) -> Report:
    """Return perfect scores of ten classes, of which the first has no image."""
    labels = np.repeat(np.arange(1, 10), 1000).astype(np.int32)
    logits = np.eye(10, dtype=np.float32)[labels]
    return Report("a", "b", 5, classification.judge(logits, labels), class_names)


def test_names_stand_beside_the_numbers_in_80_columns() -> None:
    text = evaluate.as_text(report(HARD))
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert all(line == printable(line) for line in lines)
    assert sum("6 T-shirt/top " in line for line in lines) == 2
    assert sum("8 7 " in line for line in lines) == 2
    table = lines[lines.index("") + 1 :][:11]
    assert len({cell_len(line) for line in (table[0], *table[2:])}) == 1
    assert table[1].endswith("no images")


def test_a_matrix_too_wide_for_80_columns_is_left_out() -> None:
    logits = np.eye(26, dtype=np.float32)[:1]
    many = Report("a", "b", 5, classification.judge(logits, np.zeros(1, np.int32)))
    lines = evaluate.as_text(many).splitlines()
    assert lines[0] == "a at step 5, on 1 test image of b"
    assert lines[-1] == "26 classes are too many for 80 columns; --json prints all"
    assert max(map(len, lines)) <= 80


def test_a_class_without_images_has_no_scores() -> None:
    values = json.loads(evaluate.as_json(report(HARD)))
    assert values["precision"] == values["recall"] == [None, *9 * [1.0]]
    assert values["class_names"] == list(HARD)
    plain = report()
    assert json.loads(evaluate.as_json(plain))["class_names"] is None
    assert "    0  no images\n    1    100.00%  100.00%\n" in evaluate.as_text(plain)


def told(ours: tuple[str, ...], theirs: tuple[str, ...]) -> list[str]:
    warnings: list[str] = []
    evaluate.check_names(ours, theirs, "d", warnings.append)
    return warnings


def test_classes_of_the_data_are_compared_with_the_runs() -> None:
    for ours, theirs in (((), ("a", "b")), (("a", "b"), ()), (("a", "b"), ("a", "b"))):
        assert told(ours, theirs) == []
    [warning] = told(("a", "b", "c"), ("a", "x", "y"))
    assert warning == (
        "data: d: class 1 is 'x', and 'b' for the run; see that their classes are the same ones"
    )
    with pytest.raises(ConfigError) as caught:
        told(("a", "b", "c"), ("a", "c", "b"))
    assert str(caught.value) == (
        "data: d: class 1 is 'c', and 'b' for the run, which has 'c' as class 2; put the data "
        "with the classes in the run's order"
    )
    with pytest.raises(ConfigError):
        told(("a", "b", "c"), ("x", "y", "b"))
