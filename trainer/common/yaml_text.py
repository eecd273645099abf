"""YAML as people mean it: the core schema of version 1.2, and each key once.

PyYAML follows YAML 1.1, in which ``010`` is 8, ``1:30`` is 90, ``no`` is false, a date is no text,
and the last of two equal keys wins.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from trainer.common.text import one_line
from trainer.errors import ConfigError

# Tag, text, first characters: https://yaml.org/spec/1.2.2/#103-core-schema. Numbers with a leading
# zero stay text, as they are octal in 1.1 and decimal in 1.2.
_CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", "<<", ["<"]),  # of 1.1, for settings that several mappings share
)
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as in the class above

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Read a mapping, and refuse a key that is in it already."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, its = key.start_mark.line + 1, (key.tag, key.value)
            if its in lines:
                raise ConfigError(
                    f"line {line}: {key.value!r} is given twice, first in line {lines[its]}; "
                    "keep one of them"
                )
            lines[its] = line
        return node


class Dumper(yaml.SafeDumper):
    """Quotes text that is a number or a truth value in YAML 1.1 or in 1.2."""


for _name, _text, _first in _CORE:
    for _class in (_Loader, Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_text})$"), _first)


def read(path: str, what: str, before: str = "", texts: Collection[str] = ()) -> Any:
    """Return the content of a YAML file; for ``texts`` see ``parse``.

    Raises:
        ConfigError: the file is missing or no YAML, or gives a key twice. ``before`` stands in
            front of its path, and ``what`` is the kind of file to give.
    """
    try:
        content = Path(path).read_text(encoding="utf-8")
        return parse(content, texts)
    except OSError as error:
        raise ConfigError(f"{before}{path}: {error.strerror}; give a readable {what}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{before}{path}: must be text in UTF-8; save it as UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{before}{path}: {error}") from None


def parse(text: str, texts: Collection[str] = ()) -> Any:
    """Return the content of a YAML text, a single document.

    ``texts`` are keys of its outermost mapping below which numbers and truth values stay the text
    that is written there: 1.10 is no 1.1 in an environment variable.

    Raises:
        ConfigError: it is no YAML, or gives a key twice.
    """
    try:
        loader = _Loader(text)
        loader.deep_construct = True  # which refuses an alias within its own anchor
        try:
            node = loader.get_single_node()
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value in texts:
                        _keep_text(value)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    # PyYAML raises all of these for values that do not suit their tags.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(_why(error)) from None


def _why(error: Exception) -> str:
    where = one_line(error).replace('in "<unicode string>",', "at")  # PyYAML's name of a text
    if "found another document" in where:
        return "must be a single document; keep one of them, without '---' lines between"
    if isinstance(error, RecursionError) or "recursive node" in where:
        return (
            "nests too deeply, or has an alias within its own anchor; write out what it stands for"
        )
    return f"not YAML: {where}"


def mapping(values: Any, example: str) -> dict[str, Any]:
    """Return values that must be a mapping from names, as ``example`` is one.

    Raises:
        ConfigError: they are not.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"must be a mapping of settings, such as {example!r}")
    for key in values:
        if not isinstance(key, str):
            raise ConfigError(f"{key!r}: must be the name of a setting, as in {example!r}")
    return values


def _keep_text(node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            _keep_text(value)
    elif isinstance(node, yaml.ScalarNode) and node.tag.removeprefix(_TAG) in (
        "bool",
        "int",
        "float",
    ):
        node.tag = f"{_TAG}str"
