"""MoASE and MoASE++."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tests.golden.follower import Comparison
from tests.golden.restoring import RestoringFollower
from tta_core.errors import InputError
from tta_core.methods.base import Method
from tta_core.methods.moase.sparsity import SparseExperts

ROUTERS = {"router_2.0": "router", "router.0": "gate"}
"""Published name -> ours, of the linear layers that all experts of a block share."""
EXPERT_TENSORS = {
    "down_proj.weight": "down_weight",
    "down_proj.bias": "down_bias",
    "up_proj.weight": "up_weight",
    "up_proj.bias": "up_bias",
}
"""Published name -> ours, of the tensors that each expert has."""
STUDENT_TOLERANCE = 2e-3
"""At least this: in float32 single activations tie and flip, which the student's logits and losses show."""


class MoASEFollower(RestoringFollower):
    """Takes the published restore masks and the changed start of the teacher; watches the experts."""

    name = "moase"
    translated = frozenset(
        {
            "lr", "optimizer", "betas", "momentum", "nesterov", "ema", "restore_probability", "num_experts",
            "bottleneck", "adapter_scale", "teacher_adapter_scale",
        }
    )  # fmt: skip

    @property
    def student_tolerance(self) -> float:
        """Ten times what separates the published float32 run from the float64 run, as for the logits."""
        divergence = self.case.manifest["float32_vs_float64"] or {}
        return max(STUDENT_TOLERANCE, 10 * divergence.get("student_logits_max_abs_all", 0))

    def published_view(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """The part of our tensors that holds the published tensor of that name, in its layout."""
        layer, adapter, rest = name.partition(".adapter.")
        if not adapter:
            return tensors[name]
        if rest.startswith("adaptmlp."):
            _, expert, tensor = rest.split(".", 2)
            view = tensors[f"{layer}.adapter.{EXPERT_TENSORS[tensor]}"][int(expert)]
            return view.T if tensor == "up_proj.weight" else view
        router, _, tensor = rest.rpartition(".")
        return tensors[f"{layer}.adapter.{ROUTERS[router]}.{tensor}"]

    def settings(self) -> dict[str, Any]:
        """Options that keep their names, and the published kinds of optimizer."""
        hyper = self.case.hyper
        if hyper["optimizer"] not in ("adam", "sgd") or (hyper["optimizer"] == "sgd" and not hyper["nesterov"]):
            raise InputError(
                f"optimizer {hyper['optimizer']!r} with nesterov = {hyper['nesterov']} is not implemented: adam, and "
                "sgd with nesterov = true, are"
            )
        kept = ("lr", "optimizer", "momentum", "ema", "restore_probability", "num_experts", "bottleneck")
        return {name: hyper[name] for name in (*kept, "adapter_scale")} | {"betas": tuple(hyper["betas"])}

    def initial(self) -> dict[str, Tensor]:
        """The published adapters, with the tensors of their experts stacked."""
        published = {name: t for name, t in self.case.tensors("extra/", self.dtype).items() if ".adapter." in name}
        ours: dict[str, Tensor] = {}
        for layer in sorted({name.partition(".adapter.")[0] for name in published}):
            for theirs, name in ROUTERS.items():
                for tensor in ("weight", "bias"):
                    ours[f"{layer}.adapter.{name}.{tensor}"] = published[f"{layer}.adapter.{theirs}.{tensor}"]
            for theirs, name in EXPERT_TENSORS.items():
                experts = [
                    published[f"{layer}.adapter.adaptmlp.{expert}.{theirs}"]
                    for expert in range(self.case.hyper["num_experts"])
                ]
                stacked = torch.stack(experts)
                ours[f"{layer}.adapter.{name}"] = stacked.mT if name == "up_weight" else stacked
        return ours

    def build(self) -> Method[Any]:
        """Scales the teacher's adapters and watches the student's."""
        method = super().build()
        with torch.no_grad():
            for name, parameter in method.teacher.parameters.items():
                if "adapter" in name:
                    parameter.mul_(self.case.hyper["teacher_adapter_scale"])
        self.keep_ratios: dict[str, list[Tensor]] = {name: [] for name in method.adapters}
        self.gates: dict[str, list[Tensor]] = {name: [] for name in method.adapters}
        for name, adapter in method.adapters.items():
            adapter.register_forward_hook(self._watch(name))
        return method

    def step(self, step: int) -> Tensor:
        """Takes one step and forgets what was seen in the last."""
        for watched in (*self.keep_ratios.values(), *self.gates.values()):
            watched.clear()
        return super().step(step)

    def internals(self, step: int) -> Iterator[Comparison]:
        """Losses, student, number of kept activations, gate, number of restored values."""
        record, width = self.method.record, self.case.hyper["bottleneck"]
        yield from self.compare("loss", step, self.loss(), self.student_tolerance)
        yield from self.compare("student_logits", step, self.student_logits[0], self.student_tolerance)
        ratios = torch.cat([watched[0] for watched in self.keep_ratios.values()])
        yield from self.compare("count_active", step, (width * ratios).long(), 0)
        yield from self.compare("router_mean", step, torch.cat([watched[0] for watched in self.gates.values()]))
        yield from self.compare("n_restored", step, record["restored"], 0)

    def loss(self) -> Tensor:
        """What was published as the loss."""
        return self.method.record["loss"]

    def _watch(self, name: str) -> Any:
        def hook(adapter: SparseExperts, _inputs: Any, _output: Any) -> None:
            self.keep_ratios[name].append(adapter.keep_ratio)
            self.gates[name].append(adapter.gate_mean)

        return hook


POLICY_TENSORS = {"log_std": "logstd", "mean_head.weight": "mu_head.weight", "mean_head.bias": "mu_head.bias"}
"""Our name -> the published one, of the policy's tensors that are called differently."""


class MoASEppFollower(MoASEFollower):
    """Takes the published policy, its noise, and the published augmentation."""

    name = "moasepp"
    translated = MoASEFollower.translated | {
        "opd_weight", "opd_temp", "views", "policy_lr", "policy_beta", "policy_lambda", "baseline_momentum",
    }  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """The options of MoASE and those of the distillation."""
        hyper = self.case.hyper
        if hyper["views"] != 1:
            raise InputError(f"{hyper['views']} views are not what is published: the release always takes 1")
        return super().settings() | {
            "opd_weight": hyper["opd_weight"],
            "opd_temperature": hyper["opd_temp"],
            "policy_lr": hyper["policy_lr"],
            "entropy_weight": hyper["policy_beta"],
            "strength_penalty": hyper["policy_lambda"],
            "baseline_momentum": hyper["baseline_momentum"],
        }

    def build(self) -> Method[Any]:
        """Replaces the policy's initial values and what it draws."""
        method = super().build()
        published = self.case.tensors("extra/policy.", self.dtype)
        with torch.no_grad():
            for name, parameter in method.policy.named_parameters():
                parameter.copy_(published[POLICY_TENSORS.get(name, name)])
        noise = self.case.tensors("extra/", self.dtype)["policy_eps"]
        method.draw_noise = lambda: noise[self.number]
        method.augment = self._augment
        return method

    def step(self, step: int) -> Tensor:
        """Takes one step with the published noise."""
        self.number = step
        return super().step(step)

    def internals(self, step: int) -> Iterator[Comparison]:
        """Those of MoASE, and what the policy saw, chose and learned."""
        yield from super().internals(step)
        record = self.method.record
        strengths = [record[f"{kind}_strength"] for kind in ("geometry", "colour", "noise")]
        yield from self.compare("action", step, torch.stack(strengths))
        yield from self.compare("logp", step, record["log_probability"])
        yield from self.compare("policy_entropy", step, record["policy_entropy"])
        yield from self.compare("loss_opd", step, record["distillation_loss"], self.student_tolerance)
        yield from self.compare("loss_policy", step, record["policy_loss"], self.student_tolerance)
        yield from self.compare("baseline", step, record["baseline"], self.student_tolerance)
        yield from self.compare("student_aug_logits", step, self.student_logits[1], self.student_tolerance)

    def loss(self) -> Tensor:
        """The published loss is the one on the clean images."""
        return self.method.record["teacher_loss"]

    def _augment(self, images: Tensor, strengths: Tensor) -> Tensor:
        stored = self.case.trace.get("out/x_aug")
        if stored is not None:
            return torch.from_numpy(stored[self.number]).to(images.dtype)
        geometry, colour, noise = strengths
        changed = (images - 0.5) * (0.6 + 0.8 * colour) + 0.5 + 0.2 * (noise - 0.5)
        return (changed + 0.1 * (geometry - 0.5) * images.flip(-1)).clamp(0, 1)


FOLLOWERS = {"moase": MoASEFollower, "moasepp": MoASEppFollower}
