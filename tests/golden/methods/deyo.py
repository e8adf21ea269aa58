"""DeYO (its own repository, and MoETTA's)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.follower import Comparison, Follower
from tta_core.errors import InputError
from tta_core.methods.deyo.method import DeYO

DESTRUCTIONS = {"patch": "patch", "pixel": "pixel", "occ": "occlusion"}
"""Published name -> ours."""

FLAGS = {
    "filter_ent": "filter_entropy",
    "filter_plpd": "filter_plpd",
    "reweight_ent": "weight_by_entropy",
    "reweight_plpd": "weight_by_plpd",
}

PRESETS = {"deyo": "official", "deyo_moetta_repo": "moetta"}


class DeYOFollower(Follower):
    """SGD on the LayerNorms that the names choose; what is shuffled how comes from the trace."""

    name = "deyo"
    translated = frozenset(
        {
            "lr", "momentum", "steps", "deyo_margin", "deyo_margin_coeff", "margin_e0", "margin_e0_coeff",
            "plpd_threshold", "aug_type", "patch_len", "occlusion", *FLAGS,
        }
    )  # fmt: skip
    method: DeYO

    def settings(self) -> dict[str, Any]:
        """All options; the occlusion window is in pixels of the case's own images."""
        hyper, largest = self.case.hyper, math.log(self.case.num_classes)
        if hyper.get("steps", 1) != 1:
            raise InputError(f"{hyper['steps']} steps a batch are not implemented: 1 is what is published")
        if hyper.get("aug_type", "patch") not in DESTRUCTIONS:
            raise InputError(f"aug_type {hyper['aug_type']!r} has no translation; known are {', '.join(DESTRUCTIONS)}")
        settings: dict[str, Any] = {"preset": PRESETS[self.case.manifest["method"]]}
        for ours, published in (("entropy_margin", "deyo_margin"), ("weight_margin", "margin_e0")):
            if published in hyper:
                settings[ours] = hyper[published] / largest
            elif f"{published}_coeff" in hyper:
                settings[ours] = hyper[f"{published}_coeff"]
        renamed = {"lr": "lr", "momentum": "momentum", "plpd_threshold": "plpd_margin", "patch_len": "patch_len"}
        settings |= {ours: hyper[published] for published, ours in renamed.items() if published in hyper}
        settings |= {ours: self._flag(published) for published, ours in FLAGS.items() if published in hyper}
        settings["destruction"] = DESTRUCTIONS[hyper.get("aug_type", "patch")]
        if "occlusion" in hyper:
            window = hyper["occlusion"]
            settings |= {
                "occlusion_size": window["size"],
                "occlusion_row": window["row"],
                "occlusion_column": window["col"],
                "occlusion_scaled": False,
            }
        return settings

    def initial(self) -> dict[str, Tensor]:
        """None: nothing is added to the network."""
        return {}

    def step(self, step: int) -> Tensor:
        """Takes a step with the published shuffling."""

        def draw_order(samples: int, pixels: int) -> Tensor:
            stored = self.case.trace.get("out/idx_perm")
            if stored is None or stored.size == 0:
                return self._drawn_by_seed(step, samples, pixels)
            order = stored[step]
            reliable = order if order.ndim == 1 else order[order[:, 0] >= 0]
            return torch.from_numpy(reliable.astype(np.int64))

        setattr(self.method, "draw_order", draw_order)  # noqa: B010 - an assignment to a method
        return super().step(step)

    def internals(self, step: int) -> Iterator[Comparison]:
        """What is trained, both filters, the differences, the logits of the destroyed images, and the loss."""
        record, judged = self.method.record, self.method.last_selection
        assert judged is not None, "a step was taken"
        if step == 0 and "extra/__adapted_names__" in self.case.trace:
            published = set(self.case.trace["extra/__adapted_names__"].tolist())
            yield Comparison("adapted", len(published ^ set(self.method.trainable_parameters())), 0, 0)
        yield from self.compare_where_given("n_selected", step, record["selected"], 0)
        yield from self.compare_where_given("n_reliable", step, record["reliable"], 0)
        samples = len(self.case.batches[step])
        for name, index in (("mask_reliable", judged.reliable), ("mask_selected", judged.selected)):
            yield from self.compare_where_given(name, step, torch.isin(torch.arange(samples), index), 0)
        tolerance = self.case.tolerance("logits", self.dtype)
        for name, values in (("plpd", judged.plpd), ("aug_logits", judged.destroyed_logits)):
            everywhere = values.new_full((samples, *values.shape[1:]), math.nan)
            everywhere[judged.reliable] = values
            yield from self.compare_where_given(name, step, everywhere, tolerance)
        loss = record.get("loss", torch.tensor(math.nan))
        yield from self.compare_where_given("loss", step, loss, self.case.tolerance("loss", self.dtype))

    def _drawn_by_seed(self, step: int, samples: int, pixels: int) -> Tensor:
        """Draws as the manifest says the release did: `torch.manual_seed(A+B+t)` before step t."""
        rule = str(self.case.manifest.get("hyper_words", {}).get("rng", ""))
        found = re.search(r"manual_seed\((\d+)\+(\d+)\+t\)", rule)
        if found is None:
            raise InputError("the case has neither out/idx_perm nor a rule for its seeds in hyper_words")
        generator = torch.Generator().manual_seed(int(found[1]) + int(found[2]) + step)
        if self.method.settings.destruction == "pixel":
            return torch.randperm(pixels, generator=generator)
        tiles = self.method.settings.patch_len**2
        return torch.rand(samples, tiles, generator=generator, dtype=torch.float32).argsort(dim=-1)

    def _flag(self, published: str) -> bool:
        value = self.case.hyper[published]
        if value not in (0, 1):
            raise InputError(f"{published} = {value!r} has no translation: 0 and 1 are what is published")
        return bool(value)


FOLLOWERS = {"deyo": DeYOFollower, "deyo_moetta_repo": DeYOFollower}
