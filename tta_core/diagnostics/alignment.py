"""Alignment spread: does adaptation make inputs excite the source's spectral experts alike (imse §1.2 and §7.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tta_core.data.benchmarks import CLEAN
from tta_core.diagnostics.capture import FirstForward
from tta_core.diagnostics.held_out import EVALUATION_BATCH, held_out
from tta_core.diagnostics.observer import Measurement, Moment, Observer, Scene
from tta_core.methods.base import Method
from tta_core.methods.common.spectral_cache import cached_decomposition

OWNERS = ("Attention", "Mlp")
"""Ends of the class names of the modules whose linear layers are looked at."""

LAST_BLOCKS = 3
NORM_EPSILON = 1e-12
QUANTILES = (0.1, 0.5, 0.9)


class Alignment(Observer):
    """Standard deviation over all tokens of a batch of v_i . x / |x|, with V of the source weights.

    It reads the inputs of the linear layers of the first, the middle and the last three blocks, in the first forward of
    measuring steps, under their names in the source network; what a method has put in their place is read all the same.
    """

    remembers = ("_measured",)

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        source = scene.open_source()
        self._directions = {name: cached_decomposition(x.weight).vh for name, x in chosen_linears(source).items()}
        in_source = FirstForward(_present(source, self._directions), self._spread)
        in_source.arm()
        with torch.no_grad():
            source(scene.normalise(held_out(scene, CLEAN).images[:EVALUATION_BATCH]))
        self._of_source = in_source.kept
        assert scene.method.watched is not None, "what it applies to has one"
        self._first = FirstForward(_present(scene.method.watched, self._directions), self._spread)
        self._measured: list[tuple[int, dict[str, Tensor]]] = []

    @classmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Whether the network has blocks of attention or feed-forward layers."""
        watched = method.watched
        return watched is not None and any(type(module).__name__.endswith(OWNERS) for module in watched.modules())

    def before_step(self, moment: Moment) -> None:
        """Reads the coming forward of a measuring step."""
        if moment.measuring:
            self._first.arm()

    def after_step(self, moment: Moment, logits: Tensor) -> None:
        """Keeps what was read."""
        self._first.disarm()
        if moment.measuring:
            self._measured.append((moment.step, self._first.kept))

    def measurements(self) -> list[Measurement]:
        """Mean and quantiles over the spectral experts by step and layer; the mean in the source, on clean images."""
        found = [
            Measurement("alignment_std_source", float(values[0]), layer=layer)
            for layer, values in self._of_source.items()
        ]
        names = ["alignment_std", *(f"alignment_std_q{round(100 * quantile)}" for quantile in QUANTILES)]
        return found + [
            Measurement(name, value, step=step, layer=layer)
            for step, layers in self._measured
            for layer, values in layers.items()
            for name, value in zip(names, values.tolist(), strict=True)
        ]

    def _spread(self, name: str, _: nn.Module, x: Tensor) -> Tensor:
        with self.scene.off_clock():
            spread = alignment_std(x.float(), self._directions[name])
            quantiles = torch.tensor(QUANTILES, device=spread.device)
            return torch.cat([spread.mean().unsqueeze(0), torch.quantile(spread, quantiles)])


def alignment_std(x: Tensor, directions: Tensor) -> Tensor:
    """Standard deviation over all tokens of their alignment with each direction (imse §1.2).

    Args:
        x: tokens `(..., dim)`.
        directions: right singular vectors `(experts, dim)`.

    Returns:
        `(experts,)`, unbiased.
    """
    tokens = functional.normalize(x.flatten(0, -2), dim=-1, eps=NORM_EPSILON)
    alignments = functional.linear(tokens, directions)
    # torch.std over the first axis takes several times longer on a CPU.
    squares = (alignments - alignments.mean(dim=0)).square().sum(dim=0)
    return (squares / (len(alignments) - 1)).sqrt()


def chosen_linears(network: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of attention and feed-forward modules in the first, the middle and the last three blocks."""
    found = {
        f"{owner}.{child}": linear
        for owner, module in network.named_modules()
        if type(module).__name__.endswith(OWNERS)
        for child, linear in module.named_modules()
        if isinstance(linear, nn.Linear)
    }
    blocks = list(dict.fromkeys(_block(name) for name in found))
    chosen = {blocks[0], blocks[len(blocks) // 2], *blocks[-LAST_BLOCKS:]} if blocks else set()
    return {name: linear for name, linear in found.items() if _block(name) in chosen}


def _block(name: str) -> str:
    """`blocks.3` of `blocks.3.attn.qkv`: what holds the attention or feed-forward module that holds the linear."""
    return name.rsplit(".", 2)[0]


def _present(network: nn.Module, names: dict[str, Tensor]) -> dict[str, nn.Module]:
    modules = dict(network.named_modules())
    return {name: modules[name] for name in names if name in modules}
