"""Makes the weights of the embedded backbones: `python -m tta_core.backbones.embedded.train --help`.

The training images are the first 898 digits with geometric augmentation only. Photometric augmentation would teach the
networks the corruptions that they are to be adapted to.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from tta_core.backbones.embedded.network import (
    MEAN,
    NETWORKS,
    RESNET,
    STD,
    WEIGHTS_FOLDER,
    build_digits_network,
    weights_file,
)
from tta_core.data.sources.digits import load_digits

RECIPE_VERSION = 1
"""Raised whenever the same seed would give other weights."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the networks are trained.

    Attributes:
        epochs: passes over the training images, for the networks that are trained in one go.
        mae_epochs: passes of masked pre-training.
        fine_tune_epochs: passes of supervised training after it.
        warm_up: share of the steps in which the learning rate rises from zero; it then falls as a half cosine.
        weight_decay: applied to parameters of two and more dimensions.
        betas: of AdamW; a long memory of squared gradients makes the short training slow.
        largest_gradient: norm to which the gradient of all parameters together is cut.
        degrees, shift, stretch, shear: largest rotation in degrees, shift as a share of the image, deviation of the
            scale from 1, and shear.
        mask_share: share of the patches that masked pre-training hides.
    """

    epochs: int = 80
    mae_epochs: int = 150
    fine_tune_epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 2e-3
    warm_up: float = 0.1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    largest_gradient: float = 1.0
    degrees: float = 12.0
    shift: float = 0.08
    stretch: float = 0.12
    shear: float = 0.1
    mask_share: float = 0.5


def train_backbone(name: str, *, seed: int = 0, recipe: Recipe | None = None) -> nn.Module:
    """Trains one embedded backbone; the same seed gives the same weights on the same machine and library versions.

    Args:
        name: a name in `NETWORKS`.
        seed: seed of the initial weights, the order of the images and the augmentation.
        recipe: lengths and strengths; the published ones unless given.

    Returns:
        The network in eval mode, float32.

    Raises:
        InputError: if there is no such network.
    """
    recipe = recipe or Recipe()
    with _reproducible(seed):
        network = build_digits_network(name)
        images, labels = load_digits("train")
        inputs, targets = to_inputs(images), torch.from_numpy(labels)
        generator = torch.Generator().manual_seed(seed)
        epochs = recipe.epochs
        if name == "mae":
            assert isinstance(network, VisionTransformer)
            _pretrain_masked(network, inputs, recipe, generator)
            epochs = recipe.fine_tune_epochs

        def loss(chosen: Tensor) -> Tensor:
            return functional.cross_entropy(network(augment(inputs[chosen], recipe, generator)), targets[chosen])

        network.train()
        _optimise(list(network.parameters()), loss, len(inputs), epochs, recipe, generator, name)
        if name == RESNET:
            measure_statistics(network, inputs)
    return network.eval()


@torch.no_grad()
def measure_statistics(network: nn.Module, inputs: Tensor) -> None:
    """Sets the running statistics of BatchNorm layers to those of inputs `(n, 3, 32, 32)`, taken as one batch.

    The average that training leaves is one over changing weights, with the two images of the last, short batch.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # The plain mean over all batches since the reset, of which there is one.
    network.train()(inputs)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def to_inputs(images: NDArray[np.uint8]) -> Tensor:
    """Normalises images `(n, 32, 32, 3)` to network inputs `(n, 3, 32, 32)`."""
    scaled = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def augment(inputs: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Rotates, shifts, stretches and shears each image of `(n, 3, 32, 32)` by random amounts, mirroring at borders."""
    draws = 2 * torch.rand(6, len(inputs), generator=generator) - 1
    angle = draws[0] * math.radians(recipe.degrees)
    scale = 1 + draws[1] * recipe.stretch
    shear = draws[2] * recipe.shear
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # Coordinates run from -1 to 1, so that a shift by a share of the image is twice that share.
    shift_x, shift_y = 2 * recipe.shift * draws[3], 2 * recipe.shift * draws[4]
    rows = [cos, cos * shear - sin, shift_x, sin, sin * shear + cos, shift_y]
    matrices = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(matrices, list(inputs.shape), align_corners=False)
    return functional.grid_sample(inputs, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


class MaskedDecoder(nn.Module):
    """Predicts hidden patches from visible ones with one transformer block (He et al., "Masked Autoencoders", 2022)."""

    def __init__(self, encoder: VisionTransformer) -> None:
        """Takes the network whose patch grid, width and patch size the decoder shares."""
        super().__init__()
        dim, patches = encoder.embed_dim, encoder.patch_embed.num_patches
        self.patch = encoder.patch_embed.patch_size[0]
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, patches + 1, dim) * 0.02)
        self.norm_in, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.block = Block(dim, num_heads=4, mlp_ratio=2, qkv_bias=True)
        self.predict = nn.Linear(dim, 3 * self.patch**2)

    def forward(self, visible: Tensor, place: Tensor) -> Tensor:
        """Predicts all patches.

        Args:
            visible: `(batch, 1 + visible, dim)`, the encoder's class token and visible patches.
            place: `(batch, patches)`, where each patch is in the list of visible patches followed by hidden ones.

        Returns:
            Pixels `(batch, patches, 3 * patch * patch)`.
        """
        visible = self.norm_in(visible)
        hidden = self.mask_token.expand(len(visible), place.shape[1] + 1 - visible.shape[1], -1)
        patches = torch.cat([visible[:, 1:], hidden], dim=1)
        ordered = patches.gather(1, place[..., None].expand(-1, -1, patches.shape[2]))
        tokens = torch.cat([visible[:, :1], ordered], dim=1) + self.positions
        pixels: Tensor = self.predict(self.norm_out(self.block(tokens))[:, 1:])
        return pixels


def masked_loss(
    network: VisionTransformer, decoder: MaskedDecoder, inputs: Tensor, share: float, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the hidden patches, each scaled to mean 0 and variance 1, of inputs `(n, 3, 32, 32)`."""
    tokens = network.patch_embed(inputs)
    count, patches, dim = tokens.shape
    order = torch.rand(count, patches, generator=generator).argsort(dim=1)
    kept = order[:, : patches - int(share * patches)]
    assert network.pos_embed is not None
    assert network.cls_token is not None
    tokens = (tokens + network.pos_embed[:, 1:]).gather(1, kept[..., None].expand(-1, -1, dim))
    first = (network.cls_token + network.pos_embed[:, :1]).expand(count, -1, -1)
    encoded = network.norm(network.blocks(network.norm_pre(torch.cat([first, tokens], dim=1))))
    predicted = decoder(encoded, order.argsort(dim=1))
    hidden = torch.ones(count, patches).scatter_(1, kept, 0.0)
    error = (predicted - _patch_targets(inputs, decoder.patch)).square().mean(dim=2)
    return (error * hidden).sum() / hidden.sum()


def _patch_targets(inputs: Tensor, patch: int) -> Tensor:
    pixels = functional.unfold(inputs, patch, stride=patch).transpose(1, 2)
    mean, variance = pixels.mean(dim=2, keepdim=True), pixels.var(dim=2, keepdim=True)
    # Patches of plain background have no variance; the constant keeps their noise from being blown up.
    return (pixels - mean) / (variance + 1e-2).sqrt()


def _pretrain_masked(network: VisionTransformer, inputs: Tensor, recipe: Recipe, generator: torch.Generator) -> None:
    decoder = MaskedDecoder(network)
    encoder = [value for name, value in network.named_parameters() if not name.startswith(("head", "fc_norm"))]

    def loss(chosen: Tensor) -> Tensor:
        augmented = augment(inputs[chosen], recipe, generator)
        return masked_loss(network, decoder, augmented, recipe.mask_share, generator)

    parameters = [*encoder, *decoder.parameters()]
    _optimise(parameters, loss, len(inputs), recipe.mae_epochs, recipe, generator, "masked pre-training")


def _optimise(
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[Tensor], Tensor],
    count: int,
    epochs: int,
    recipe: Recipe,
    generator: torch.Generator,
    what: str,
) -> None:
    """Runs AdamW over random batches of image numbers, with a linear warm-up and a half cosine."""
    everything = list(parameters)
    groups = _decay_groups(everything, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)
    total = epochs * math.ceil(count / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total, recipe.warm_up))
    for epoch in range(epochs):
        losses = []
        for chosen in torch.randperm(count, generator=generator).split(recipe.batch_size):
            loss = loss_of(chosen)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(everything, recipe.largest_gradient)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if (epoch + 1) % 20 == 0 or epoch + 1 == epochs:
            logger.info("%s: epoch %d of %d, loss %.4f", what, epoch + 1, epochs, sum(losses) / len(losses))


