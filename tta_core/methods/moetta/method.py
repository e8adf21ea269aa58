"""MoETTA: gives each sample its own expert in every LayerNorm but the first ones, chosen by one router a layer.

Paper: MoETTA, AAAI 2026 (spec 1). Deviations from the release: margins use ln(classes) instead of ln(1000), the
threshold is the paper's running mean (`threshold_mode="official"` for the release's), an empty selection is explicit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tta_core.adapters.moe_norm import MoELayerNorm
from tta_core.errors import InputError
from tta_core.losses import entropy_margin, masked_mean, softmax_entropy
from tta_core.method import Diagnostics, Method
from tta_core.methods.moetta.spec import MoETTASettings, parse_indices
from tta_core.methods.moetta.threshold import OfficialThreshold, PaperThreshold
from tta_core.surgery import counted_norms, replace_modules

PUBLISHED_DISABLED_NORMS = {("VisionTransformer", 49): "0-14", ("ConvNeXt", 36): "0-3"}
"""(network class, number of counted norms) -> `disabled_norms` of the release; elsewhere only the first norm."""


class MoETTA(Method[MoETTASettings]):
    """One SGD step per batch on weighted entropy plus load balance; scores the logits before the update."""

    optimizer: torch.optim.SGD

    def prepare(self) -> None:
        """Replaces LayerNorms by `MoELayerNorm` and thaws experts and routers."""
        settings = self.settings
        replace_modules(self.network, self._norms_to_replace(), self._with_experts, "LayerNorm for moetta")
        self.layers = {name: m for name, m in self.network.named_modules() if isinstance(m, MoELayerNorm)}
        self.threshold = OfficialThreshold() if settings.threshold_mode == "official" else PaperThreshold()
        self.margin = entropy_margin(settings.entropy_margin, self.num_classes)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.SGD:
        """SGD with dense momentum: the momentum of an expert that no sample chose goes on moving it (spec 1.9)."""
        return torch.optim.SGD(parameters, lr=self.settings.lr, momentum=self.settings.momentum)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` before the update (spec 1.7)."""
        logits: Tensor = self.network(images)
        entropy = softmax_entropy(logits)
        threshold = self.threshold.update(entropy.detach().mean())
        selected = entropy.detach() <= threshold
        weight = torch.exp(self.margin - entropy.detach())
        coefficient = self.settings.lambda_balance * threshold
        balance = torch.stack([self._balance_loss(layer) for layer in self.layers.values()])
        # With nothing selected the entropy term is 0 and the load balance still acts.
        loss = masked_mean(weight * entropy, selected) + coefficient * balance.sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.record = {
            "loss": loss.detach(),
            "selected": selected.sum(),
            "threshold": threshold,
            "balance_coefficient": coefficient,
            "balance_loss": balance.detach().mean(),
            "effective_experts": effective_number(
                torch.stack([layer.selections for layer in self.layers.values() if layer.selections is not None])
            ).mean(),
        }
        return logits

    def extra_state(self) -> dict[str, Tensor]:
        """What the threshold remembers of the stream."""
        return self.threshold.state

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what the threshold remembers."""
        self.threshold.state = dict(state)

    def diagnostics(self) -> Diagnostics:
        """`expert_usage`: share of samples that each expert served, by layer, since the last reset."""
        return {
            "expert_usage": {
                name: (layer.usage / layer.usage.sum().clamp(min=1)).tolist() for name, layer in self.layers.items()
            }
        }

    def _norms_to_replace(self) -> list[str]:
        norms = counted_norms(self.network)
        text = self.settings.disabled_norms
        if text == "auto":
            text = PUBLISHED_DISABLED_NORMS.get((type(self.network).__name__, len(norms)), "0")
        disabled = parse_indices(text)
        outside = [index for index in disabled if index >= len(norms)]
        if outside:
            raise InputError(
                f"disabled_norms = {text!r} names norm {outside[0]}, but this network has norms 0 to {len(norms) - 1}"
            )
        return [name for index, (name, _) in enumerate(norms) if index not in disabled]

    def _with_experts(self, norm: nn.Module) -> MoELayerNorm:
        if not isinstance(norm, nn.LayerNorm) or norm.weight is None:
            raise InputError(
                f"moetta needs LayerNorm with an affine pair, and this network has {norm}: choose a backbone with "
                "LayerNorm (vision transformer, Swin, ConvNeXt), or disable that layer with disabled_norms"
            )
        return MoELayerNorm(norm, self.settings.num_experts, self.settings.top_k, self.generator)

    @staticmethod
    def _balance_loss(layer: MoELayerNorm) -> Tensor:
        assert layer.balance_loss is not None, "the network did not run this layer"
        # Taking it out of the layer lets the graph of this step go when the step ends.
        balance, layer.balance_loss = layer.balance_loss, None
        return balance


def effective_number(counts: Tensor) -> Tensor:
    """Exponential of the entropy of each row's shares: `(layers, experts)` -> `(layers,)`, from 1 to experts."""
    shares = counts / counts.sum(dim=-1, keepdim=True)
    return torch.special.entr(shares).sum(dim=-1).exp()
