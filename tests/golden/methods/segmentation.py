"""Segmentation: the released CoTTA and Tent steps for Cityscapes to ACDC, on a tiny SegFormer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.golden.follower import Comparison, Follower
from tta_core.backbones.segformer import SegFormer, SegFormerShape, under_our_names
from tta_core.errors import InputError
from tta_core.methods.base import Method
from tta_core.methods.common.pixel_settings import RATIOS
from tta_core.methods.registry import build_method

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPTIONS = frozenset(
    {"lr", "optimizer", "betas", "num_classes", "crop", "stride", "ignore_index", "view_ratios", "flip"}
)
"""Options of all cases. No pixel is ignored: what is learned from are the network's own classes."""


class PixelFollower(Follower):
    """Builds the network from NVlabs' names, and compares maps of classes and the student's logits."""

    scored = "student_logits"

    @property
    def tolerance(self) -> float:
        """Of the student's logits."""
        return self.case.tolerance("logits", self.dtype)

    @cached_property
    def network(self) -> nn.Module:
        """The plain network with its initial weights."""
        model = self.case.manifest["model"]
        if len(set(model["mlp_ratios"])) > 1:
            raise InputError("a SegFormer whose stages have different MLP ratios is not implemented")
        shape = SegFormerShape(
            widths=tuple(model["embed_dims"]),
            depths=tuple(model["depths"]),
            head_width=model["decoder_dim"],
            heads=tuple(model["num_heads"]),
            reductions=tuple(model["sr_ratios"]),
            kernels=tuple(model["patch_sizes"]),
            strides=tuple(model["strides"]),
            ratio=model["mlp_ratios"][0],
        )
        network = SegFormer(shape, model["num_classes"])
        weights = under_our_names(self.case.tensors("init/", torch.float32))
        missing = set(network.load_state_dict(weights, strict=False).missing_keys)
        assert all(name.endswith("num_batches_tracked") for name in missing), missing
        return network.to(self.dtype).eval()

    def common(self) -> dict[str, Any]:
        """Settings of both methods: optimizer, windows and views; what a case does not say is one view."""
        hyper = self.case.hyper
        kept = {name: hyper[name] for name in ("lr", "optimizer", "betas") if name in hyper}
        windows = {ours: tuple(hyper[theirs]) for ours, theirs in (("window", "crop"), ("stride", "stride"))}
        ratios = hyper.get("view_ratios", [1.0])
        views = len(ratios) * (2 if hyper.get("flip", False) else 1)
        if RATIOS.get(views) != tuple(ratios):
            raise InputError(f"views of the ratios {ratios} are not implemented")
        return kept | windows | {"views": views, "preset": "official"}

    def build(self) -> Method[Any]:
        """Builds our method, and watches the student."""
        method = build_method(
            self.name,
            self.network,
            num_classes=self.case.num_classes,
            task="segmentation",
            output_size=tuple(self.case.manifest["label_size"]),
            mean=MEAN,
            std=STD,
            **self.settings(),
        )
        self.seen: list[Tensor] = []
        method.network.register_forward_hook(lambda *seen: self.seen.append(seen[-1].detach()))
        return method

    def inputs(self, step: int) -> Tensor:
        """The images of a step, normalised."""
        height, width = self.case.manifest["image_size"]
        stored = self.case.trace["u8"][step]
        scale = height // stored.shape[-2]
        assert scale * stored.shape[-1] == width
        pixels = torch.from_numpy(stored.repeat(scale, axis=-1).repeat(scale, axis=-2).astype(np.float32)) / 255
        # Their numbers were rounded to single precision before they were used in double.
        mean, std = (torch.tensor(each).view(1, 3, 1, 1).to(self.dtype) for each in (MEAN, STD))
        return (pixels.to(self.dtype) - mean) / std

    def step(self, step: int) -> Tensor:
        """Takes a step; returns the student's logits at their own resolution, `(classes, height, width)`."""
        self.seen.clear()
        self.prediction = self.method(self.inputs(step)).argmax(dim=1)
        return self.learned().squeeze(0)

    def learned(self) -> Tensor:
        """The student's logits that the loss is of."""
        return self.seen[0]

    def internals(self, step: int) -> Iterator[Comparison]:
        """The map of classes, and the loss."""
        yield from self.same_classes("prediction", step, self.prediction)
        yield from self.compare("loss", step, self.method.record["loss"])

    def same_classes(self, quantity: str, step: int, ours: Tensor) -> Iterator[Comparison]:
        """Compares classes: equal in double precision; in single a pixel in a thousand may be a tie."""
        published = self.case.expected(quantity, self.dtype)
        if published is None:
            published = self.case.expected(quantity, torch.float32)
        if published is not None:
            theirs = np.asarray(published[step]).reshape(ours.shape)
            share = float((ours.numpy() != theirs).mean())
            yield Comparison(f"pixels of {quantity}", share, 0.0, 0.0 if self.dtype == torch.float64 else 1e-3)


class PixelTentFollower(PixelFollower):
    """Tent, by hard classes or by entropy."""

    name = "tent"
    translated = OPTIONS | {"loss"}

    def settings(self) -> dict[str, Any]:
        """All options; the release learns hard classes."""
        return self.common() | {"loss": self.case.hyper.get("loss", "hard_labels")}


class PixelCoTTAFollower(PixelFollower):
    """CoTTA, with the published restore."""

    name = "cotta"
    translated = OPTIONS | {"ema", "restore", "anchor_threshold"}

    def settings(self) -> dict[str, Any]:
        """All options."""
        hyper = self.case.hyper
        return self.common() | {
            "ema": hyper["ema"],
            "restore_probability": hyper["restore"],
            "anchor_threshold": hyper["anchor_threshold"],
        }

    def build(self) -> Method[Any]:
        """Replaces the random restore."""
        method = super().build()
        method.draw_restored = lambda probability: self.restored
        self.positions = self._published_positions(method.trainable_parameters())
        return method

    def step(self, step: int) -> Tensor:
        """Takes a step with the published restore."""
        drawn = self.case.trace["out/idx_restored"][step]
        found = self.positions[torch.from_numpy(drawn[drawn >= 0].astype(np.int64))]
        self.restored = found[found >= 0].sort().values
        return super().step(step)

    def internals(self, step: int) -> Iterator[Comparison]:
        """Also where the source is sure."""
        yield from super().internals(step)
        packed = self.case.trace.get("out/keeps_single")
        if packed is not None:
            shape = (len(self.case.trace["u8"]), *self.case.manifest["label_size"])
            keeps = np.unpackbits(packed)[: np.prod(shape)].reshape(shape)[step]
            allowed = 1e-9 if self.dtype == torch.float64 else 1e-3
            yield Comparison("share of sure pixels", self.method.record["anchor_share"], keeps.mean(), allowed)

    def _published_positions(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Position among our trained parameters of each number in the published order; -1 of an unused classifier."""
        numbers, start = {}, 0
        for name, parameter in parameters.items():
            numbers[name] = torch.arange(start, start + parameter.numel())
            start += parameter.numel()
        found = []
        for name in map(str, self.case.trace["extra/__restore_order__"]):
            published = self.case.trace[f"init/{name}"]
            ours = under_our_names({name: torch.empty(0)})
            if not ours:
                found.append(torch.full((published.size,), -1))
            else:
                found.append(numbers[next(iter(ours))])
        return torch.cat(found)


FOLLOWERS = {"segmentation cotta": PixelCoTTAFollower, "segmentation tent": PixelTentFollower}
