"""Optuna's samplers by name, and the options that a sweep may give them. Imports no optuna."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field

from tta_core.errors import InputError, unknown_name
from tta_core.frozen import Frozen

SamplerName = Literal["tpe", "random", "qmc", "gp", "nsgaii", "nsgaiii", "cmaes", "grid"]

_GENETIC: Mapping[str, Any] = {
    "population_size": int,
    "mutation_prob": float,
    "crossover_prob": float,
    "swapping_prob": float,
}

SAMPLERS: Mapping[SamplerName, Mapping[str, Any]] = {
    "tpe": {"n_startup_trials": int, "n_ei_candidates": int, "multivariate": bool, "constant_liar": bool},
    "random": {},
    "qmc": {"qmc_type": ("sobol", "halton"), "scramble": bool},
    "gp": {"n_startup_trials": int, "deterministic_objective": bool},
    "nsgaii": _GENETIC,
    "nsgaiii": {**_GENETIC, "dividing_parameter": int},
    "cmaes": {"n_startup_trials": int, "popsize": int, "sigma0": float, "with_margin": bool, "lr_adapt": bool},
    "grid": {},
}
"""Name -> option -> its type, or the words that are allowed. Those of Optuna's classes, as far as they are plain values
and no seed.
"""

PACKAGES: Mapping[str, str] = {"cmaes": "cmaes", "gp": "scipy"}
"""Sampler -> package that it needs."""


class SamplerChoice(Frozen):
    """A sampler with options.

    Attributes:
        name: the sampler.
        options: as Optuna's class takes them.
    """

    name: SamplerName
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)


def read_sampler(given: Any) -> Any:
    """What the key `sampler` says, without options where there are none.

    Raises:
        InputError: for what is no sampler, no option of it, or needs a package that is not here.
    """
    name, options = given, {}
    if isinstance(given, Mapping):
        if unknown := [key for key in given if key not in ("name", "options")]:
            raise unknown_name("key of sampler", str(unknown[0]), ("name", "options"))
        name, options = given.get("name"), given.get("options", {})
    if name == "auto":
        raise InputError(
            "sampler = 'auto' loads code over the network while it runs: give one of " + ", ".join(SAMPLERS)
        )
    if not isinstance(name, str) or name not in SAMPLERS:
        raise unknown_name("sampler", str(name), SAMPLERS)
    if not isinstance(options, Mapping):
        raise InputError(f"sampler.options = {options!r}: give a mapping of option to value")
    allowed = SAMPLERS[name]  # type: ignore[index]
    for option, value in options.items():
        if option not in allowed:
            if not allowed:
                raise InputError(f"sampler.options: {name} takes none, here is {option!r}: leave it out")
            raise unknown_name(f"option of {name}", str(option), allowed)
        _check_option(f"sampler.options: {option}", value, allowed[option])
    package = PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise InputError(
            f"sampler = {name!r} needs the package {package}, which is not installed: pip install {package}, or give "
            "another sampler, such as tpe"
        )
    return {"name": name, "options": dict(options)} if options else name


def _check_option(key: str, value: Any, kind: Any) -> None:
    if isinstance(kind, tuple):
        if value not in kind:
            raise InputError(f"{key} = {value!r}: give one of {', '.join(kind)}")
        return
    if kind is bool:
        if not isinstance(value, bool):
            raise InputError(f"{key} = {value!r}: give true or false")
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int and not (number and isinstance(value, int) and value >= 1):
        raise InputError(f"{key} = {value!r}: give a whole number of at least 1")
    most = 1.0 if key.endswith("_prob") else float("inf")
    if kind is float and not (number and 0 < value <= most):
        raise InputError(f"{key} = {value!r}: give a number above 0" + (" and at most 1" if most == 1.0 else ""))
    if key.endswith("population_size") and value < 2:
        raise InputError(f"{key} = {value!r}: give at least 2")
