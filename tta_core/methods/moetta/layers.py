"""Which normalisation layers of a network MoETTA adapts, and how (moetta §1.2 and §1.12)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from timm.layers import LayerNorm2d, LayerNorm2dFp32, LayerNormAct2d, LayerNormAct2dFp32
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tta_core.errors import InputError
from tta_core.methods.common.surgery import NORM_TYPES, replace_modules
from tta_core.methods.moetta.moe_norm import MoEBatchNorm2d, MoEGroupNorm, MoELayerNorm
from tta_core.methods.moetta.router import Router, RoutesBefore, RoutingRules, SharedRouter
from tta_core.methods.moetta.spec import MoETTASettings, parse_indices

PUBLISHED_DISABLED_NORMS = {("VisionTransformer", 49): "0-14", ("ConvNeXt", 36): "0-3"}
"""(network class, number of counted norms) -> `disabled_norms` of the release; elsewhere only the first norm."""

GLOBAL_ROUTER = "global_router"
"""Name of the module that is added to the network for a router that serves all layers."""


EXPERT_BASES = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.SyncBatchNorm)
"""The norms that experts can be added to: each sample is one entry of the first axis."""

CHANNELS_FIRST_LAYER_NORMS = (LayerNorm2d, LayerNorm2dFp32, LayerNormAct2d, LayerNormAct2dFp32)


class NormRoles(NamedTuple):
    """Qualified names of the norms by what becomes of them; all others stay as they are.

    Attributes:
        experts: get experts.
        normal: their own affine pair is trained.
        routing: the global router reads the input of this one; None where each layer has its own router.
    """

    experts: list[str]
    normal: list[str]
    routing: str | None


def counted_norms(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The normalisation layers that MoETTA counts: all but channels-first `LayerNorm2d`, which takes no number.

    The position in the list is the index that `disabled_norms` speaks of (moetta §1.2).
    """
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, NORM_TYPES) and not isinstance(module, CHANNELS_FIRST_LAYER_NORMS)
    ]


def norm_roles(network: nn.Module, settings: MoETTASettings) -> NormRoles:
    """Gives every counted norm of a network its role.

    Raises:
        InputError: if the settings name norms that the network does not have or that cannot take their role, or leave
            nothing to train.
    """
    norms = counted_norms(network)
    if not norms:
        raise InputError(
            f"moetta adapts normalisation layers, and {type(network).__name__} has none: choose a backbone with "
            "LayerNorm, GroupNorm or BatchNorm2d"
        )
    auto = PUBLISHED_DISABLED_NORMS.get((type(network).__name__, len(norms)), "0")
    given = auto if settings.disabled_norms == "auto" else settings.disabled_norms
    untouched = _numbers("disabled_norms", given, len(norms))
    if settings.router == "global":
        (routing,) = _numbers("global_router_norm", str(settings.global_router_norm), len(norms))
        untouched |= set(range(routing))
    adapted = set(range(len(norms))) - untouched
    everything = settings.normal_norms == "rest"
    normal = adapted if everything else _numbers("normal_norms", settings.normal_norms, len(norms))
    if not adapted:
        raise InputError(
            f"disabled_norms = {given!r} and what comes before a global router are all of the norms 0 to "
            f"{len(norms) - 1}: leave one to adapt"
        )
    if normal & untouched:
        raise InputError(
            f"normal_norms = {settings.normal_norms!r} names norm {min(normal & untouched)}, which is in "
            f"disabled_norms = {given!r} or comes before the global router: a norm has one role"
        )
    for number in adapted:
        _check_base(*norms[number], number)
    experts = adapted - normal
    return NormRoles(
        experts=[norms[number][0] for number in sorted(experts)],
        normal=[norms[number][0] for number in sorted(normal)],
        routing=norms[settings.global_router_norm][0] if settings.router == "global" and experts else None,
    )


def install_experts(
    network: nn.Module, roles: NormRoles, settings: MoETTASettings, generator: torch.Generator
) -> tuple[dict[str, MoELayerNorm], dict[str, Router]]:
    """Replaces norms by layers with experts, in place.

    Returns:
        The layers by name, and the routers by the name of the norm whose input each reads.
    """
    rules = RoutingRules(
        num_experts=settings.num_experts,
        top_k=settings.top_k,
        samplewise=settings.samplewise_routing,
        weight_by_probability=settings.weight_by_probability,
        detach_coefficients=settings.detach_coefficients,
        penalty=settings.route_penalty,
        penalty_decay=settings.route_penalty_decay,
    )
    shared: Router | None = None
    if roles.routing is not None:
        shared = _router(network.get_submodule(roles.routing), rules, generator, uniform=True)

    def with_experts(norm: nn.Module) -> MoELayerNorm:
        assert isinstance(norm, EXPERT_BASES), "roles were given to these types only"
        router = _router(norm, rules, generator) if shared is None else SharedRouter(shared)
        return _layer_class(norm)(
            norm,
            router,
            generator,
            expert_init_ratio=settings.expert_init_ratio,
            train_shared=settings.train_shared_expert,
        )

    if roles.experts:
        replace_modules(network, roles.experts, with_experts, "norm for moetta")
    layers = {name: module for name, module in network.named_modules() if isinstance(module, MoELayerNorm)}
    if shared is None or roles.routing is None:
        return layers, {name: layer.router for name, layer in layers.items() if isinstance(layer.router, Router)}
    network.add_module(GLOBAL_ROUTER, shared)
    read = network.get_submodule(roles.routing)
    read.register_forward_pre_hook(RoutesBefore(shared, _channel_axis(read)))
    return layers, {roles.routing: shared}


def _router(norm: nn.Module, rules: RoutingRules, generator: torch.Generator, *, uniform: bool = False) -> Router:
    weight = norm.weight
    assert isinstance(weight, Tensor), "the roles were given to norms with an affine pair"
    # Half-precision networks keep their routers in float32.
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return Router(weight.numel(), rules, generator, uniform=uniform, device=weight.device, dtype=dtype)


def _channel_axis(norm: nn.Module) -> int:
    if isinstance(norm, MoELayerNorm):
        return norm.channel_axis
    return -1 if isinstance(norm, nn.LayerNorm) else 1


def _layer_class(norm: nn.Module) -> type[MoELayerNorm]:
    if isinstance(norm, nn.GroupNorm):
        return MoEGroupNorm
    return MoEBatchNorm2d if isinstance(norm, _BatchNorm) else MoELayerNorm


def _check_base(name: str, norm: nn.Module, number: int) -> None:
    weight = getattr(norm, "weight", None)
    if weight is None or weight.ndim != 1 or not isinstance(norm, EXPERT_BASES):
        raise InputError(
            "moetta needs LayerNorm, GroupNorm or BatchNorm2d with one affine pair over the channels, and norm "
            f"{number} of this network, {name}, is {norm}: name it in disabled_norms"
        )


def _numbers(setting: str, text: str, count: int) -> set[int]:
    """The norms that a setting names, of a network with `count` of them."""
    numbers = set(parse_indices(text))
    outside = [number for number in numbers if number >= count]
    if outside:
        raise InputError(
            f"{setting} = {text!r} names norm {min(outside)}, but this network has norms 0 to {count - 1}: give one of "
            "those"
        )
    return numbers
