"""Zero-shot classifiers of CLIP: timm's image tower under vectors that open_clip's text tower makes of class names.

Of each class 80 texts are embedded ("a photo of a tench.", ...), normalised, averaged and normalised again (prompt
ensembling of Radford et al., ICML 2021). Logits are cosines with these vectors, times the model's learned scale. Class
names and templates are those of open_clip.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from tta_core.backbones.classifier import find_classifier
from tta_core.backbones.spec import BackboneSpec, TextHeadSpec
from tta_core.backbones.text_head import TextPrototypeHead
from tta_core.backbones.weights_files import read_weights
from tta_core.backbones.zero_shot import (
    head_file,
    kept_head_file,
    open_clip_installed,
    open_clip_missing,
    text_weights,
    text_weights_missing,
)
from tta_core.cache import locked, write_whole
from tta_core.errors import InputError

LOCK_SECONDS = 24 * 3600.0
"""How long to wait for another process that makes the same head."""

SLOW = "; ImageNet's 80,000 take a CPU core half an hour"
"""ViT-B/16, texts of 22 tokens, one thread: 28.6 minutes, extrapolated from 4 classes; 107 with texts of 77 tokens."""

SAME_PROJECTION = 0.01
"""How far the projections of one model in two files may differ, relative to their norm: files in half precision do."""

PARTS = ("prototypes", "log_scale", "projection")
"""What a text head consists of: vectors `(classes, dim)`; the logarithm of the scale; and the projection of the image
tower that belongs to it, `(dim, features)`, by which those of other models are found out.
"""

log = logging.getLogger(__name__)


def zero_shot_network(spec: BackboneSpec, load: Callable[[BackboneSpec], nn.Module]) -> nn.Module:
    """Loads the image tower of a zero-shot backbone and puts its text head on.

    Args:
        spec: the backbone.
        load: loads the network of a backbone that has a classifier; here of one whose classifier is the projection.

    Raises:
        InputError: if head or weights are missing, are damaged, or are of two models.
    """
    head, file = text_head(spec)
    tower = spec.model_copy(update={"text": None, "num_classes": head["prototypes"].shape[1]})
    network: Any = load(tower)
    projection = find_classifier(network)
    assert isinstance(projection, nn.Linear)
    other = head["projection"]
    if projection.weight.shape != other.shape or not _close(projection, other):
        assert spec.text is not None
        raise InputError(
            f"the image tower of {spec.name} and the text head {file} are of two models, their projections differ: "
            f"give the weights of {tower.weights} and the text head of {spec.text.model} ({spec.text.weights})"
        )
    network.head = TextPrototypeHead(projection.in_features, head["prototypes"])
    with torch.no_grad():
        network.head.projection.weight.copy_(projection.weight)
        network.head.log_scale.copy_(head["log_scale"])
    network.num_classes = spec.num_classes
    return network.eval()


def text_head(spec: BackboneSpec) -> tuple[dict[str, Tensor], Path]:
    """Reads the text head of a zero-shot backbone, or makes and keeps it.

    Any number of processes may ask at once: one makes it, the others wait. What is handed out has always been through
    the file.

    Returns:
        Its `PARTS`, float32 on the CPU, and the file that has them.

    Raises:
        InputError: if it can neither be found nor made.
    """
    text = spec.text
    assert text is not None, "only zero-shot backbones have a text head"
    kept = kept_head_file(text)
    found = head_file(text)
    if found is not None and found != kept:
        return _read(spec, found), found
    if not _whole(kept):
        with locked(kept, seconds=LOCK_SECONDS):
            if not _whole(kept):
                content = safetensors.torch.save(make_text_head(spec), metadata={"tag": text.tag(), **_made_with()})
                write_whole(kept, lambda file: file.write(content))
    return _read(spec, kept), kept


@torch.no_grad()
def make_text_head(spec: BackboneSpec) -> dict[str, Tensor]:
    """Makes the `PARTS` of a text head with open_clip, on a GPU if there is one.

    Raises:
        InputError: if open_clip or the weights of its text tower are missing, or do not fit.
    """
    text = spec.text
    assert text is not None, "only zero-shot backbones have a text head"
    if not open_clip_installed():
        raise open_clip_missing(spec)
    import open_clip

    names, templates = open_clip.IMAGENET_CLASSNAMES, open_clip.OPENAI_IMAGENET_TEMPLATES
    _check_texts(text, names, templates)
    model = _text_model(spec, open_clip)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    texts = f"{len(names)} classes, {len(templates)} texts each"
    log.warning(
        "making the text head of %s on %s: %s%s", spec.name, device, texts, SLOW if device.type == "cpu" else ""
    )
    tokenizer = open_clip.get_tokenizer(text.model)
    longest = max(int(tokenizer([template(name) for template in templates]).ne(0).sum(1).max()) for name in names)
    # The tower attends to earlier tokens only: those after the longest text change nothing.
    model.positional_embedding = nn.Parameter(model.positional_embedding[:longest])
    model.attn_mask = model.attn_mask[:longest, :longest]
    vectors = open_clip.build_zero_shot_classifier(
        model.to(device), lambda texts: tokenizer(texts)[:, :longest], names, templates, device=device
    )
    parts = {"prototypes": vectors.T, "log_scale": model.logit_scale, "projection": model.visual.proj.T}
    return {part: tensor.detach().float().cpu().contiguous() for part, tensor in parts.items()}


def texts_digest(names: Sequence[str], templates: Sequence[Callable[[str], str]]) -> str:
    """SHA-256 of all texts, class after class."""
    return hashlib.sha256(json.dumps([template(name) for name in names for template in templates]).encode()).hexdigest()


def _check_texts(text: TextHeadSpec, names: Sequence[str], templates: Sequence[Callable[[str], str]]) -> None:
    if texts_digest(names, templates) != text.texts:
        raise InputError(
            f"open_clip {version('open_clip_torch')} has other class names or templates than the backbone table knows, "
            "and would make another text head: install the version that constraints.txt names"
        )


def _text_model(spec: BackboneSpec, open_clip: Any) -> Any:
    """Builds open_clip's model with its weights, in eval mode on the CPU."""
    text = spec.text
    assert text is not None
    file = text_weights(text)
    if file is None:
        try:
            file = Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(text.model, text.weights)))
        # The hub's client lets errors of several libraries through, of some only by their common base.
        except Exception as error:
            raise text_weights_missing(spec, f"open_clip got none from the hub ({_start(error)})") from error
    model = open_clip.CLIP(**open_clip.get_model_config(text.model))
    try:
        model.load_state_dict(read_weights(file))
    except RuntimeError as error:
        raise InputError(
            f"the weights in {file} do not fit open_clip's {text.model}: {_start(error)}. Give the file of the whole "
            f"model {text.model} ({text.weights}), as open_clip saves it"
        ) from None
    return model.eval()


