"""Domain tokens beside the class token of a vision transformer, and predictors of the noise that they carry (DPAL)."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tta_core.errors import InputError
from tta_core.methods.common.losses import widened

COSINE_EPSILON = 1e-8
"""Length below which a noise vector counts as zero: it is similar to none."""

Part = TypeVar("Part", nn.Parameter, "NoisePredictor")

PredictorInit = Literal["zero", "zero_output"]
"""Initial values of a noise predictor; with either, no noise is predicted at first:

- `zero`: all weights and biases are zero. The hidden layer then stays at GELU(0) = 0, so no gradient ever reaches any
  number but the last bias, and the predicted noise is the same for every image.
- `zero_output`: the first layer starts as torch's linear layers do, only the second at zero.
"""


class NoisePredictor(nn.Module):
    """Linear, GELU, Linear, GELU: domain tokens `(batch, dim)` -> noise `(batch, dim)` of the class token."""

    def __init__(self, dim: int, init: PredictorInit, generator: torch.Generator, like: Tensor) -> None:
        super().__init__()
        # Torch's own initial values would come from its global generator.
        self.hidden = nn.utils.skip_init(nn.Linear, dim, dim, device=like.device, dtype=like.dtype)
        self.output = nn.utils.skip_init(nn.Linear, dim, dim, device=like.device, dtype=like.dtype)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        if init == "zero_output":
            for parameter in self.hidden.parameters():
                _fill_uniform(parameter, 1 / math.sqrt(dim), generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Noise `(batch, dim)`."""
        gelu = nn.functional.gelu
        return gelu(self.output(gelu(self.hidden(tokens))))


class LiftedBlocks(nn.Sequential):
    """The blocks of a vision transformer with one more token in front, that of the domain (continual §4.5).

    It takes and gives the tokens of the plain blocks, and the blocks keep their names. Each has gained two parts:
    `domain_token` `(dim,)`, which stands at position 0 when the block begins, and `noise_predictor`, which reads what
    the block has made of it; its noise is taken out of the class token behind it.
    """

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self._noises: list[Tensor] = []

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `(batch, tokens, dim)` with the class token first -> tokens of the same shape."""
        self._noises = []
        class_token, others = tokens[:, :1], tokens[:, 1:]
        for block, domain, predictor in zip(self, self.domain_tokens(), self.predictors(), strict=True):
            first = domain.to(tokens.dtype).expand(len(tokens), 1, -1)
            lifted = block(torch.cat([first, class_token, others], dim=1))
            noise = predictor(lifted[:, 0])
            class_token, others = lifted[:, 1:2] - noise.unsqueeze(1), lifted[:, 2:]
            self._noises.append(noise)
        return torch.cat([class_token, others], dim=1)

    def predictors(self) -> list[NoisePredictor]:
        """The predictor of each block."""
        return [_part(block, "noise_predictor", NoisePredictor) for block in self]

    def domain_tokens(self) -> list[nn.Parameter]:
        """The token `(dim,)` of each block."""
        return [_part(block, "domain_token", nn.Parameter) for block in self]

    def take_noises(self) -> list[Tensor]:
        """The noise `(batch, dim)` of each block in the last forward; hands over the graph that is behind it."""
        noises, self._noises = self._noises, []
        return noises


def lift(network: VisionTransformer, init: PredictorInit, generator: torch.Generator) -> LiftedBlocks:
    """Puts a domain token and a noise predictor into every block, in place, all of them frozen.

    Args:
        network: the network to edit.
        init: initial values of the predictors.
        generator: source of all initial values, on the CPU. Domain tokens are uniform within
            +-sqrt(6 / (channels x patch height x patch width + dim)).

    Raises:
        InputError: if the network has no class token.
    """
    if network.cls_token is None:
        raise InputError(
            "dpal takes noise out of the class token, and this vision transformer has none: choose a network with one"
        )
    fan_in = network.patch_embed.proj.weight[0].numel()
    dim = network.embed_dim
    bound = math.sqrt(6 / (fan_in + dim))
    for block in network.blocks:
        block.domain_token = nn.Parameter(next(block.parameters()).new_zeros(dim), requires_grad=False)
        _fill_uniform(block.domain_token, bound, generator)
    # After all tokens, which so are the same with either kind of predictor.
    for block in network.blocks:
        block.noise_predictor = NoisePredictor(dim, init, generator, block.domain_token).requires_grad_(False)
    network.blocks = LiftedBlocks(*network.blocks)
    return network.blocks


def noise_similarity(noises: list[Tensor]) -> Tensor:
    """Mean over blocks of the mean cosine similarity `()` of the noise of two images (continual §4.5).

    All pairs count, an image with itself too, so the mean over pairs is the squared length of the mean unit vector.
    """
    units = [nn.functional.normalize(widened(noise), dim=-1, eps=COSINE_EPSILON) for noise in noises]
    return torch.stack([unit.mean(dim=0).square().sum() for unit in units]).mean()


def _part(block: nn.Module, name: str, kind: type[Part]) -> Part:
    part = getattr(block, name)
    assert isinstance(part, kind), "put there by `lift`"
    return part


@torch.no_grad()
def _fill_uniform(parameter: nn.Parameter, bound: float, generator: torch.Generator) -> None:
    """Draws on the CPU in float32, so that all devices and precisions start alike."""
    drawn = torch.empty(parameter.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
    parameter.copy_(drawn)
