"""ViDA: the original repository's and the port in the IMSE repository."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.follower import Comparison, Follower, ruled_view
from tta_core.errors import InputError
from tta_core.methods.base import Method
from tta_core.methods.vida.method import ViDA

SYMMETRIC = "softmax(s)*log_softmax(t)"
"""What the description of the loss holds if it goes both ways."""


class ViDAFollower(Follower):
    """Takes the published adapters and the published augmentation; watches the student."""

    name = "vida"
    translated = frozenset(
        {
            "model_lr", "vida_lr", "optimizer", "betas", "momentum", "nesterov", "rank_low", "rank_high", "ema_model",
            "ema_vida", "unc_thr", "views", "restore_probability",
        }
    )  # fmt: skip
    method: ViDA

    def settings(self) -> dict[str, Any]:
        """All options, what is trained and which loss; the adapters are handed over, so nothing is warmed up."""
        hyper, words = self.case.hyper, self.case.manifest["hyper_words"]
        trained = self.case.trace["extra/__trainable__"]
        return self._optimizer() | {
            "lr": hyper["vida_lr"],
            "backbone_lr": hyper["model_lr"],
            "rank_low": hyper["rank_low"],
            "rank_high": hyper["rank_high"],
            "train_scope": "adapters" if all(".vida_" in str(name) for name in trained) else "all",
            "warm_up": False,
            "views": hyper["views"],
            "uncertainty_threshold": hyper["unc_thr"],
            "loss": "symmetric" if SYMMETRIC in words["loss"] else "one_directional",
            "ema": hyper["ema_model"],
            "adapter_ema": hyper["ema_vida"],
            "restore_probability": hyper.get("restore_probability", 0.0),
        }

    def initial(self) -> dict[str, Tensor]:
        """The published adapters, both ranks in one tensor."""
        published = self.case.tensors("extra/", self.dtype)
        layers = sorted({name.partition(".vida_")[0] for name in published if name.endswith(".vida_down.weight")})
        down = {f"{layer}.down": _side_by_side(published, layer, "down", dim=0) for layer in layers}
        return down | {f"{layer}.up": _side_by_side(published, layer, "up", dim=1) for layer in layers}

    def build(self) -> Method[Any]:
        """Replaces the views and the random restore, and watches the student."""
        method = super().build()
        assert isinstance(method, ViDA)
        if "out/aug_view_logits" in self.case.trace:
            method.view_logits = self._published_logits  # type: ignore[method-assign]
        else:
            method.augment = self._augment  # type: ignore[method-assign]
        self.positions: Tensor | None = None
        if "out/idx_restored" in self.case.trace:
            method.draw_restored = lambda probability: self.restored
            self.positions = self._published_positions(method)
        method.network.register_forward_hook(self._watch)
        return method

    def step(self, step: int) -> Tensor:
        """Takes one step with the published restore."""
        if self.positions is not None:
            order = self.case.trace["out/idx_restored"][step]
            self.restored = self.positions[torch.from_numpy(order[order >= 0].astype(np.int64))].sort().values
        self.number, self.view = step, 0
        return super().step(step)

    def internals(self, step: int) -> Iterator[Comparison]:
        """Loss, uncertainty, scales, student; at the end the parameters of student and teacher."""
        record = self.method.record
        high = record["uncertainty"] >= self.method.settings.uncertainty_threshold
        yield from self._compare("event_high", step, high, exact=True)
        for quantity, ours in (
            ("loss", record["loss"]),
            ("uncertainty", record["uncertainty"]),
            ("scale1", record["low_scale"]),
            ("scale2", record["high_scale"]),
            ("student_logits", self.student_logits),
        ):
            yield from self._compare(quantity, step, ours)
        # Adam turns the rounding of gradients that are zero into steps.
        if step == len(self.case.batches) - 1 and self.method.settings.optimizer == "sgd":
            yield from self._final("student", dict(self.method.network.named_parameters()))
            yield from self._final("teacher", dict(self.method.teacher.network.named_parameters()))

    def _compare(self, quantity: str, step: int, ours: Tensor, *, exact: bool = False) -> Iterator[Comparison]:
        """Compares with the run in this precision, or in float32 if only that is stored; with nothing if neither is."""
        for dtype in (self.dtype, torch.float32):
            published = self.case.expected(quantity, dtype)
            if published is not None:
                tolerance = 0 if exact else self.case.tolerance("loss", dtype)
                yield Comparison(quantity, ours, published[step], tolerance)
                return

    def _final(self, whose: str, parameters: Mapping[str, Tensor]) -> Iterator[Comparison]:
        rank_low, tolerance = self.method.settings.rank_low, self.case.tolerance("loss", torch.float32)
        for name, published in self.case.trace.items():
            own = name.removeprefix(f"final/{whose}/")
            if own != name:
                ours = _published_view(own, parameters, rank_low).detach()
                yield Comparison(f"final {whose} {own}", ours, published, tolerance)

    def _optimizer(self) -> dict[str, Any]:
        """`SGD nesterov momentum 0.9`, `adam` and the like, with options of their own or in words."""
        hyper = self.case.hyper
        words = str(hyper["optimizer"]).lower()
        kind = re.match(r"sgd|adam(?!\w)", words)
        if kind is None:
            raise InputError(f"optimizer {hyper['optimizer']!r} is not implemented: SGD and Adam are")
        settings: dict[str, Any] = {"optimizer": kind.group()}
        if kind.group() == "sgd":
            momentum = re.search(r"momentum ([\d.]+)", words)
            settings["momentum"] = hyper.get("momentum", float(momentum.group(1)) if momentum else 0.0)
            settings["nesterov"] = hyper.get("nesterov", "nesterov" in words)
            return settings
        betas = re.search(r"\(([\d.]+), *([\d.]+)\)", words)
        given = betas.groups() if betas else (0.9, 0.999)
        return settings | {"betas": tuple(float(beta) for beta in hyper.get("betas", given))}

    def _published_logits(self, _images: Tensor) -> Tensor:
        """What the published teacher said to its random views."""
        return torch.from_numpy(self.case.trace["out/aug_view_logits"][self.number]).to(self.dtype)

    def _augment(self, pixels: Tensor, _generator: torch.Generator) -> Tensor:
        """The published rule that stands in for the random transform."""
        number, self.view = self.view, self.view + 1
        return ruled_view(pixels, number)

    def _watch(self, _module: Any, _inputs: Any, logits: Tensor) -> None:
        self.student_logits = logits.detach()

    def _published_positions(self, method: Method[Any]) -> Tensor:
        """Position among our trained parameters of each number, in the published order."""
        numbers, start = {}, 0
        for name, parameter in method.trainable_parameters().items():
            numbers[name] = torch.arange(start, start + parameter.numel()).view(parameter.shape)
            start += parameter.numel()
        order, rank_low = self.case.trace["extra/__restore_order__"], method.settings.rank_low
        return torch.cat([_published_view(str(name), numbers, rank_low).flatten() for name in order])


def _side_by_side(published: Mapping[str, Tensor], layer: str, tensor: str, dim: int) -> Tensor:
    return torch.cat([published[f"{layer}.vida_{tensor}{number}.weight"] for number in ("", "2")], dim=dim)


def _published_view(name: str, tensors: Mapping[str, Tensor], rank_low: int) -> Tensor:
    """The part of our tensors that holds the published tensor of that name."""
    layer, adapter, rest = name.partition(".vida_")
    if not adapter:
        return tensors[name.replace(".linear_vida.", ".")]
    part = slice(rank_low, None) if "2" in rest else slice(rank_low)
    if rest.startswith("down"):
        return tensors[f"{layer}.down"][part]
    return tensors[f"{layer}.up"][:, part]


FOLLOWERS = {"vida": ViDAFollower}
