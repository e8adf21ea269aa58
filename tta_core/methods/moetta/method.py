"""MoETTA: gives each sample its own expert in every LayerNorm but the first ones, chosen by one router a layer.

Paper: MoETTA, AAAI 2026 (moetta §1). Deviations from the release: margins use ln(classes) instead of ln(1000), the
threshold is the paper's running mean (`threshold_mode="official"` for the release's), an empty selection is explicit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tta_core.errors import InputError
from tta_core.methods.base import Diagnostics, Method
from tta_core.methods.common.experts import expert_usage
from tta_core.methods.common.losses import entropy_margin, masked_mean, softmax_entropy
from tta_core.methods.moetta.layers import install_experts, norm_roles
from tta_core.methods.moetta.router import Decision, Router, count_all, load_balance
from tta_core.methods.moetta.spec import MoETTASettings
from tta_core.methods.moetta.threshold import OfficialThreshold, PaperThreshold
from tta_core.methods.stateful import Stateful


class MoETTA(Method[MoETTASettings]):
    """One SGD step per batch on weighted entropy plus load balance; scores the logits before the update.

    Attributes:
        layers: the layers with experts, by name.
        routers: the routers by the name of the norm whose input each reads: one a layer, or one for all.
        threshold: the running mean entropy.
    """

    def prepare(self) -> None:
        """Replaces norms by layers with experts, and thaws experts, routers and the norms that are trained directly."""
        settings = self.settings
        roles = norm_roles(self.network, settings)
        for name in roles.normal:
            self.network.get_submodule(name).requires_grad_(True)
        self.layers, self.routers = install_experts(self.network, roles, settings, self.generator)
        self.threshold = OfficialThreshold() if settings.threshold_mode == "official" else PaperThreshold()
        self.margin = entropy_margin(settings.entropy_margin, self.num_classes)

    def parts(self) -> dict[str, Stateful]:
        """The threshold, which follows the stream."""
        return {"threshold": self.threshold}

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.SGD:
        """SGD with dense momentum: the momentum of an expert that no sample chose goes on moving it (moetta §1.9)."""
        return torch.optim.SGD(parameters, lr=self.settings.lr, momentum=self.settings.momentum)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` before the update (moetta §1.7)."""
        settings = self.settings
        logits: Tensor = self.network(images)
        entropy = softmax_entropy(logits)
        running_mean = self.threshold.update(entropy.detach().mean())
        threshold, selected = self._select(entropy.detach(), running_mean)
        weight = torch.exp(self.margin - entropy.detach()) if settings.weight_by_entropy else 1.0
        # With nothing selected the entropy term is 0 and the load balance still acts.
        loss = masked_mean(weight * entropy, selected)
        coefficient = settings.lambda_balance * (running_mean if settings.dynamic_balance else torch.ones_like(loss))
        balance, selections = self._balance(entropy.detach())
        loss = loss + coefficient * balance.sum()
        self.descend(loss)
        self.record = {
            "loss": loss.detach(),
            "selected": selected.sum(),
            "threshold": threshold,
            "balance_coefficient": coefficient.detach(),
            "balance_loss": balance.detach().mean(),
            "effective_experts": effective_number(selections).mean(),
        }
        return logits

    def _select(self, entropy: Tensor, running_mean: Tensor) -> tuple[Tensor, Tensor]:
        """The largest entropy that may enter the loss, and which samples `(batch,)` have no more."""
        settings, largest = self.settings, math.log(self.num_classes)
        if settings.select_samples and settings.dynamic_threshold:
            return running_mean, entropy <= running_mean
        if settings.select_samples and settings.fixed_threshold is not None:
            threshold = torch.full_like(running_mean, settings.fixed_threshold * largest)
            return threshold, entropy <= threshold
        return torch.full_like(running_mean, largest), torch.ones_like(entropy, dtype=torch.bool)

    def _balance(self, entropy: Tensor) -> tuple[Tensor, Tensor]:
        """The load-balancing loss of every router, `(routers,)`, and its samples per expert, `(routers, experts)`."""
        if not self.routers:
            return entropy.new_zeros(1), entropy.new_ones(1, 1)
        decisions = [self._decision(name, router) for name, router in self.routers.items()]
        probabilities = torch.stack([decision.probabilities for decision in decisions])
        selections = torch.stack([decision.chosen for decision in decisions]).sum(dim=1)
        count_all(list(self.routers.values()), selections)
        if self.settings.samplewise_routing or self.settings.balance_batch_routing:
            return load_balance(probabilities, selections), selections
        return torch.ones_like(selections[:, 0]), selections

    @staticmethod
    def _decision(name: str, router: Router) -> Decision:
        if router.decision is None:
            raise InputError(f"moetta: the network does not use its norm {name}: name it in disabled_norms")
        return router.take_decision()

    def activated_parameters(self) -> int:
        """All but the experts that a sample is not sent to."""
        idle = self.settings.num_experts - self.settings.top_k
        unused = sum(idle * (layer.weight.numel() + layer.bias.numel()) for layer in self.layers.values())
        return super().activated_parameters() - unused

    def diagnostics(self) -> Diagnostics:
        """`expert_usage`: share of samples that each expert served, by router, since the last reset."""
        return expert_usage(self.routers)


def effective_number(counts: Tensor) -> Tensor:
    """Exponential of the entropy of each row's shares: `(layers, experts)` -> `(layers,)`, from 1 to experts."""
    shares = counts / counts.sum(dim=-1, keepdim=True)
    return torch.special.entr(shares).sum(dim=-1).exp()
