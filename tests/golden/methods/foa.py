"""FOA (its own repository)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.case import Case
from tests.golden.follower import Comparison, Follower
from tta_core.methods.base import Method
from tta_core.methods.foa.evolution import Array, EvolutionStrategy
from tta_core.methods.foa.method import FOA

SAME_RULE_BELOW = 300
"""Dimensions from which on the published run leaves the step size to a rule that ours does not use."""

SMALLEST_WITHOUT_MIRRORS = 6
"""Population size below which the published run adds mirrored candidates, which ours does not."""

SOURCE_TOLERANCE = 1e-5
"""The source's statistics are stored in float32 in both precisions."""


class RecordedPopulation:
    """Hands out the stored candidates in place of CMA-ES."""

    def __init__(self, case: Case) -> None:
        self.population = case.trace["out/population"].astype(np.float64)
        self.sigmas = case.trace["out/sigma"]
        self.step = -1

    @property
    def sigma(self) -> float:
        """The stored step size."""
        return float(self.sigmas[self.step])

    def ask(self) -> list[Array]:
        """The candidates of the next step, without the best of the step before."""
        self.step += 1
        return list(self.population[self.step, :-1])

    def tell(self, vectors: list[Array], values: Array) -> None:
        """Nothing is learned."""


class FOAFollower(Follower):
    """Tries the stored candidates; beside that, lets our CMA-ES draw its own from the stored losses."""

    name = "foa"
    translated = frozenset({"num_prompts", "fitness_lambda", "popsize", "cma_seed", "cma_sigma0", "cma_version"})
    method: FOA

    def settings(self) -> dict[str, Any]:
        """All options; the version of the library decides whether populations are compared."""
        hyper = self.case.hyper
        renamed = {
            "num_prompts": "num_prompts",
            "fitness_lambda": "fitness_lambda",
            "popsize": "population_size",
            "cma_seed": "cmaes_seed",
            "cma_sigma0": "sigma",
        }
        stored = self.case.trace["extra/source_u8"]
        images = [self.case.pixels(batch, normalised=self._normalised()).to(self.dtype) for batch in stored]
        return {ours: hyper[given] for given, ours in renamed.items() if given in hyper} | {"source_images": images}

    def build(self) -> Method[Any]:
        """Starts from the stored prompts and puts the stored population in CMA-ES's place."""
        method = super().build()
        assert isinstance(method, FOA)
        assert method.evolution is not None
        method.prompts = self.case.tensors("extra/", self.dtype)["prompts"][0]
        self.own: EvolutionStrategy = method.evolution
        method.evolution = RecordedPopulation(self.case)  # type: ignore[assignment]
        return method

    def initial(self) -> dict[str, Tensor]:
        """None: nothing is added to the network."""
        return {}

    def internals(self, step: int) -> Iterator[Comparison]:
        """Source statistics, losses, choice, history, and what our CMA-ES makes of the stored losses."""
        trace, method = self.case.trace, self.method
        tolerance = self.case.tolerance("loss", self.dtype)
        if step == 0:
            for name in ("std", "mean"):
                yield Comparison(
                    f"source_{name}", method.artefact[name], trace[f"extra/source_{name}"], SOURCE_TOLERANCE
                )
        assert method.fitness is not None
        losses = trace["out/losses"][step]
        # Sums over the batch in float32, stored of that precision only: what they round grows with them.
        rounding = max(self.case.tolerance("loss", torch.float32), 1e-5 * float(np.abs(losses).max()))
        yield Comparison("losses", method.fitness, losses, rounding)
        yield Comparison("idx_best", method.record["candidate"], trace["out/idx_best"][step], 0)
        loss = self.case.expected("loss", self.dtype)
        if loss is not None:
            yield Comparison("loss", method.record["loss"], loss[step], tolerance)
        history = self.case.tolerance("logits", torch.float32)
        yield Comparison("hist_stat", method.history, trace["out/hist_stat"][step], history)
        yield from self._evolution(step, losses)
        if step == len(self.case.batches) - 1 and "final/best_prompts" in trace:
            yield Comparison("final prompts", method.prompts, trace["final/best_prompts"][0], 0)

    def _evolution(self, step: int, losses: Array) -> Iterator[Comparison]:
        population = self.case.trace["out/population"][step]
        if (
            self.case.hyper.get("cma_version") != version("cma")
            or population.shape[1] >= SAME_RULE_BELOW
            or len(population) - 1 < SMALLEST_WITHOUT_MIRRORS
        ):
            return
        drawn = self.own.ask()
        # Stored in float32; eigenvectors differ in their last bits from one kind of processor to another.
        yield Comparison("population", np.stack(drawn).astype(np.float32), population[:-1], 1e-6)
        self.own.tell([*drawn, population[-1].astype(np.float64)], losses)
        yield Comparison("sigma", self.own.sigma, self.case.trace["out/sigma"][step], 1e-9)

    def _normalised(self) -> bool:
        return "(x-0.5)/0.5" in str(self.case.manifest["input_rule"])


FOLLOWERS = {"foa": FOAFollower}
