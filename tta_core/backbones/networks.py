"""Builds the network of a backbone and loads its weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from tta_core.backbones.classifier import find_classifier
from tta_core.backbones.embedded.network import WEIGHTS_FOLDER, build_digits_network
from tta_core.backbones.embedded.scenes import SCENES, build_scenes_network
from tta_core.backbones.own_weights import OwnWeights, check_sha256, unreadable
from tta_core.backbones.segformer import SHAPES, SegFormer, build_segformer, under_our_names
from tta_core.backbones.spec import BackboneSpec
from tta_core.backbones.weights import EMBEDDED, check_weights, weights_file, weights_missing
from tta_core.backbones.weights_files import first_line, read_weights
from tta_core.backbones.zero_shot_head import zero_shot_network
from tta_core.errors import InputError, first_names

TABLE = "the backbone table says"


def load_backbone(spec: BackboneSpec, own: OwnWeights | None = None) -> nn.Module:
    """Builds the network of a backbone with its weights, in eval mode, in float32 on the CPU.

    Args:
        spec: the backbone's row.
        own: weights that the user gives in place of the row's.

    Raises:
        InputError: if the weights are missing, are not the ones that the table or the user names, or do not fit.
    """
    if spec.text is not None:
        return zero_shot_network(spec, partial(load_backbone, own=own))
    kind, _, name = spec.source.partition(":")
    file = weights_file(spec, own)
    if file is None:
        if kind != EMBEDDED:
            return _from_hub(spec, name)
        shipped = WEIGHTS_FOLDER / spec.weights
        return _filled(spec, _embedded(name), _shipped_weights(shipped, spec.sha256), shipped)
    if own is None:
        weights = read_weights(file, spec.sha256, stated_by=TABLE)
    else:
        weights = read_weights(file, own.sha256, own.key_map)
    if kind == EMBEDDED:
        network = _embedded(name)
    elif name in SHAPES:
        network = build_segformer(name, spec.num_classes)
    else:
        network = timm.create_model(name, pretrained=False, num_classes=spec.num_classes, **spec.options)
    return _filled(spec, network, weights, file)


def _embedded(name: str) -> nn.Module:
    return build_scenes_network() if name == SCENES else build_digits_network(name)


def _filled(spec: BackboneSpec, network: nn.Module, weights: Mapping[str, Tensor], file: Path) -> nn.Module:
    """Puts weights into a network that wants exactly these."""
    fitting = weights if _fit(network, weights) else _translated(network, weights)
    if not _fit(network, fitting):
        raise InputError(
            f"the weights in {file} do not fit {spec.name} ({spec.num_classes} classes): "
            f"{_misfit(spec, network, weights)}. Give the file of this very backbone"
        )
    if broken := [name for name, tensor in fitting.items() if not torch.isfinite(tensor).all()]:
        raise InputError(
            f"the weights in {file} are infinite or not a number in {first_names(broken)}. The "
            "training that made them diverged, or the file is damaged: give an earlier checkpoint, or get it again"
        )
    network.load_state_dict(dict(fitting))
    return network.eval()


def _fit(network: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    own, given = _shapes(network.state_dict()), _shapes(weights)
    if _other_kinds(network, weights):
        return False
    # Old files lack the counters of BatchNorm, which predictions do not depend on; torch puts them in.
    return given.items() <= own.items() and all(name.endswith(".num_batches_tracked") for name in own.keys() - given)


def _other_kinds(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Tensors that are no plain floating-point ones with values where the network has such, for people."""
    own = network.state_dict()
    return [
        f"{name} {_kind(tensor)}, not {_kind(own[name])}"
        for name, tensor in weights.items()
        if name in own
        and own[name].is_floating_point()
        and (tensor.layout != torch.strided or not tensor.is_floating_point() or tensor.is_meta)
    ]


def _kind(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "without values"
    return str(tensor.dtype if tensor.layout == torch.strided else tensor.layout).removeprefix("torch.")


def _translated(network: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Lets timm turn the names of the network's authors into its own, as it does for weights of the hub; or SegFormer.

    Values stay as they are: what timm would enlarge or shrink, such as position embeddings, is left to be refused.
    """
    if isinstance(network, SegFormer):
        return under_our_names(weights)
    own = _shapes(network.state_dict())
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if translate is None or any(own.get(name, shape) != shape for name, shape in _shapes(weights).items()):
        return weights
    try:
        found: Mapping[str, Tensor] = translate(dict(weights), network)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return weights  # Not a file of those authors.
    sizes = {tensor.numel() for tensor in weights.values()}
    return found if all(tensor.numel() in sizes for tensor in found.values()) else weights


def _misfit(spec: BackboneSpec, network: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Why weights do not fit, for people: the likely cause first."""
    own, given = _shapes(network.state_dict()), _shapes(weights)
    missing = [name for name in own if name not in given]
    other = [name for name in own if name in given and own[name] != given[name]]
    causes = []
    head = f"{_classifier(network)}.weight"
    if head in other and given[head][1:] == own[head][1:]:
        causes.append(f"they have {given[head][0]} classes, not {own[head][0]}")
    elif head in missing and 2 * len(missing) < len(own):
        causes.append("they have no classifier, as before fine-tuning: give the fine-tuned ones")
    if "pos_embed" in other and given["pos_embed"][2:] == own["pos_embed"][2:]:
        causes.append(
            f"their position embeddings are for other images ({given['pos_embed'][1]} tokens, not "
            f"{own['pos_embed'][1]}), and are not interpolated"
        )
    if (prefix := _common_prefix(own, given)) is not None:
        causes.append(f"their names begin with {prefix!r}: give key_map: {{{prefix!r}: ''}}")
    problems = {
        "missing": missing,
        "not in the network": [name for name in given if name not in own],
        "of another shape": [f"{name} {given[name]}, not {own[name]}" for name in other],
        "of another kind": _other_kinds(network, weights),
    }
    return "; ".join([*causes, *(f"{what}: {first_names(names)}" for what, names in problems.items() if names)])


def _classifier(network: nn.Module) -> str:
    """Qualified name of the classifier."""
    layer = find_classifier(network)
    return next((name for name, module in network.named_modules() if module is layer), "")


def _common_prefix(own: Mapping[str, object], given: Mapping[str, object]) -> str | None:
    """What stands before all the network's names in a file; None if that is not all that is wrong."""
    first = next(iter(own))
    prefixes = [name.removesuffix(first) for name in given if name.endswith(f".{first}")]
    return next((prefix for prefix in prefixes if all(prefix + name in given for name in own)), None)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _from_hub(spec: BackboneSpec, tag: str) -> nn.Module:
    """Lets timm find the weights in the hub's cache or download them."""
    check_weights(spec)
    try:
        network = timm.create_model(tag, pretrained=True, **spec.options)
    # The hub's client lets errors of several libraries through, of some only by their common base.
    except Exception as error:
        raise weights_missing(spec, f"timm got none from the hub ({first_line(error)})") from error
    if network.num_classes != spec.num_classes:
        raise InputError(
            f"{tag} has {network.num_classes} classes, the backbone table says {spec.num_classes}: mend it"
        )
    return network.float().eval()


# A worker runs many cells; the shipped weights are small, so each file is read and checked once.
@lru_cache(maxsize=4)
def _shipped_weights(file: Path, sha256: str | None) -> dict[str, Tensor]:
    if not file.is_file():
        raise unreadable(
            file,
            "there is no such file: install the package again, or make it with "
            "python -m tta_core.backbones.embedded.train",
        )
    if sha256 is not None:
        check_sha256(file, sha256, stated_by=TABLE)
    return read_weights(file)
