"""What a checkpoint holds: objects that give their state away and take it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor


class Stateful(Protocol):
    """An object with a state, such as a module, an optimizer or a memory.

    The two methods are those of `torch.distributed.checkpoint.stateful.Stateful`, which takes a second to import.
    """

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors, plain values and containers of them. It may be live: whoever keeps it copies it."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Takes back what `state_dict` gave. The values are the object's to keep."""


class Remembering:
    """An object whose state is some of its attributes; all else is as it was at construction."""

    remembers: ClassVar[tuple[str, ...]] = ()
    """These attributes. One that an object does not have is left out."""

    def state_dict(self) -> dict[str, Any]:
        """The live values of what it remembers."""
        return {name: vars(self)[name] for name in self.remembers if name in vars(self)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave; tensors go where those that they replace are."""
        for name, value in state.items():
            own = vars(self).get(name)
            if isinstance(own, Tensor) and isinstance(value, Tensor):
                value = value.to(own.device)
            vars(self)[name] = value
