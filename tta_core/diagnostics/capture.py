"""What modules show of a step: read by forward hooks, in the first forward of the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Kept = TypeVar("Kept")


class FirstForward(Generic[Kept]):
    """Reads modules in the first forward of each step that it is armed for.

    The first forward is the one on the batch as it came, with the parameters that predict it; later ones of the same
    step are of perturbed parameters or augmented images.

    Attributes:
        kept: what was read since `arm`, by name of the module.
    """

    def __init__(self, modules: Mapping[str, nn.Module], read: Callable[[str, nn.Module, Tensor], Kept]) -> None:
        """Hooks the modules.

        Args:
            modules: what to read, by name.
            read: takes a module's name, the module and its input after its forward, and returns what to keep.
        """
        self.kept: dict[str, Kept] = {}
        self._read = read
        self._armed = False
        for name, module in modules.items():
            module.register_forward_hook(self._hook(name))

    def arm(self) -> None:
        """Forgets what was kept and reads from now on."""
        self.kept = {}
        self._armed = True

    def disarm(self) -> None:
        """Reads no more."""
        self._armed = False

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
            if self._armed and name not in self.kept:
                with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
                    self.kept[name] = self._read(name, module, inputs[0].detach())

        return hook
