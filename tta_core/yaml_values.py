"""Plain values from YAML 1.2: what sweep files and `--set` say. Imports no torch.

PyYAML reads YAML 1.1, where `1e-3` is text, `010` is 8, `1:30` is 90 and `on` is true. Here scalars mean what the core
schema of YAML 1.2 says: https://yaml.org/spec/1.2.2/#103-core-schema
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from tta_core.errors import InputError

LEVELS = 50
"""How deep values may be nested."""

VALUES = 100_000
"""How many values a text may have, those of aliases counted where they are used."""

MOST_DIGITS = 400
"""Of an integer; the largest float has 309."""

TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Composes YAML as PyYAML does, with the scalars of YAML 1.2."""

    level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.level += 1
        _check_level(self.level, self.peek_event().start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.level -= 1


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}.items():
    _Loader.add_implicit_resolver(TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), None)


def parse_yaml(text: str, *, where: str) -> Any:
    """Reads one YAML document as dictionaries, lists, texts, numbers, booleans and None.

    Args:
        text: the document.
        where: what it is, to start the message of an error with.

    Raises:
        InputError: with the line, if it is not YAML, writes a key twice, or has more than `LEVELS` or `VALUES`.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
        return None if root is None else _Values().of(root, level=1)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1})" if mark else ""
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise InputError(f"{where} is not valid YAML: {problem}{place}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


class _Values:
    """Turns nodes into plain values. An alias gives a copy, so that no value is changed in two places."""

    def __init__(self) -> None:
        self._count = 0

    def of(self, node: yaml.Node, level: int) -> Any:
        self._count += 1
        if self._count > VALUES:
            raise _error(node, f"more than {VALUES:,} values, counting those of aliases: write fewer")
        _check_level(level, node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
            return [self.of(item, level + 1) for item in node.value]
        if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
            return self._mapping(node, level)
        raise _error(node, f"the tag {node.tag!r} is not allowed: leave it out")

    def _mapping(self, node: yaml.MappingNode, level: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise _error(name, "a key must be one word or number")
            key = _scalar(name)
            if key == "<<" and name.style is None:
                raise _error(name, "YAML 1.2 has no merge key <<: write its entries here")
            if key in found:
                raise _error(name, f"key {key!r} is written twice")
            found[key] = self.of(value, level + 1)
        return found


def _scalar(node: yaml.ScalarNode) -> Any:
    kind, text = node.tag.removeprefix(TAG), node.value
    try:
        if kind == "str":
            text.encode()
            if "\0" in text:
                raise ValueError
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        if kind == "int":
            return _int(text)
        if kind == "float":
            return _float(text)
    except (ValueError, KeyError):
        raise _error(node, f"{text[:40]!r} cannot be read as {kind}: write another value") from None
    raise _error(node, f"the tag {node.tag!r} is not allowed: leave it out")


def _int(text: str) -> int:
    """Raises ValueError for a number of more digits than a float's largest has."""
    if len(text) > MOST_DIGITS:
        raise ValueError
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(text: str) -> float:
    """Raises ValueError for a number that is too large; zero has no sign, so that -0.0 and 0 are one value."""
    named = text.lower().lstrip("+-") in (".inf", ".nan")
    value = float(text.replace(".", "", 1) if named else text)
    if not (named or math.isfinite(value)):
        raise ValueError
    return value + 0.0


def _check_level(level: int, mark: Any) -> None:
    if level > LEVELS:
        raise yaml.MarkedYAMLError(
            problem=f"nested more than {LEVELS} levels deep: write it flatter", problem_mark=mark
        )


def _error(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
