"""Search spaces, and whether they fit the settings."""

from typing import Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from tta_core.errors import InputError
from tta_core.frozen import Frozen, validated
from tta_core.methods.spec import Choice, Integer, MethodSpec, Real


class Settings(Frozen):
    """One setting of each type."""

    lr: float = Field(default=0.1, gt=0)
    steps: int = Field(default=1, ge=1)
    pairs: int = 2
    levels: Literal[1, 2, 4] = 1
    limit: int | None = Field(default=None, ge=1)
    weight: float | None = None
    blocks: int | Literal["auto"] = "auto"
    rule: Literal["near", "far"] = "near"
    on: bool = True
    name: str = ""
    layers: tuple[str, ...] = ("a",)

    @field_validator("pairs")
    @classmethod
    def _even(cls, given: int) -> int:
        if given % 2:
            raise ValueError("give an even number")
        return given


def spec(**search):
    return MethodSpec(
        name="tiny", title="", paper="", changes="", implementation="Tiny", settings=Settings, search=search
    )


@pytest.mark.parametrize(
    ("setting", "space"),
    [
        ("lr", Real(low=1e-5, high=1, log=True)),
        ("weight", Real(low=0, high=1)),
        ("steps", Integer(low=1, high=8, log=True)),
        ("limit", Integer(low=1, high=2)),
        ("pairs", Choice(values=(2, 4, 8))),
        ("limit", Choice(values=(None, 4))),
        ("blocks", Choice(values=("auto", 0, 3))),
        ("rule", Choice(values=("far", "near"))),
        ("on", Choice(values=(True, False))),
        ("name", Choice(values=("", "b"))),
        ("layers", Choice(values=(("a",), ("a", "b")))),
    ],
)
def test_a_space_that_fits_its_setting_is_taken(setting, space):
    assert spec(**{setting: space}).search == {setting: space}


@pytest.mark.parametrize(
    ("setting", "space", "message"),
    [
        ("lrr", Real(low=0.1, high=1), "search of tiny: unknown key 'lrr', did you mean 'lr'"),
        ("lr", Integer(low=1, high=2), r"search of tiny: lr reads 1 as 1\.0: give Real for a float, Integer"),
        ("steps", Real(low=1, high=2), r"steps = 1\.0 is not allowed: input should be a valid integer"),
        ("steps", Real(low=1.5, high=2), r"steps = 1\.5 is not allowed"),
        ("limit", Real(low=1, high=2), r"limit = 1\.0 is not allowed: input should be a valid integer"),
        ("on", Integer(low=0, high=1), "on = 0 is not allowed: input should be a valid boolean"),
        ("on", Choice(values=(1, 0)), "on = 1 is not allowed: input should be a valid boolean"),
        ("rule", Integer(low=0, high=1), "rule = 0 is not allowed"),
        ("rule", Choice(values=("near", "fat")), "rule = 'fat' is not allowed"),
        ("name", Real(low=0, high=1), r"name = 0\.0 is not allowed"),
        ("layers", Choice(values=(["a"],)), r"layers reads \['a'\] as \('a',\)"),
        ("lr", Real(low=0, high=1), r"lr = 0\.0 is not allowed: input should be greater than 0"),
        ("weight", Choice(values=("1e-3",)), "weight = '1e-3' is not allowed: input should be a valid number"),
        ("steps", Integer(low=0, high=3), "steps = 0 is not allowed"),
        ("levels", Integer(low=1, high=4), "levels = 3 is not allowed"),
        ("pairs", Integer(low=2, high=8), "pairs = 3 is not allowed: give an even number"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(setting, space, message):
    with pytest.raises(ValidationError, match=message):
        spec(**{setting: space})


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Real, {"low": 1, "high": 1}, "low = 1.0 is not below high = 1.0: give the smaller one as low"),
        (Integer, {"low": 3, "high": 1}, "low = 3 is not below high = 1"),
        (Real, {"low": 0, "high": 1, "log": True}, "low = 0.0 has no logarithm: give a low above 0, or log = false"),
        (Integer, {"low": 0, "high": 1, "log": True}, "low = 0 has no logarithm"),
        (Real, {"low": 0, "high": float("inf")}, "high = inf is not allowed"),
        (Integer, {"low": 0, "high": 1.5}, "high = 1.5 is not allowed"),
        (Real, {"low": 0, "hihg": 1}, "'high' is missing"),
        (Choice, {"values": ()}, "values = .* is not allowed"),
    ],
)
def test_ends_that_make_no_range_are_refused(kind, given, message):
    with pytest.raises(ValueError, match=f"space: .*{message}"):
        validated(kind, given, where="space")


def test_a_text_is_no_end_of_a_range():
    with pytest.raises(InputError, match="lr: low = '1e-5' is not allowed: input should be a valid number"):
        validated(Real, {"low": "1e-5", "high": 0.1, "log": True}, where="lr")
