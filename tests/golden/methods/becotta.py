"""BECoTTA (MoETTA repository)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.follower import Comparison, Follower
from tta_core.errors import InputError
from tta_core.methods.base import Method
from tta_core.methods.becotta.layers import GatedAdapters
from tta_core.methods.becotta.method import BECoTTA

NOISE_GRID = 32
"""The stored noise is in units of 1/32."""

GATE_TOLERANCE = 0.1
"""Of the gates' final weights with several adapters a sample, in learning rates a step: Adam amplifies rounding there
(manifest, `fragile`)."""


class BECoTTAFollower(Follower):
    """Takes the published noise and domains. The published experts are single layers, ours one tensor a block.

    Attributes:
        chosen: adapters of each block in the step just taken, `(blocks, batch, top_k)`.
    """

    name = "becotta"
    translated = frozenset(
        {
            "lr", "optimizer", "betas", "expert_num", "hidden_dim", "topk", "domain_num", "entropy_margin", "thr_coeff",
        }
    )  # fmt: skip
    method: BECoTTA

    def settings(self) -> dict[str, Any]:
        """All options; `entropy_margin` is `thr_coeff` in nat."""
        hyper = self.case.hyper
        kind, betas = self._optimizer()
        return {
            "lr": hyper["lr"],
            "optimizer": kind,
            "betas": betas,
            "num_experts": hyper["expert_num"],
            "rank": hyper["hidden_dim"],
            "top_k": hyper["topk"],
            "num_domains": hyper["domain_num"],
            "entropy_margin": hyper.get("thr_coeff", hyper["entropy_margin"] / np.log(1000)),
        }

    def _optimizer(self) -> tuple[str, tuple[float, float]]:
        """Adam or SGD, and the betas of Adam that are written behind it."""
        hyper = self.case.hyper
        given = str(hyper.get("optimizer", "Adam"))
        kind = given.split()[0].lower() if given.split() else ""
        if kind not in ("adam", "sgd"):
            raise InputError(f"optimizer = {given!r} has no translation; known are Adam and SGD")
        written = re.search(r"betas\s*\(([\d.]+),\s*([\d.]+)\)", given)
        betas = tuple(hyper.get("betas", written.groups() if written else (0.9, 0.999)))
        return kind, (float(betas[0]), float(betas[1]))

    def initial(self) -> dict[str, Tensor]:
        """The published layers of each block, one behind the other."""
        return self._stacked("extra/", self.dtype)

    def _stacked(self, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
        given, hyper, found = self.case.tensors(prefix, dtype), self.case.hyper, {}
        blocks = sorted({name.split(".f_gate.")[0] for name in given if ".f_gate." in name})
        for block in blocks:
            experts = [f"{block}.adapter_experts.{number}" for number in range(hyper["expert_num"])]
            gates = [given[f"{block}.f_gate.{number}.0.weight"] for number in range(hyper["domain_num"])]
            found |= {
                f"{block}.adapters.gate": torch.stack(gates),
                f"{block}.adapters.down_weight": torch.stack([given[f"{name}.fc1.weight"] for name in experts]),
                f"{block}.adapters.down_bias": torch.stack([given[f"{name}.fc1.bias"] for name in experts]),
                f"{block}.adapters.up_weight": torch.stack([given[f"{name}.fc2.weight"].T for name in experts]),
                f"{block}.adapters.up_bias": torch.stack([given[f"{name}.fc2.bias"] for name in experts]),
            }
        return found

    def build(self) -> Method[Any]:
        """Replaces what the gates draw."""
        method = super().build()
        assert isinstance(method, BECoTTA), "the registry names this class"
        self.number = 0
        self.chosen: dict[int, Tensor] = {}
        noise, domains = self.case.trace["out/noise_q"], self.case.trace["out/idx_task"]
        method.draws.noise = lambda block, like: (torch.from_numpy(noise[self.number, block]) / NOISE_GRID).to(like)
        method.draws.domains = lambda block, *_: torch.from_numpy(domains[self.number, block].astype(np.int64))
        for adapter in method.adapters.values():
            adapter.register_forward_hook(self._watch)
        return method

    def _watch(self, adapter: GatedAdapters, _inputs: Any, _output: Any) -> None:
        if adapter.again is None:
            assert adapter.choice is not None, "it has just chosen"
            self.chosen[adapter.block] = adapter.choice.experts

    def step(self, step: int) -> Tensor:
        """Takes one step with the published noise."""
        self.number = step
        self.logits = super().step(step)
        return self.logits

    def internals(self, step: int) -> Iterator[Comparison]:
        """Adapters, entropies, selection, loss; after the last step the adapters' weights."""
        entropy = torch.distributions.Categorical(logits=self.logits).entropy()
        chosen = torch.stack([self.chosen[block] for block in sorted(self.chosen)]).sort().values
        yield from self._compare("topk", chosen, step, exact=True)
        yield from self._compare("entropy", entropy, step)
        yield from self._compare("mask_selected", entropy < self.method.margin, step, exact=True)
        yield from self._compare("n_selected", self.method.record["selected"], step, exact=True)
        if self.method.record["selected"] > 0:
            yield from self._compare("loss", self.method.record["loss"], step)
        if step == len(self.case.batches) - 1 and self.dtype == torch.float32:
            yield from self._final()

    def _compare(self, quantity: str, ours: Tensor, step: int, *, exact: bool = False) -> Iterator[Comparison]:
        """Compares with the run in this precision, or in float32, whose decisions are the same."""
        published, dtype = self.case.expected(quantity, self.dtype), self.dtype
        if published is None:
            published, dtype = self.case.expected(quantity, torch.float32), torch.float32
        if published is not None:
            values = np.sort(published[step]) if quantity == "topk" else published[step]
            yield Comparison(quantity, ours.detach(), values, 0 if exact else self.case.tolerance("loss", dtype))

    def _final(self) -> Iterator[Comparison]:
        hyper, parameters = self.case.hyper, self.method.trainable_parameters()
        for name, published in self._stacked("final/", torch.float32).items():
            tolerance = self.case.tolerance("logits", torch.float32)
            if hyper["topk"] > 1:
                tolerance = GATE_TOLERANCE * hyper["lr"] * len(self.case.batches)
            yield Comparison(f"final {name}", parameters[name].detach(), published, tolerance)


FOLLOWERS = {"becotta": BECoTTAFollower}