def _decay_groups(everything: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    return [
        {"params": [p for p in everything if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in everything if p.ndim < 2], "weight_decay": 0.0},
    ]


def _rate(step: int, total: int, warm_up: float) -> float:
    rising = max(1, int(total * warm_up))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


@torch.inference_mode()
def clean_accuracy(network: nn.Module) -> float:
    """Top-1 accuracy on the 899 uncorrupted test images, in [0, 1]."""
    images, labels = load_digits("test")
    return float((network(to_inputs(images)).argmax(dim=1).numpy() == labels).mean())


def write_weights(network: nn.Module, path: Path, *, pretraining: str, seed: int) -> float:
    """Rounds the weights to half precision, measures them and writes them with what they are.

    Args:
        network: the trained network; its weights are rounded in place, so that it is what the file holds.
        path: the file to write.
        pretraining: which network it is, a name in `NETWORKS`.
        seed: the seed that it was trained with.

    Returns:
        The clean accuracy of the rounded weights, in [0, 1].
    """
    halve(network)
    accuracy = clean_accuracy(network)
    save_halves(
        network,
        path,
        {
            "recipe_version": str(RECIPE_VERSION),
            "seed": str(seed),
            "pretraining": pretraining,
            "clean_accuracy": f"{accuracy:.6f}",
        },
    )
    return accuracy


def halve(network: nn.Module) -> dict[str, Tensor]:
    """Rounds the weights of a network to half precision, in place, and returns them so.

    Counters of BatchNorm are whole numbers and stay so.
    """
    halves = {
        name: (value.detach().half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(halves)
    return halves


def save_halves(network: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes the weights of a network, rounded in place to half precision, with what they are."""
    versions = {"torch": torch.__version__.split("+")[0], "timm": timm.__version__}
    path.write_bytes(_with_sorted_metadata(save(halve(network), metadata=metadata | versions)))


def _with_sorted_metadata(content: bytes) -> bytes:
    """Puts the metadata of a safetensors file in order: the library's own changes from run to run, and so checksums."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # The tensors begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Seeds torch and uses one thread, and puts both back: sums in another order would give other weights."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _make(pretraining: str, seed: int, folder: Path) -> str:
    """Trains and writes one backbone; returns its line of the table."""
    started = time.process_time()
    network = train_backbone(pretraining, seed=seed)
    path = weights_file(pretraining, folder)
    accuracy = write_weights(network, path, pretraining=pretraining, seed=seed)
    seconds, content = time.process_time() - started, path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return f"{pretraining:<18}{100 * accuracy:>13.2f}%{len(content) / 1000:>11.0f}{seconds:>13.1f}  {digest}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, writes and reports the backbones that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tta_core.backbones.embedded.train", description=__doc__)
    parser.add_argument("--pretraining", choices=[*NETWORKS, "all"], default="all", help="which (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parser.add_argument("--output", type=Path, default=WEIGHTS_FOLDER, help="folder (default: the shipped weights)")
    options = parser.parse_args(arguments)
    if not 0 <= options.seed < 2**63:
        parser.error(f"argument --seed: {options.seed} is not allowed: give a whole number that is not negative")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: cannot make the folder {options.output}: {error.strerror}")
    if not os.access(options.output, os.W_OK):
        parser.error(f"argument --output: may not write to {options.output}: give a folder that you may write to")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    sys.stdout.write("pretraining       clean accuracy  kilobytes  CPU seconds  sha256\n")
    for pretraining in NETWORKS if options.pretraining == "all" else (options.pretraining,):
        try:
            sys.stdout.write(_make(pretraining, options.seed, options.output))
        except OSError as error:
            parser.error(f"argument --output: cannot write to {options.output}: {error.strerror}")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
