"""MoASE++: MoASE's experts and teacher, and distillation on views whose augmentation a policy learns to choose.

Paper: MoASE++, arXiv 2605.17743 (moase §3, which is made from the release). Deviations from the release, not in
`official`: those of MoASE, the policy's gradient is the score function's, and a batch may have several views.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tta_core.device import scalar, upload
from tta_core.methods.common.augmentation import augment
from tta_core.methods.common.losses import soft_cross_entropy, widened
from tta_core.methods.moase.student import SparseStudent
from tta_core.methods.moasepp.policy import ACTIONS, Decision, Policy
from tta_core.methods.moasepp.spec import MoASEppSettings
from tta_core.methods.stateful import Stateful

LOG_EPSILON = 1e-8


class MoASEpp(SparseStudent[MoASEppSettings]):
    """One student and one policy step per batch; scores the teacher's logits of the clean images.

    A reset takes the policy, its optimizer and its baseline back to their start too; the release keeps them.

    Attributes:
        policy: chooses how strongly views are augmented.
    """

    def begin(self) -> None:
        """Makes the teacher and the policy."""
        super().begin()
        settings, like = self.settings, next(self.network.parameters())
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.policy = Policy(settings.policy_lr, settings.baseline_momentum, self.generator, like.device, dtype)
        self.mean = torch.tensor(self.context.mean, device=like.device).view(-1, 1, 1)
        self.std = torch.tensor(self.context.std, device=like.device).view(-1, 1, 1)

    def parts(self) -> dict[str, Stateful]:
        """The policy with its baseline, and its optimizer."""
        return {"policy": self.policy, "policy_optimizer": self.policy.optimizer}

    def step(self, images: Tensor) -> Tensor:
        """Returns the teacher's logits `(batch, classes)` before the update (moase §3)."""
        target = self.teacher(images)
        logits = self.network(images)
        teacher_loss = soft_cross_entropy(logits, target).mean()
        self.backward(teacher_loss)
        seen = confidence(logits.detach())
        with self._unobserved():
            outcomes = [self._distil_view(images, seen) for _ in range(self.settings.views)]
        restored = self.update(None, self.settings.ema, self.settings.restore_probability)
        decisions, distillations, rewards = zip(*outcomes, strict=True)
        distillation_loss, reward = torch.stack(distillations).mean(), torch.stack(rewards)
        policy_loss = self._policy_loss(decisions, reward)
        self.policy.learn(policy_loss, reward.mean())
        strengths = torch.stack([decision.strengths for decision in decisions]).mean(dim=0)
        self.record = {
            "loss": teacher_loss.detach() + self.settings.opd_weight * distillation_loss,
            "selected": scalar(len(images), images.device),
            "teacher_loss": teacher_loss.detach(),
            "restored": restored,
            "distillation_loss": distillation_loss,
            "policy_loss": policy_loss.detach(),
            "policy_entropy": decisions[0].entropy.detach(),
            "log_probability": torch.stack([decision.log_probability for decision in decisions]).mean().detach(),
            "baseline": self.policy.baseline.clone(),
            "geometry_strength": strengths[0],
            "colour_strength": strengths[1],
            "noise_strength": strengths[2],
        }
        return target

    def augment(self, images: Tensor, strengths: Tensor) -> Tensor:
        """Augments normalised images `(batch, 3, height, width)` with strengths `(3,)` of geometry, colour, noise."""
        mean, std = self.mean.to(images.dtype), self.std.to(images.dtype)
        return (augment(images * std + mean, strengths, self.generator) - mean) / std

    def draw_noise(self) -> Tensor:
        """The policy's noise, standard normal `(3,)`, on the CPU."""
        return torch.randn(ACTIONS, generator=self.generator)

    def _distil_view(self, images: Tensor, seen: Tensor) -> tuple[Decision, Tensor, Tensor]:
        """Adds one view's gradient to the student's; returns the decision, its loss and its reward."""
        settings = self.settings
        noise = upload(self.draw_noise().to(seen.dtype), seen.device)
        decision = self.policy.decide(seen, noise, detached=settings.policy_gradient == "score")
        with torch.no_grad():
            view = self.augment(images, decision.strengths)
        loss = reverse_divergence(self.network(view), self.teacher(view), settings.opd_temperature).mean()
        self.backward(settings.opd_weight / settings.views * loss)
        loss = loss.detach()
        return decision, loss, -loss - settings.strength_penalty * decision.strengths.square().mean()

    def _policy_loss(self, decisions: tuple[Decision, ...], reward: Tensor) -> Tensor:
        """REINFORCE with a baseline and a bonus for entropy, mean over views (moase §3, step 7)."""
        log_probability = torch.stack([decision.log_probability for decision in decisions])
        entropy = torch.stack([decision.entropy for decision in decisions])
        advantage = (reward - self.policy.baseline).to(log_probability.dtype)
        return (-advantage * log_probability - self.settings.entropy_weight * entropy).mean()

    @contextmanager
    def _unobserved(self) -> Iterator[None]:
        """What the experts show stays that of the clean images."""
        for adapter in self.adapters.values():
            adapter.observed = False
        try:
            yield
        finally:
            for adapter in self.adapters.values():
                adapter.observed = True


def confidence(logits: Tensor) -> Tensor:
    """Mean entropy (nat) and mean largest probability of a batch `(batch, classes)`, `(2,)` (moase §3, step 2)."""
    probabilities = widened(logits).softmax(dim=-1)
    entropy = -(probabilities * (probabilities + LOG_EPSILON).log()).sum(dim=-1)
    return torch.stack([entropy.mean(), probabilities.amax(dim=-1).mean()])


def reverse_divergence(logits: Tensor, target_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(student || teacher) at temperature T in nat: `(batch, classes)` twice -> `(batch,)` (moase §3, step 5)."""
    log_student = (widened(logits) / temperature).log_softmax(dim=-1)
    log_teacher = (widened(target_logits) / temperature).log_softmax(dim=-1)
    return temperature**2 * (log_student.exp() * (log_student - log_teacher)).sum(dim=-1)