def _read(spec: BackboneSpec, file: Path) -> dict[str, Tensor]:
    """Reads a text head and looks whether it is the one of this backbone."""
    assert spec.text is not None
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            tag = (opened.metadata() or {}).get("tag")
            head = {part: opened.get_tensor(part) for part in opened.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"the text head {file} cannot be read ({_start(error)}): remove it, it is then made anew, or give a whole "
            "file"
        ) from None
    if tag != spec.text.tag() or set(head) != set(PARTS) or len(head["prototypes"]) != spec.num_classes:
        raise InputError(
            f"{file} is not the text head of {spec.name} ({spec.text.tag()}, {spec.num_classes} classes): it holds "
            f"{tag or ', '.join(sorted(head)) or 'nothing'}. Give the file that tta-grid made"
        )
    return {part: tensor.float() for part, tensor in head.items()}


def _whole(file: Path) -> bool:
    """Whether a file of the cache is there and not damaged."""
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            return set(opened.keys()) == set(PARTS)
    except (OSError, safetensors.SafetensorError):
        return False


def _made_with() -> dict[str, str]:
    return {f"made with {name}": version(name) for name in ("open_clip_torch", "torch")}


def _close(projection: nn.Linear, other: Tensor) -> bool:
    """Whether a projection is this matrix; timm adds a bias of zeros."""
    biased = projection.bias is not None and bool(projection.bias.any())
    return not biased and bool((projection.weight.detach() - other).norm() <= SAME_PROJECTION * other.norm())


def _start(error: BaseException) -> str:
    """The first of what an error says, on one line."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 200 else f"{said[:200]}..."
