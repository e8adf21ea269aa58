"""`torch.compile` for the part of a network that costs the time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tta_core.methods.base import Method

RECOMPILE_LIMIT = 64
"""All methods share the code of one forward, and each needs a compilation of its own. Beyond the limit, 8 unless told
otherwise, `torch.compile` would run the rest uncompiled without a word."""


class CompiledTrunk:
    """The trunk of a network, compiled in place.

    The trunk is the sequence of blocks of a transformer, so that methods which embed and read out by themselves run it
    too; of a network without one it is the network.

    Attributes:
        calls: how often the compiled trunk was run. None in a step means that the step goes around it.
    """

    def __init__(self, network: nn.Module) -> None:
        blocks = getattr(network, "blocks", None)
        trunk = blocks if isinstance(blocks, nn.Sequential) else network
        trunk.compile()
        self.calls = 0
        self._compiled = trunk._compiled_call_impl
        trunk._compiled_call_impl = self._call

    def _call(self, *arguments: Any, **named: Any) -> Any:
        assert self._compiled is not None
        self.calls += 1
        return self._compiled(*arguments, **named)


def compile_method(method: Method[Any]) -> list[CompiledTrunk]:
    """Compiles all networks of the method, such as a teacher."""
    return [CompiledTrunk(network) for network in method.networks().values()]


def graph_breaks(method: Method[Any], images: Tensor) -> dict[str, int]:
    """Why the forward of a method leaves the graph that `torch.compile` makes of it -> how often; empty for one graph.

    All networks of the method are asked, whole. What was compiled before is forgotten.
    """
    from torch._dynamo import reset
    from torch._dynamo.exc import TorchDynamoException
    from torch._dynamo.utils import counters

    reset()
    counters["graph_break"].clear()
    found: Counter[str] = Counter()
    for network in method.networks().values():
        try:
            torch.compile(network, backend="eager")(images)
        except TorchDynamoException as error:  # What it cannot trace is a break at one time, and an error at another.
            found[str(error).partition("\n")[0]] += 1
    for text, count in counters["graph_break"].items():
        found[str(text).partition("\n")[0]] += count
    reset()
    return dict(found)


@contextmanager
def many_compilations() -> Iterator[None]:
    """Allows as many compilations of the same code as there are methods."""
    from torch._dynamo import config  # Takes seconds, and most benchmarks compile nothing.

    with config.patch(recompile_limit=RECOMPILE_LIMIT):
        yield
