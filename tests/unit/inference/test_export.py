"""What is compared before an export is stored, and which formats are written."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trainer import classification
from trainer.errors import ConfigError, UserError
from trainer.inference import export
from trainer.inference.export import Reference
from trainer.inference.formats import FORMATS, Outputs

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, -40.0]], np.float32)
REFERENCE = Reference(np.zeros((2, 4, 4, 1), np.uint8), (LOGITS,), 1e-5, "")


@pytest.fixture
def onnx_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    form = replace(FORMATS["onnx"], packages=("json", "no_such_package"))
    monkeypatch.setitem(FORMATS, "onnx", form)


@pytest.fixture
def onnx_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], packages=("json",)))


@pytest.mark.usefixtures("onnx_there")
def test_formats_come_in_one_order() -> None:
    assert export.choose(None) == ["keras", "savedmodel", "onnx"]
    assert export.choose("onnx, keras,onnx") == ["keras", "onnx"]


@pytest.mark.usefixtures("onnx_missing")
def test_a_format_without_its_packages_is_left_out_unless_asked_for() -> None:
    assert export.choose(None) == ["keras", "savedmodel"]
    with pytest.raises(ConfigError, match="onnx: no_such_package not installed; pip install no_s"):
        export.choose("keras,onnx")


@pytest.mark.parametrize("formats", ["", "keras,", "savedmodle", "keras;onnx"])
def test_an_unknown_format_is_refused(formats: str) -> None:
    with pytest.raises(ConfigError, match="is not one of keras, savedmodel, onnx") as error:
        export.choose(formats)
    assert ("did you mean savedmodel?" in str(error.value)) == (formats == "savedmodle")


def test_equal_outputs_pass() -> None:
    shares = classification.probabilities(LOGITS).astype(np.float32)
    classes = np.array([0, 1])
    assert export.check(Outputs(LOGITS), REFERENCE, "x") == 0
    assert export.check(Outputs(LOGITS, shares, classes), REFERENCE, "x") < 1e-7


@given(
    arrays.arrays(np.float32, (5, 3), elements=st.floats(-80, 80, width=32)),
    st.integers(0, 4),
    st.integers(0, 2),
    st.sampled_from([3e-5, -3e-5, 1.0, np.nan, np.inf]),
)
def test_one_probability_that_differs_is_enough(
    logits: np.ndarray, row: int, column: int, difference: float
) -> None:
    shares = classification.probabilities(logits)
    assert np.allclose(shares.sum(axis=1), 1)
    reference = replace(REFERENCE, expected=(logits, logits))
    found = shares.astype(np.float32)
    found[row, column] += difference
    with pytest.raises(UserError, match="nothing was stored"):
        export.check(Outputs(logits, found), reference, "x")


@pytest.mark.parametrize("which", [0, 1])
def test_every_expectation_counts(which: int) -> None:
    other = LOGITS + np.float32(0.01) * np.eye(2, 3, dtype=np.float32)
    expected = (other, LOGITS) if which else (LOGITS, other)
    with pytest.raises(UserError, match=r"x: differs from the run by up to 1\.\de-03"):
        export.check(Outputs(LOGITS), replace(REFERENCE, expected=expected), "x")


def test_logits_that_are_shifted_are_found_though_the_probabilities_agree() -> None:
    with pytest.raises(UserError, match=r"2\.5e-02 of the largest logit"):
        export.check(Outputs(LOGITS + 1), REFERENCE, "x")


def test_classes_and_shapes_are_those_of_the_logits() -> None:
    shares = classification.probabilities(LOGITS).astype(np.float32)
    with pytest.raises(UserError, match="its classes are not"):
        export.check(Outputs(LOGITS, shares, np.array([0, 2])), REFERENCE, "x")
    with pytest.raises(UserError, match=r"answers with \(1, 3\) logits, the run with \(2, 3\)"):
        export.check(Outputs(LOGITS[:1]), REFERENCE, "x")


def test_what_a_format_cannot_hold_is_named_without_code_or_files_that_are_gone() -> None:
    no_config = (
        "\nObject Sub must override `get_config()` in\norder to be serializable. Please implement "
        "`get_config()`.\n\nExample:\n\nclass CustomLayer(keras.layers.Layer):\n    def __init__("
    )
    assert export._reason(NotImplementedError(no_config)) == (
        "NotImplementedError: Object Sub must override `get_config()` in order to be serializable. "
        "Please implement `get_config()`"
    )
    start = "INVALID_GRAPH : Load model from /tmp/trainyard-export-a/model.onnx failed:This is "
    node = '("functional_1/sequential_1/dense_1/Gelu/Erfc", Erfc, "", -1) : ("x:0": tensor(float))'
    lacking = f"{start}an invalid model. In Node, {node} , Error No Op registered for Erfc with 15"
    assert export._reason(ValueError(lacking)) == "ONNX has no operation Erfc, which Gelu needs"
    other = f"{start}invalid: Type Error"
    assert export._reason(ValueError(other)).endswith("INVALID_GRAPH : This is invalid: Type Error")
