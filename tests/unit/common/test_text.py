import pytest
from pydantic import BaseModel, Field, ValidationError
from rich.cells import cell_len

from trainer.common import text


def test_a_terminal_shows_text_and_does_not_obey_it() -> None:
    assert text.printable("a\x1b[31mb\tc\n\u202e") == "a\ufffd[31mb c\ufffd\ufffd"
    for spelt in ("\u0645\u06cc\u200c\u062e\u0648", "\U0001f468\u200d\U0001f467"):
        assert text.printable(spelt) == spelt
    assert text.one_line(ValueError("a\n  b\x07")) == "a b\ufffd"
    assert text.one_line("abc", 2) == "ab"


def test_a_text_is_shortened_to_what_fits() -> None:
    assert text.shortened("shirt", 5) == "shirt"
    assert text.shortened("T-shirt or top", 9) == "T-shirt…"
    assert text.shortened("\u202eabc\x1b[2J", 6) == "\ufffdabc\ufffd…"
    assert text.shortened("abc", 0) == "…"
    wide = text.shortened("名前名前", 5, cell_len)
    assert (wide, cell_len(wide)) == ("名前…", 5)


def test_classes_are_called_by_their_names() -> None:
    names = ("cat", "a very long name of a dog", "2")
    assert [text.class_name(n, names, 10) for n in range(4)] == ["cat", "a very lo…", "2", "3"]
    assert [text.class_label(n, names, 10) for n in range(4)] == ["0 cat", "1 a very…", "2", "3"]
    assert text.class_name(1, ()) == text.class_label(1, ()) == "1"


def test_numbers_of_things() -> None:
    assert [text.plural(n, "step") for n in (0, 1, 2000)] == ["0 steps", "1 step", "2,000 steps"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (45.4, "45s"), (60, "1m"), (192, "3m12s"), (7500, "2h5m"), (86400 * 3.2, "3d4h")],
)
def test_duration(seconds: float, words: str) -> None:
    assert text.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 MiB"), (511 << 20, "511 MiB"), (3 << 29, "1.5 GiB"), (3 << 40, "3,072 GiB")],
)
def test_size(count: int, words: str) -> None:
    assert text.size(count) == words


def test_the_nearest_name() -> None:
    assert text.nearest("sed", ["seed", "steps"]) == "; did you mean seed?"
    assert text.nearest("xyz", ["seed", "steps"]) == ""


def test_the_first_problem_of_a_value() -> None:
    class Model(BaseModel):
        inner: list[int] = Field(description="numbers")

    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"inner": [1, "x"]})
    kind, path, value, rule = text.first_problem(caught.value)
    assert (kind, path, value) == ("int_parsing", ["inner", "1"], "x")
    assert rule.startswith("must be a valid integer")
