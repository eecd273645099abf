"""YAML: what is text and what is not, and which files are refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trainer.common import yaml_text
from trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1:30", "1:30"),
        ("12:30:00", "12:30:00"),
        ("010", "010"),
        ("-07", "-07"),
        ("00.5", "00.5"),
        ("no", "no"),
        ("on", "on"),
        ("Y", "Y"),
        ("2026-11-30", "2026-11-30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("=", "="),
        ("10", 10),
        ("-3", -3),
        ("0", 0),
        ("0x1F", 31),
        ("0o17", 15),
        ("1e-4", 1e-4),
        ("1.10", 1.1),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("'1'", "1"),
    ],
)
def test_a_value_is_read_by_the_core_schema_of_yaml_1_2(written: str, value: Any) -> None:
    [read] = yaml_text.parse(f"a: {written}").values()
    assert (type(read), read) == (type(value), value)


def test_names_stay_names() -> None:
    assert yaml_text.parse("on: 1\nno: 2") == {"on": 1, "no": 2}


def test_values_below_some_keys_are_text_as_it_is_written() -> None:
    written = "a: {x: 1.10, y: True, z: 0x1F, e: , t: 'no'}\nb: {x: 1.10}\nc: &c {v: 1.0}"
    read = yaml_text.parse(f"{written}\nd: {{<<: *c, w: 1.50}}", texts=("a", "d", "none"))
    assert read["a"] == {"x": "1.10", "y": "True", "z": "0x1F", "e": None, "t": "no"}
    assert read["b"] == {"x": 1.1}
    assert read["d"] == {"v": "1.0", "w": "1.50"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice, first in line 1; keep one of them"),
        ("t:\n  s: 1\n  s: 1", "line 3: 's' is given twice, first in line 2"),
        ("- {x: 1, 'x': 2}", "line 1: 'x' is given twice, first in line 1"),
        ("a: 1\n---\nb: 1", "must be a single document; keep one of them"),
        ("labels: &a {b: *a}", "nests too deeply, or has an alias within its own anchor; write"),
        ("train: [&a [*a]]", "nests too deeply, or has an alias within its own anchor; write"),
        ("a: !!python/object:os.system x", "not YAML: could not determine a constructor"),
        (
            "a: `b`",
            "not YAML: while scanning for the next token found character '`' that cannot start any "
            "token at line 1, column 4",
        ),
        ("? [a]\n: 1", "not YAML: while constructing a mapping"),
    ],
)
def test_what_is_refused(content: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        yaml_text.parse(content, texts=("labels",))
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_a_mapping_may_override_what_it_shares() -> None:
    shared = "base: &b {x: 1, y: 2}\nfirst: {<<: *b, x: 3}\nsecond: {<<: *b, y: 4}"
    read = yaml_text.parse(shared)
    assert (read["first"], read["second"]) == ({"x": 3, "y": 2}, {"x": 1, "y": 4})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [", "--config {}: not YAML: while parsing"),
        (b"\xff", "--config {}: must be text in UTF-8; save it as UTF-8"),
        ("a: 1".encode("utf-16"), "--config {}: must be text in UTF-8; save it as UTF-8"),
        (b"[" * 10_000, "--config {}: nests too deeply"),
        (b"a: 1\na: 1", "--config {}: line 2: 'a' is given twice"),
        (None, "--config {}: No such file or directory; give a readable file"),
    ],
)
def test_a_file_that_is_no_yaml_ends_in_one_line(
    content: bytes | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        yaml_text.read(str(path), "file", "--config ")
    assert str(caught.value).startswith(words.format(path))
    assert "\n" not in str(caught.value)


@given(st.recursive(st.text() | st.floats(allow_nan=False) | st.integers(), st.lists, max_leaves=5))
def test_what_is_written_is_read_as_it_was(value: Any) -> None:
    written = yaml.dump({"a": value}, Dumper=yaml_text.Dumper)
    assert yaml_text.parse(written) == {"a": value}
    assert yaml.safe_load(written) == {"a": value}


@pytest.mark.parametrize("text", ["1e3", "0o17", "1:30", "no", "010", "1_000", "2026-11-30", "~"])
def test_text_that_looks_like_a_number_anywhere_is_quoted(text: str) -> None:
    assert yaml.dump([text], Dumper=yaml_text.Dumper) == f"- '{text}'\n"
