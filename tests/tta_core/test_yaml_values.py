"""YAML 1.2: values mean what they look like, and hostile texts are answered at once."""

import math
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_core.errors import InputError
from tta_core.yaml_values import LEVELS, VALUES, parse_yaml

NUMBERS = [
    *[("1e-3", 0.001), ("1E+5", 1e5), ("1e3", 1000.0), ("+.5", 0.5), ("1.", 1.0), ("-1.5e2", -150.0), ("0.1", 0.1)],
    *[("010", 10), ("08", 8), ("-7", -7), ("+1", 1), ("0o10", 8), ("0x1F", 31), ("0", 0), (f"{2**64}", 2**64)],
    *[("!!float 1", 1.0), ("!!int '3'", 3)],
]
TEXTS = [
    *[(word, word) for word in ("1:30", "190:20:30", "1_000", "0b1", "-0x1", "0x", "1e", "e3", ".", "=", "<<")],
    *[(word, word) for word in ("on", "On", "off", "yes", "no", "YES", "y", "N", "nULL", "tRue", "cuda:0", "fog@3")],
    *[(word, word) for word in ("2026-11-01", "2026-11-01 10:00:00")],
    *[("'1e-3'", "1e-3"), ('"on"', "on"), ("!!str 010", "010"), ("%YAML 1.2\n---\nyes", "yes")],
]
OTHERS = [
    *[("true", True), ("True", True), ("FALSE", False), ("~", None), ("null", None), ("", None), ("a:", {"a": None})],
    *[("[0, -0.0]", [0, 0.0]), ("{a: [1, {b: c}]}", {"a": [1, {"b": "c"}]}), ("- &x [1]\n- *x", [[1], [1]])],
    *[("\ufeffa: 1", {"a": 1}), ("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}), ("größe: '猫'", {"größe": "猫"})],
]


@pytest.mark.parametrize(("text", "value"), NUMBERS + TEXTS + OTHERS)
def test_values_are_those_of_the_core_schema(text, value):
    found = parse_yaml(text, where="x")
    assert found == value
    assert type(found) is type(value)
    if found == [0, 0.0]:
        assert math.copysign(1, found[1]) == 1


def test_infinity_and_nan_are_numbers_for_the_models_to_refuse():
    assert parse_yaml("[.inf, -.INF]", where="x") == [math.inf, -math.inf]
    assert math.isnan(parse_yaml(".nan", where="x"))


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"key 'a' is written twice \(line 3\)"),
        ("a: {b: 1, b: 2}", r"key 'b' is written twice \(line 1\)"),
        ("1: a\n01: b", "key 1 is written twice"),
        ("a: [", r"\(line 1\)"),
        ("a: b: c", "mapping values are not allowed"),
        ("a: *b", "undefined alias"),
        ("[a]: b", "a key must be one word or number"),
        ("a\n---\nb", "single document"),
        ("!!python/object/apply:os.system [ls]", "python/object/apply:os.system' is not allowed: leave it out"),
        ("!!python/name:os.system ''", "is not allowed"),
        ("!!set {a}", "set' is not allowed"),
        ("!!timestamp 2026-11-01", "timestamp' is not allowed"),
        ("!!int x", "'x' cannot be read as int"),
        ("!!bool on", "'on' cannot be read as bool"),
        ("9" * 5000, "cannot be read as int"),
        ("1e999", "'1e999' cannot be read as float"),
        (r'"a\0b"', r"'a\\x00b' cannot be read as str"),
        (r'"\ud800"', "cannot be read as str"),
        ("a\0b", "special characters are not allowed"),
        ("[" * 5000, f"nested more than {LEVELS} levels deep"),
        ("[" * 5000 + "]" * 5000, f"nested more than {LEVELS} levels deep"),
        ("{a: " * 5000 + "}" * 5000, f"nested more than {LEVELS} levels deep"),
        ("- " * 5000, f"nested more than {LEVELS} levels deep"),
        ("".join(" " * n + "a:\n" for n in range(1000)), f"nested more than {LEVELS} levels deep"),
        ("&a [*a]", f"nested more than {LEVELS} levels deep"),
        (BOMB, f"more than {VALUES:,} values"),
    ],
    ids=lambda text: text[:20].encode("unicode_escape").decode(),
)
def test_what_is_wrong_is_one_message_at_once(text, message):
    began = time.process_time()
    with pytest.raises(InputError, match=message) as raised:
        parse_yaml(text, where="sweep.yaml")
    assert str(raised.value).startswith("sweep.yaml is not valid YAML: ")
    assert len(str(raised.value)) < 300
    assert time.process_time() - began < 5


@given(st.text())
def test_any_text_is_a_value_or_one_message(text):
    with suppress(InputError):
        parse_yaml(text, where="x")
