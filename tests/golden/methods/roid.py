"""ROID, and its random view."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.golden.follower import Comparison, Follower, ruled_view
from tta_core.methods.base import Method
from tta_core.methods.common.views import COLOURS, View, apply_reflected
from tta_core.methods.roid.method import ROID
from tta_core.methods.roid.terms import smoothed_prior


class ROIDFollower(Follower):
    """Takes the published views, and watches the weights of the samples and the logits before their correction."""

    name = "roid"
    translated = frozenset(
        {
            "optimizer", "lr", "momentum", "nesterov", "betas", "nominal_batch_size", "use_weighting",
            "use_consistency", "use_prior_correction", "momentum_src", "momentum_probs", "temperature",
        }
    )  # fmt: skip
    method: ROID

    def settings(self) -> dict[str, Any]:
        """All options; the nominal size is that of a full batch."""
        hyper = self.case.hyper
        renamed = {
            "use_weighting": "weighting",
            "use_consistency": "consistency",
            "momentum_src": "source_momentum",
            "momentum_probs": "prediction_momentum",
        }
        kept = ("optimizer", "lr", "momentum", "nesterov", "betas", "temperature", *renamed)
        return {renamed.get(name, name): hyper[name] for name in kept if name in hyper} | {
            "prior_correction": "logits" if hyper["use_prior_correction"] else "none",
        }

    def initial(self) -> dict[str, Tensor]:
        """None: the method adds nothing to the network."""
        return {}

    def build(self) -> Method[Any]:
        """Replaces the view and watches weights and logits."""
        method = super().build()
        assert isinstance(method, ROID)
        self.view = 0
        method.augment = self._augment  # type: ignore[method-assign]
        weigh = method._weights

        def watch(logits: Tensor) -> Tensor:
            self.raw, self.weights = logits, weigh(logits)
            return self.weights

        method._weights = watch  # type: ignore[method-assign]
        return method

    def internals(self, step: int) -> Iterator[Comparison]:
        """Loss, weights, selection, trend, prior, logits before the correction; at the end the parameters."""
        yield from self.compare_adapted_names(step)
        yield from self.compare("loss", step, self.method.record["loss"])
        yield from self.compare("weights", step, self.weights)
        yield from self.compare("trend", step, self.method.trend)
        yield from self.compare("prior", step, smoothed_prior(self.raw))
        yield from self.compare("raw_logits", step, self.raw)
        yield from self.compare("n_selected", step, self.method.record["selected"], 0)
        yield from self.compare("mask_selected", step, self.weights > 0, 0)
        # Adam turns the rounding of gradients that are zero into steps.
        if self.method.settings.optimizer == "sgd":
            yield from self.compare_final(step, "final/", self.method.trainable_parameters())

    def _augment(self, pixels: Tensor, _generator: torch.Generator) -> Tensor:
        number, self.view = self.view, self.view + 1
        return ruled_view(pixels, number)


class ROIDViewFollower(Follower):
    """Makes the views of stored draws; no method runs."""

    scored = "view"

    def build(self) -> Any:
        """Nothing."""
        return None

    @property
    def tolerance(self) -> float:
        """That of a pixel."""
        return self.case.tolerance("view", self.dtype)

    def step(self, step: int) -> Tensor:
        """The view of one draw, of all images."""
        trace = self.case.trace

        def drawn(name: str) -> Any:
            return trace[f"extra/{name}"][step].tolist()

        view = View(
            colours=tuple(
                (COLOURS[number][0], factor)
                for number, factor in zip(drawn("colour_order"), drawn("colour_factor"), strict=True)
            ),
            angle=drawn("angle"),
            shift=tuple(map(int, drawn("shift"))),  # type: ignore[arg-type]
            scale=drawn("scale"),
            blur=0.0,
            flip=bool(drawn("flip")),
        )
        return apply_reflected(torch.from_numpy(trace["u8"]).float() / 255, view)


FOLLOWERS = {"roid": ROIDFollower, "roid_view": ROIDViewFollower}
