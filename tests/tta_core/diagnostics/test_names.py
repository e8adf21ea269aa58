"""Which observers a cell asks for."""

import pytest

from tta_core.diagnostics.make import observer_class
from tta_core.diagnostics.names import OBSERVERS, resolve_observers
from tta_core.errors import InputError
from tta_core.run.config import RunConfig


def config(**values):
    return RunConfig.from_values({"method": "tent", **values})


def test_sets_and_lists_become_sorted_names():
    assert resolve_observers("none") == resolve_observers([]) == ()
    assert resolve_observers("all") == tuple(sorted(set(OBSERVERS) - {"outputs", "pictures"}))
    assert resolve_observers("auto") == ("code", "experts", "routing", "shifts")
    assert resolve_observers(["routing", "code", "routing"]) == ("code", "routing")
    assert resolve_observers(["auto", "forgetting"]) == ("code", "experts", "forgetting", "routing", "shifts")
    assert resolve_observers("forgetting") == ("forgetting",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("rooting", r"unknown name in diagnostics 'rooting'\. Did you mean 'routing'\? Allowed: .*auto"),
        (["routing", "forgeting"], "Did you mean 'forgetting'"),
        (3, r"diagnostics = 3: give auto, none, all, or a list"),
        ([["routing"]], "unknown name in diagnostics"),
    ],
    ids=str,
)
def test_mistakes_are_named_with_what_is_allowed(given, message):
    with pytest.raises(InputError, match=message):
        config(diagnostics=given)


@pytest.mark.parametrize("name", OBSERVERS)
def test_every_name_has_its_class(name):
    assert observer_class(name).__name__ == OBSERVERS[name].implementation


def test_diagnostics_are_part_of_the_cell_and_not_of_the_protocol():
    assert config().diagnostics == resolve_observers("auto")
    assert config(diagnostics="auto").cell_id() == config().cell_id()
    for change in ({"diagnostics": "none"}, {"diagnostics": "all"}, {"diagnostics_every": 7}):
        assert config(**change).cell_id() != config().cell_id()
        assert config(**change).fingerprint() == config().fingerprint()


def test_how_often_nothing_is_measured_makes_no_difference():
    assert config(diagnostics="none", diagnostics_every=7).cell_id() == config(diagnostics="none").cell_id()
    with pytest.raises(InputError, match="diagnostics_every = 0 is not allowed"):
        config(diagnostics_every=0)


def test_a_configuration_without_diagnostics_reads_back_as_itself():
    made = config(diagnostics="none")
    assert RunConfig.from_values(made.model_dump(mode="json")) == made
