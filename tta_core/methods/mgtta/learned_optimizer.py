"""The learned optimizer of MGTTA: a tiny network that turns the gradient of a scalar into its update (mixed §2.8).

Every scalar has its own memory, a matrix and a bias, which a step of gradient descent of its own (test-time training)
updates before it is read. All scalars are worked on at once, as the last axis of every tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tta_core.methods.stateful import Remembering

HIDDEN = 8
INPUTS = 2
"""Mean gradient and gradient, both over the root of the mean squared gradient."""
LAYER_NORM_EPSILON = 1e-6
MOMENT_EPSILON = 1e-8


class MetaParameters(NamedTuple):
    """What is learned before the stream: 164 numbers with 8 hidden units.

    Attributes:
        query, key, value: `(hidden, 2)`, the three views of the input.
        rate_offset: `()`, the memory's learning rate is max(0, 1 + offset) sigmoid(weight . input + bias) / hidden.
        rate_weight: `(2,)`.
        rate_bias: `()`.
        start_matrix, start_bias: `(hidden, hidden)`, from input to output, and `(hidden,)`: the memory at first.
        inner_scale, inner_bias: `(hidden,)`, of the normalisation of what the memory gives.
        outer_scale, outer_bias: `(hidden,)`, of the normalisation before the output.
        output: `(hidden,)`.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    rate_offset: Tensor
    rate_weight: Tensor
    rate_bias: Tensor
    start_matrix: Tensor
    start_bias: Tensor
    inner_scale: Tensor
    inner_bias: Tensor
    outer_scale: Tensor
    outer_bias: Tensor
    output: Tensor

    def to(self, other: Tensor) -> MetaParameters:
        """The same on the device and in the precision of another tensor."""
        return MetaParameters(*(parameter.to(other) for parameter in self))

    def copied(self) -> MetaParameters:
        """A copy without graph."""
        return MetaParameters(*(parameter.detach().clone() for parameter in self))


def shapes(hidden: int = HIDDEN) -> dict[str, tuple[int, ...]]:
    """Shape of each meta parameter."""
    views: dict[str, tuple[int, ...]] = dict.fromkeys(("query", "key", "value"), (hidden, INPUTS))
    rate: dict[str, tuple[int, ...]] = {"rate_offset": (), "rate_weight": (INPUTS,), "rate_bias": ()}
    vectors = ("start_bias", "inner_scale", "inner_bias", "outer_scale", "outer_bias", "output")
    found = views | rate | {"start_matrix": (hidden, hidden)} | dict.fromkeys(vectors, (hidden,))
    return {name: found[name] for name in MetaParameters._fields}


def initial_meta(generator: torch.Generator, like: Tensor) -> MetaParameters:
    """Meta parameters before any training, on the device and in the precision of another tensor.

    Linear maps are uniform within one over the root of their inputs, the memory starts near zero, scales are 1 and
    biases 0. They are drawn on the CPU in float32, so that all devices and precisions start from the same.
    """
    values = {name: torch.zeros(shape) for name, shape in shapes().items()}
    for name in ("query", "key", "value", "rate_weight", "output"):
        bound = 1 / math.sqrt(HIDDEN if name == "output" else INPUTS)
        values[name].uniform_(-bound, bound, generator=generator)
    values["start_matrix"].normal_(std=0.02, generator=generator)
    for name in ("inner_scale", "outer_scale"):
        values[name].fill_(1.0)
    return MetaParameters(**values).to(like)


class Memory(NamedTuple):
    """The memory of every scalar: `matrix` `(hidden, hidden, scalars)` and `bias` `(hidden, scalars)`."""

    matrix: Tensor
    bias: Tensor


def start(meta: MetaParameters, scalars: int) -> Memory:
    """The memory before the first step, the same for all scalars."""
    parts = (meta.start_matrix, meta.start_bias)
    # Contiguous, as it will be when it has been read back from a state: sums must run in the same order.
    return Memory(*(part.unsqueeze(-1).expand(*part.shape, scalars).contiguous() for part in parts))


