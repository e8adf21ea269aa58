"""The policy that chooses how strongly to augment, trained by REINFORCE (moase §3, steps 2, 3 and 7)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

ACTIONS = 3
"""Strengths of geometry, colour and noise."""
HIDDEN = 32
INITIAL_STD = 0.5
SQUASH_EPSILON = 1e-6


class Decision(NamedTuple):
    """One choice of strengths.

    Attributes:
        strengths: `(3,)` in (0, 1), without gradient.
        log_probability: log density of the squashed sample, attached to the policy's graph.
        entropy: of the Gaussian before squashing, attached to the policy's graph.
    """

    strengths: Tensor
    log_probability: Tensor
    entropy: Tensor


class Policy(nn.Module):
    """Gaussian over three strengths, squashed to (0, 1); its mean depends on the student's confidence.

    Attributes:
        net, mean_head: from the mean entropy and the mean largest probability to the means.
        log_std: `(3,)`, learned, the same for all inputs.
        baseline: running mean of the reward, no dimensions; starts at 0.
    """

    baseline: Tensor

    def __init__(
        self, lr: float, baseline_momentum: float, generator: torch.Generator, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        first, second, self.mean_head = nn.Linear(2, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, ACTIONS)
        self.net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.log_std = nn.Parameter(torch.full((ACTIONS,), math.log(INITIAL_STD)))
        self.register_buffer("baseline", torch.zeros(()))
        for layer in (first, second, self.mean_head):
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
        self.to(device, dtype)
        self.baseline_momentum = baseline_momentum
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr, foreach=True)

    def decide(self, confidence: Tensor, noise: Tensor, *, detached: bool) -> Decision:
        """Chooses strengths.

        Args:
            confidence: `(2,)`: mean entropy (nat) and mean largest probability of a batch.
            noise: `(3,)`, standard normal.
            detached: whether the sample counts as a constant, as REINFORCE needs it. If not, as released, its own
                gradient cancels that of the density in the means, and only that of the squashing is left.
        """
        with torch.autocast(device_type=confidence.device.type, enabled=False):
            mean, std = self.mean_head(self.net(confidence)), self.log_std.exp()
        sample = mean + std * noise
        if detached:
            sample = sample.detach()
        squashed = sample.tanh()
        density = -0.5 * ((sample - mean) / std) ** 2 - self.log_std - 0.5 * math.log(2 * math.pi)
        log_probability = density.sum() - (1 - squashed**2 + SQUASH_EPSILON).log().sum()
        entropy = (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
        return Decision((0.5 * squashed + 0.5).detach(), log_probability, entropy)

    def learn(self, loss: Tensor, reward: Tensor) -> None:
        """One Adam step, then the baseline follows the reward (no dimensions, without gradient)."""
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.baseline.lerp_(reward, 1 - self.baseline_momentum)
