"""Messages."""

import pytest

from tta_core.errors import InputError, first_names, shown, unknown_name
from tta_core.frozen import validated
from tta_core.run.config import RunConfig


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("the library says: no.. Give another", "the library says: no. Give another"),
        ("no (why.).. Give", "no (why.). Give"),
        ("ends..", "ends."),
        ("and so on... Give", "and so on... Give"),
        ("a/.. is a folder", "a/.. is a folder"),
        ("'..' is", "'..' is"),
        ("1..2", "1..2"),
    ],
)
def test_a_sentence_ends_in_one_dot(given, message):
    assert str(InputError(given)) == message


def test_long_values_are_shown_by_their_beginning():
    assert len(shown("a" * 10_000)) < 210
    assert shown(16**5000) == "a number of more than 4,300 digits"
    assert len(first_names(["a" * 10_000] * 10_000)) < 700
    with pytest.raises(InputError, match=r"seed = a number of more than 4,300 digits is not allowed"):
        validated(RunConfig, {"method": "source", "seed": 16**5000}, where="cell")


def test_names_of_a_table_may_be_numbers():
    assert "Did you mean '1'? Allowed: 1, a" in str(unknown_name("row", 1, [1, "a"]))