def respond(meta: MetaParameters, memory: Memory, inputs: Tensor) -> tuple[Tensor, Memory]:
    """Updates the memory with an input, and reads it.

    Args:
        meta: the learned parameters.
        memory: of every scalar.
        inputs: `(2, scalars)`.

    Returns:
        The response in (-1, 1), `(scalars,)`, and the memory after the update.
    """
    query, key, value = (view @ inputs for view in (meta.query, meta.key, meta.value))
    rate = (1 + meta.rate_offset).clamp(min=0) * torch.sigmoid(meta.rate_weight @ inputs + meta.rate_bias) / len(query)
    descent = rate * _error_gradient(meta, _read(memory, key), value - key)
    memory = Memory(
        torch.addcmul(memory.matrix, key.unsqueeze(1), descent.unsqueeze(0), value=-1), memory.bias - descent
    )
    found = query + _affine(_normalised(_read(memory, query))[0], meta.inner_scale, meta.inner_bias)
    found = _affine(_normalised(found)[0], meta.outer_scale, meta.outer_bias)
    return torch.tanh(meta.output @ found), memory


def _read(memory: Memory, view: Tensor) -> Tensor:
    """What the memory gives for a view `(hidden, scalars)`."""
    return (view.unsqueeze(1) * memory.matrix).sum(dim=0) + memory.bias


def _error_gradient(meta: MetaParameters, given: Tensor, wanted: Tensor) -> Tensor:
    """Gradient, with respect to `given`, of half the squared distance of its normalisation from `wanted`."""
    normal, deviation = _normalised(given)
    scale = meta.inner_scale.unsqueeze(-1)
    outer = (_affine(normal, meta.inner_scale, meta.inner_bias) - wanted) * scale
    return (outer - outer.mean(dim=0) - normal * (outer * normal).mean(dim=0)) / deviation


def _normalised(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values `(hidden, scalars)` with mean 0 and variance 1 over the first axis, and what they were divided by."""
    centred = values - values.mean(dim=0)
    deviation = (centred.square().mean(dim=0) + LAYER_NORM_EPSILON).sqrt()
    return centred / deviation, deviation


def _affine(values: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return torch.addcmul(bias.unsqueeze(-1), values, scale.unsqueeze(-1))


class LearnedOptimizer(Remembering):
    """Turns gradients into updates, step after step.

    Attributes:
        meta: the learned parameters.
        steps: gradients taken in so far.
        mean, square: running moments of the gradient, `(scalars,)`.
        memory: of every scalar, without graph.
    """

    remembers = ("steps", "mean", "square", "memory")

    def __init__(self, meta: MetaParameters, scalars: int, betas: tuple[float, float], ahead: int) -> None:
        """Starts without having seen a gradient.

        Args:
            meta: the learned parameters, on the device and in the precision of the gradients.
            scalars: numbers that are optimized.
            betas: shares of the old in the running moments.
            ahead: added to the step number in the exponent of the bias correction: 0, or 1 as released.
        """
        self.meta, self.betas, self.ahead = meta, betas, ahead
        self.steps = 0
        self.mean, self.square = (meta.output.detach().new_zeros(scalars) for _ in range(2))
        self.memory = start(meta, scalars)

    def update(self, gradient: Tensor) -> Tensor:
        """What to subtract from the scalars, in units of the learning rate, in (-1, 1); `(scalars,)`.

        Where gradients are on, the result has a graph to the meta parameters, which goes back this step only: to the
        initial memory at the first step, and never through the moments or the memory of later ones.

        Args:
            gradient: of the loss with respect to all scalars, `(scalars,)`.
        """
        gradient = gradient.detach()
        self.steps += 1
        self.mean = torch.lerp(gradient, self.mean, self.betas[0])
        self.square = torch.lerp(gradient.square(), self.square, self.betas[1])
        exponent = self.steps + self.ahead
        corrected, scale = (1 - beta**exponent for beta in self.betas)
        root = (self.square / scale).sqrt() + MOMENT_EPSILON
        inputs = torch.stack([self.mean / corrected / root, gradient / root])
        with torch.autocast(device_type=gradient.device.type, enabled=False):
            response, memory = respond(self.meta, self.memory, inputs)
        self.memory = Memory(*(part.detach() for part in memory))
        return response

    def state_dict(self) -> dict[str, Any]:
        """What later steps depend on."""
        return super().state_dict() | {"memory": tuple(self.memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        super().load_state_dict({**state, "memory": Memory(*state["memory"])})
