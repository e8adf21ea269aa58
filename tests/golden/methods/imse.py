"""IMSE."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.golden.follower import Comparison, Follower
from tta_core.errors import InputError
from tta_core.methods.imse.method import IMSE
from tta_core.methods.imse.spec import COMPONENTS

ALL_COMPONENTS = 14
"""The `component_num` that selects all four kinds of layer."""

COUNTS = {"n_reliable": "reliable", "n_selected": "selected", "event_shift": "shift", "n_stored": "bank_size"}
VALUES = {
    "loss_first": "first_loss",
    "loss": "loss",
    "ce_loss": "entropy",
    "vm_loss": "diversity",
    "dss_value": "shift_distance",
}
"""Published name -> our scalar: whole numbers, which must agree exactly, and others."""


class IMSEFollower(Follower):
    """The release normalises inside its model and leaves out blocks 9 to 11 by name, as our preset `official` does."""

    name = "imse"
    translated = frozenset(
        {
            "lr", "optimizer", "rho", "norm_lr", "margin_e0", "margin_coeff", "component_num", "components",
            "vm_weight", "vm_num_blocks", "vm_ratio", "dynamic", "dynamic_mode", "dynamic_pool", "dss_threshold",
            "temperature", "load_optimizer_state", "num_seen_test_domains", "stream_domains",
        }
    )  # fmt: skip
    method: IMSE

    def settings(self) -> dict[str, Any]:
        """All options but `stream_domains`, which no method knows, and the source images that a bank starts from."""
        hyper = self.case.hyper
        margin = hyper.get("margin_e0", hyper.get("margin_coeff", 0.4) * math.log(self.case.num_classes))
        settings = {
            "rho": hyper.get("rho", 0.05) if self._one_of("optimizer", "SAM_Adam", "Adam") == "SAM_Adam" else 0.0,
            "entropy_margin": margin / math.log(self.case.num_classes),
            "components": self._components(),
            "retrieval": self._retrieval(),
            "source_images": self._source_images(),
        }
        renamed = {
            "norm_lr": "norm_lr",
            "lr": "lr",
            "vm_weight": "lambda_diversity",
            "vm_num_blocks": "diversity_blocks",
            "vm_ratio": "diversity_ratio",
            "dss_threshold": "shift_threshold",
            "temperature": "temperature",
            "load_optimizer_state": "optimizer_state",
            "num_seen_test_domains": "num_seen_domains",
        }
        return settings | {ours: hyper[published] for published, ours in renamed.items() if published in hyper}

    def initial(self) -> dict[str, Tensor]:
        """None: what the method adds to the network follows from the weights."""
        return {}

    def inputs(self, step: int) -> Tensor:
        """The batch, normalised in the precision of the run, as the published model does."""
        return self._normalised(self.case.trace["u8"][step])

    def internals(self, step: int) -> Iterator[Comparison]:
        """Counts, losses, the source's descriptor, what was retrieved, and singular values."""
        tolerance = self.case.tolerance("loss", self.dtype)
        for published, ours in COUNTS.items():
            yield from self._compare(published, step, self.method.record[ours], 0)
        for published, ours in VALUES.items():
            yield from self._compare(published, step, self.method.record[ours], tolerance)
        yield from self._bank(step, tolerance)
        first_two = [str(name) for name in self.case.trace["extra/__svd_layers__"][:2]]
        code = np.concatenate([self._singular_values(name).numpy() for name in first_two])
        yield from self._compare("s_first_two_layers", step, code, self.case.tolerance("logits", self.dtype))
        if step == len(self.case.batches) - 1 and self.dtype == torch.float32:
            for name, sigma in self.method.spectral_code().items():
                final = self.case.trace.get(f"final/{name}.svft_S")
                if final is not None:
                    yield Comparison(f"final {name}", sigma, final, self.case.tolerance("logits", self.dtype))

    def _singular_values(self, layer: str) -> Tensor:
        """Those of a layer as they are; of one that is not decomposed the source's."""
        code = self.method.spectral_code()
        if layer in code:
            return code[layer]
        weight = self.case.network(self.dtype).get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        return torch.linalg.svdvals(weight.detach())

    def _bank(self, step: int, tolerance: float) -> Iterator[Comparison]:
        bank, distances = self.method.bank, self.method.last_distances
        if bank is None:
            return
        if step == 0:
            for name, ours in zip(("mean", "var"), bank.descriptors, strict=True):
                # Stored in float32 in both precisions.
                yield Comparison(f"source_{name}", ours[0], self.case.trace[f"extra/source_{name}"], 1e-5)
        if bank.settings.retrieval in ("top1", "mix"):
            yield from self._compare("idx_retrieved", step, self.method.record["retrieved"], 0)
        if distances is not None:
            yield from self._compare("dss_to_stored", step, distances, tolerance)

    def _compare(self, name: str, step: int, ours: Any, tolerance: float) -> Iterator[Comparison]:
        """Compares where the release has a number: it has NaN for a loss without samples, and as padding."""
        expected = self.case.expected(name, self.dtype)
        if expected is None or (name == "n_stored" and self.method.bank is None):
            return
        values = np.atleast_1d(expected[step])
        found = np.atleast_1d(np.asarray(ours, np.float64))[: len(values)]
        padded = np.pad(found, (0, len(values) - len(found)), constant_values=np.nan)
        given = np.isfinite(values)
        yield Comparison(name, padded[given], values[given], tolerance)

    def _one_of(self, option: str, *allowed: Any) -> Any:
        """The value of an option, the first that is allowed if it is absent."""
        value = self.case.hyper.get(option, allowed[0])
        if value not in allowed:
            raise InputError(f"{option} = {value!r} has no translation; known are {', '.join(map(repr, allowed))}")
        return value

    def _components(self) -> tuple[str, ...]:
        listed = self.case.hyper.get("components")
        if listed is None:
            self._one_of("component_num", ALL_COMPONENTS)
            return COMPONENTS
        return tuple(listed)

    def _retrieval(self) -> str:
        mode = self._one_of("dynamic_mode", "top1_adapt", "mix_adapt", "mean_adapt", "continual_adapt")
        if self._one_of("dynamic", True, False):
            self._one_of("dynamic_pool", "dss")
            return str(mode).removesuffix("_adapt")
        return "none"

    def _source_images(self) -> list[Tensor] | None:
        stored = self.case.trace.get("extra/source_u8")
        return None if stored is None else [self._normalised(batch) for batch in stored]

    def _normalised(self, grid: NDArray[np.uint8]) -> Tensor:
        """Stored pixels as input of the bare network, with mean and deviation of 0.5."""
        return (self.case.pixels(grid, normalised=False).to(self.dtype) - 0.5) / 0.5


FOLLOWERS = {"imse": IMSEFollower}
