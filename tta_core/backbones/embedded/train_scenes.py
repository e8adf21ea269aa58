"""Makes the weights of the network of `digit-scenes`: `python -m tta_core.backbones.embedded.train_scenes --help`.

It sees scenes of training digits, flipped, shifted and in several sizes, and none of the weather that it is to be
adapted to.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tta_core.backbones.embedded.network import WEIGHTS_FOLDER
from tta_core.backbones.embedded.scenes import SCENES, build_scenes_network
from tta_core.backbones.embedded.train import _decay_groups, _rate, _reproducible, save_halves, to_inputs
from tta_core.backbones.segformer import SegFormer
from tta_core.data.sources.scenes import GROUND, IGNORED, make_scenes

RECIPE_VERSION = 2
"""Raised whenever the same seed would give other weights."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneRecipe:
    """How the network is trained.

    Attributes:
        scenes: number of training scenes.
        warm_up: share of the steps in which the learning rate rises; it then falls as a half cosine.
        ground_weight: weight of pixels of the ground, which are most, in the cross-entropy.
        sides: sizes in pixels, one drawn for each batch. Without them views of other sizes cost accuracy.
        shift: largest cyclic shift in pixels.
        contrast, brightness: largest change of the factor and of the offset.
    """

    scenes: int = 2000
    epochs: int = 26
    batch_size: int = 16
    learning_rate: float = 3e-3
    warm_up: float = 0.05
    weight_decay: float = 0.05
    ground_weight: float = 0.4
    sides: tuple[int, ...] = (48, 56, 64, 72, 80)
    shift: int = 6
    contrast: float = 0.1
    brightness: float = 0.05


def train_scenes(seed: int = 0, recipe: SceneRecipe | None = None) -> SegFormer:
    """Trains the network; the same seed gives the same weights on the same machine and library versions."""
    recipe = recipe or SceneRecipe()
    with _reproducible(seed):
        network = build_scenes_network().train()
        images, labels = make_scenes("train", recipe.scenes)
        inputs, targets = to_inputs(images), torch.from_numpy(labels)
        weights = torch.ones(GROUND + 1)
        weights[GROUND] = recipe.ground_weight
        rng = np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(
            _decay_groups(list(network.parameters()), recipe.weight_decay), lr=recipe.learning_rate
        )
        total = recipe.epochs * math.ceil(recipe.scenes / recipe.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total, recipe.warm_up))
        for epoch in range(recipe.epochs):
            losses = []
            for chosen in torch.from_numpy(rng.permutation(recipe.scenes)).split(recipe.batch_size):
                views, wanted = augment(inputs[chosen], targets[chosen], recipe, rng)
                logits = functional.interpolate(
                    network(views), size=wanted.shape[-2:], mode="bilinear", align_corners=False
                )
                loss = functional.cross_entropy(logits, wanted.long(), weights, ignore_index=IGNORED)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            logger.info("epoch %d of %d, loss %.4f", epoch + 1, recipe.epochs, sum(losses) / len(losses))
    return network.eval()


def augment(images: Tensor, labels: Tensor, recipe: SceneRecipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random views of inputs `(batch, 3, 64, 64)` with their labels `(batch, 64, 64)`, all of one size."""
    count, side = len(images), int(rng.choice(recipe.sides))
    moved, wanted = [], []
    for image, label in zip(images, labels, strict=True):
        if rng.random() < 0.5:
            image, label = image.flip(-1), label.flip(-1)
        shift = tuple(rng.integers(-recipe.shift, recipe.shift + 1, 2).tolist())
        moved.append(image.roll(shift, (-2, -1)))
        wanted.append(label.roll(shift, (-2, -1)))
    factors = torch.from_numpy(rng.uniform(1 - recipe.contrast, 1 + recipe.contrast, (count, 1, 1, 1))).float()
    offsets = torch.from_numpy(rng.uniform(-recipe.brightness, recipe.brightness, (count, 1, 1, 1))).float()
    # Normalised inputs run from -1 to 1, so that a brightness is twice itself there.
    changed = (torch.stack(moved) * factors + 2 * offsets).clamp(-1, 1)
    views = functional.interpolate(changed, size=side, mode="bilinear", align_corners=False)
    sized = functional.interpolate(torch.stack(wanted)[:, None].float(), size=side, mode="nearest")[:, 0]
    return views, sized.to(torch.uint8)


@torch.inference_mode()
def mean_iou(network: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> float:
    """Mean intersection over union in [0, 1] at one scale, over scenes `(n, 64, 64, 3)` taken together."""
    table = np.zeros((GROUND + 1, GROUND + 1), np.int64)
    for start in range(0, len(images), 50):
        logits = network(to_inputs(images[start : start + 50]))
        sized = functional.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
        predicted, wanted = sized.argmax(1).numpy(), labels[start : start + 50]
        scored = wanted != IGNORED
        pairs = wanted[scored].astype(np.int64) * len(table) + predicted[scored]
        table += np.bincount(pairs, minlength=table.size).reshape(table.shape)
    hits = table.diagonal()
    return float((hits / (table.sum(0) + table.sum(1) - hits)).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, writes and reports."""
    parser = argparse.ArgumentParser(prog="python -m tta_core.backbones.embedded.train_scenes", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parser.add_argument("--output", type=Path, default=WEIGHTS_FOLDER, help="folder (default: the shipped weights)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    started = time.process_time()
    network = train_scenes(options.seed)
    seconds = time.process_time() - started
    path = options.output / f"{SCENES.replace('-', '_')}.safetensors"
    metadata = {"recipe_version": str(RECIPE_VERSION), "seed": str(options.seed)}
    save_halves(network, path, metadata)
    found = mean_iou(network, *make_scenes("test", 400))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sys.stdout.write(f"clean mIoU {100 * found:.2f}%, {seconds:.0f} CPU seconds, sha256 {digest}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
