"""CMA-ES of the library `cma`, with a state of tensors that goes on bit for bit.

The library keeps its state in an object that only pickle could save. What the next iterations depend on is a handful of
arrays, numbers and the state of the random generator: they are taken out by name and put into a fresh object. That is
sound for the options set here (full covariance, cumulative step-size control, no bounds, mirrors or injections) and for
the version of the library that it was checked with, so a state remembers its version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_core.errors import InputError

Array = NDArray[np.float64]

STRATEGY_ARRAYS = ("mean", "pc", "pc2")
SAMPLER_ARRAYS = ("C", "B", "D")
SAMPLER_COUNTS = ("last_update", "count_tell", "count_eigen")


class EvolutionStrategy:
    """Minimises a function of real vectors from its values at a population of them, on the host, in float64.

    Its random numbers are its own: numpy's global generator is neither read nor set.

    Attributes:
        population_size: vectors that `ask` returns.
    """

    def __init__(self, dimension: int, population_size: int, sigma: float, seed: int) -> None:
        """Starts at a mean of 0 and a covariance of `sigma` squared times the unit matrix."""
        self.population_size = population_size
        self._dimension = dimension
        self._initial_sigma = sigma
        self._random = np.random.RandomState(seed)
        self._strategy = self._fresh()

    @property
    def sigma(self) -> float:
        """The step size."""
        return float(self._strategy.sigma)

    def ask(self) -> list[Array]:
        """Draws a population, vectors `(dimension,)`."""
        drawn: list[Array] = self._strategy.ask()
        return drawn

    def tell(self, vectors: Sequence[Array], values: Array) -> None:
        """Learns from a population.

        Args:
            vectors: what the last `ask` returned, unchanged; others may follow and are pulled in to the reach of the
                distribution if they lie outside.
            values: the function's values `(vectors,)`, the smaller the better; one that is not finite counts as worst.
        """
        finite = np.isfinite(values)
        worst = values[finite].max() if finite.any() else 0.0
        self._strategy.tell(list(vectors), np.where(finite, values, worst).tolist())

    def state_dict(self) -> dict[str, Any]:
        """Everything that later calls depend on, between a `tell` and an `ask`; copies, on the CPU."""
        strategy, sampler, paths = self._strategy, self._strategy.sm, self._strategy.adapt_sigma
        kind, keys, position, has_gauss, gauss = self._random.get_state(legacy=True)
        assert kind == "MT19937"
        arrays = {name: getattr(strategy, name) for name in STRATEGY_ARRAYS}
        arrays |= {name: getattr(sampler, name) for name in SAMPLER_ARRAYS}
        arrays |= {"ps": paths.ps}
        counts = [strategy.countiter, strategy.countevals, *(getattr(sampler, name) for name in SAMPLER_COUNTS)]
        return {
            **{name: torch.from_numpy(np.array(array, dtype=np.float64)) for name, array in arrays.items()},
            "numbers": [float(strategy.sigma), float(paths.delta), float(gauss)],
            "counts": [int(count) for count in counts],
            "random_keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "random_position": [int(position), int(has_gauss)],
            "version": list(_library_version()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave.

        Raises:
            InputError: if it came from another version of `cma`, or of a strategy of another dimension.
        """
        version = tuple(state["version"])
        if version != _library_version():
            raise InputError(
                f"the state is of cma {'.'.join(map(str, version))}, and {'.'.join(map(str, _library_version()))} is "
                "installed: install that version, or start again"
            )
        if len(state["mean"]) != self._dimension:
            raise InputError(
                f"the state is of an evolution strategy in {len(state['mean'])} dimensions, this one has "
                f"{self._dimension}: load it into a method with the same num_prompts and backbone"
            )
        strategy = self._fresh()
        sampler, paths = strategy.sm, strategy.adapt_sigma
        for name in STRATEGY_ARRAYS:
            setattr(strategy, name, _array(state[name]))
        for name in SAMPLER_ARRAYS:
            setattr(sampler, name, _array(state[name]))
        paths.ps = _array(state["ps"])
        strategy.sigma, delta, gauss = state["numbers"]
        paths.delta = delta
        strategy.countiter, strategy.countevals, *counts = state["counts"]
        paths._ps_updated_iteration = strategy.countiter if strategy.countiter else -1
        for name, count in zip(SAMPLER_COUNTS, counts, strict=True):
            setattr(sampler, name, count)
        strategy.mean_old = strategy.mean.copy()  # Wanted to be there, and overwritten before it is read.
        strategy._updateBDfromSM(sampler)
        self._strategy = strategy
        position, has_gauss = state["random_position"]
        keys = state["random_keys"].numpy().astype(np.uint32)
        self._random.set_state(("MT19937", keys, position, has_gauss, gauss))

    def _fresh(self) -> Any:
        import cma  # Takes a second: it brings scipy.stats and matplotlib.pyplot, though nothing is drawn.

        options = {
            "popsize": self.population_size,
            "randn": self._random.randn,
            "seed": np.nan,  # Leaves numpy's global generator alone.
            # From 300 dimensions on, version 4.5 would change to another rule, which injects vectors of its own.
            "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,
            "CMA_mirrors": 0,
            # Would change coordinates at condition numbers above 1e8, far out of reach of a stream.
            "conditioncov_alleviate": False,
            "verbose": -10,  # Below -9 it reads no file of signals from the working directory either.
            "verb_disp": 0,
            "verb_log": 0,
        }
        strategy = cma.CMAEvolutionStrategy(np.zeros(self._dimension), self._initial_sigma, options)
        strategy.timer = cma.utilities.utils.ElapsedWCTime()  # Made by the first `ask` only, which may lie behind.
        return strategy


def _array(tensor: Tensor) -> Array:
    return np.array(tensor.numpy(), dtype=np.float64)


def _library_version() -> tuple[int, ...]:
    from importlib.metadata import version

    return tuple(int(part) for part in version("cma").split(".")[:3])
