"""BECoTTA: puts adapters behind every block and trains them, with the gates that choose among them, by entropy.

Paper: Lee et al., ICML 2024; here its port to classification (mixed §2.7). Deviations from that port, none in the
preset `official`: the margin is a multiple of ln(classes), and a step without a reliable sample changes nothing.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn

from tta_core.device import scalar
from tta_core.methods.base import Diagnostics, Method
from tta_core.methods.becotta.layers import AdapterOptions, GateDraws, add_gated_adapters, repeating
from tta_core.methods.becotta.spec import BECoTTASettings
from tta_core.methods.common.experts import expert_usage
from tta_core.methods.common.losses import entropy_margin, softmax_entropy
from tta_core.methods.common.optim import make_optimizer
from tta_core.methods.common.selective import SelectiveForward
from tta_core.methods.common.teacher import random_positions, restore
from tta_core.methods.stateful import Stateful


class BECoTTA(Method[BECoTTASettings]):
    """One step per batch on the mean entropy of the reliable samples; scores the logits before the update.

    With `top_k` 1, as published, a chosen adapter weighs exactly 1 and the gates get no gradient: they stay as they
    were drawn, and which adapter serves a sample is a matter of chance. The default keeps it, for comparison.

    Attributes:
        adapters: by qualified name.
        draws: the noise of the gates and the domains of the samples.
    """

    def prepare(self) -> None:
        """Adds adapters and gates, and thaws them."""
        settings = self.settings
        options = AdapterOptions(**{field.name: getattr(settings, field.name) for field in fields(AdapterOptions)})
        self.draws = GateDraws(self.generator)
        self.adapters = add_gated_adapters(self.network, options, self.draws, self.generator)
        for adapter in self.adapters.values():
            adapter.requires_grad_(True)
        self.forward = SelectiveForward(self.network)
        self.margin = entropy_margin(settings.entropy_margin, settings.margin_classes or self.num_classes)

    def parts(self) -> dict[str, Stateful]:
        """What decides how the next batch is computed."""
        return {"forward": self.forward}

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """SGD or Adam, no weight decay."""
        return make_optimizer(self.settings, parameters)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` before the update.

        Waits for the device once: for which samples are reliable.
        """
        logits = self.forward(images)
        index = (softmax_entropy(logits.detach()) < self.margin).nonzero().squeeze(1)
        self.record = {"selected": scalar(len(index), images.device), "restored": scalar(0, images.device)}
        with repeating(self.adapters.values(), index):
            chosen = self.forward.selected(images, logits, index)
        for adapter in self.adapters.values():
            adapter.choice = None
        if len(index) > 0:
            loss = softmax_entropy(chosen).mean()
            self.descend(loss)
        elif self.settings.on_empty == "moments":
            loss = torch.zeros((), device=logits.device)
            for parameter in self.trainable_parameters().values():
                parameter.grad = torch.zeros_like(parameter)
            self.descend()
        else:
            return logits
        parameters = self.trainable_parameters()
        count = sum(parameter.numel() for parameter in parameters.values())
        positions = random_positions(count, self.settings.restore_probability, self.generator)
        self.record |= {"loss": loss.detach(), "restored": restore(parameters, self.source_parameters, positions)}
        return logits

    def activated_parameters(self) -> int:
        """The gate of one domain and `top_k` adapters of each block."""
        activated = 0
        for adapter in self.adapters.values():
            experts = sum(p.numel() for p in adapter.parameters()) - adapter.gate.numel()
            activated += adapter.gate[0].numel() + experts // self.settings.num_experts * self.settings.top_k
        return activated

    def diagnostics(self) -> Diagnostics:
        """`expert_usage`: mean weight of each adapter, by layer, since the last reset."""
        return expert_usage(self.adapters)
