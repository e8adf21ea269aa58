"""A stand-in accelerator, `accel`: its tensors say that they are on a device, and their numbers lie in CPU memory.

It finds without a GPU what only a GPU would: an operation that mixes devices raises, and every time that the host would
have to wait for the device is noted.

What it cannot show: a GPU's own kernels, speed and memory, the real order of streams, `torch.compile`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing

from tests.accelerator.backend import DEVICE, WAITS, note_wait

READS = frozenset(
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "nonzero", "equal", "masked_select", "bincount"),
        *("_unique", "_unique2", "unique_consecutive", "unique_dim"),
        *("linalg_eigh", "_linalg_eigh", "linalg_svd", "_linalg_svd", "linalg_cholesky", "multinomial"),
    )
)
"""Operations whose result goes to the host, or has a shape that only the device knows; those that look for errors."""

COPIES = ("aten::copy_", "aten::_to_copy", "aten::_copy_from")
"""Operations that take tensors of two devices."""


@contextmanager
def waits() -> Iterator[list[str]]:
    """The operations for which the host waits inside; they are there once the block is left."""
    found: list[str] = []
    start = len(WAITS)
    try:
        yield found
    finally:
        found += WAITS[start:]


class AcceleratorTensor(Tensor):
    """A tensor on the stand-in.

    Attributes:
        raw: its numbers, a tensor on the CPU of the same shape, strides and offset.
    """

    raw: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> AcceleratorTensor:
        made = Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        _refuse_mixed(name, args, kwargs)
        _note_wait(name, args, kwargs)
        out = func(*_raw(args), **{key: _raw(value) for key, value in kwargs.items()})
        if _lands_on_cpu(name, args, kwargs):
            return args[0] if name == "aten::copy_" else out
        wrapped = _wrapped(out)
        if not _shares(func):
            return wrapped
        corrected = return_and_correct_aliasing(func, args, kwargs, wrapped)
        for value in (*args, *kwargs.values()):
            if isinstance(value, AcceleratorTensor) and value.shape != value.raw.shape:
                raise NotImplementedError(f"{name} changes a shape, which the stand-in cannot: give it to FACTORIES")
        return corrected

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """The tensor without its history."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.raw = value.raw  # type: ignore[attr-defined]

    def record_stream(self, stream: Any) -> None:
        """Nothing is ever in use after it was done."""

    def tolist(self) -> Any:
        """The numbers, for which the host waits."""
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Refused, as on a GPU."""
        raise TypeError("can't convert accel:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As a tensor on the CPU that goes back to the device when it is loaded."""
        rebuild = torch._utils._rebuild_device_tensor_from_cpu_tensor
        return rebuild, (self.detach().cpu(), self.dtype, str(self.device), self.requires_grad)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"accel:{self.raw!r}"


def _raw(value: Any) -> Any:
    """What stands for an argument, or for a list of them, on the CPU."""
    if isinstance(value, AcceleratorTensor):
        return value.raw
    if isinstance(value, list | tuple):
        return [_raw(one) for one in value]
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == DEVICE.type else value


def _wrapped(value: Any) -> Any:
    """What an operation returned, on the device."""
    if isinstance(value, Tensor):
        return AcceleratorTensor(value)
    return type(value)(_wrapped(one) for one in value) if type(value) in (list, tuple) else value


@cache
def _shares(operation: Any) -> bool:
    """Whether what an operation returns may share memory with its arguments, as its schema says."""
    schema = operation._schema
    return any(one.alias_info is not None for one in (*schema.arguments, *schema.returns))


def _refuse_mixed(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """Raises as a GPU does; beside tensors of the device, numbers may come as tensors without dimensions."""
    if name in COPIES:
        return
    alone = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim() > 0]
    listed = [one for value in args if isinstance(value, list | tuple) for one in value if isinstance(one, Tensor)]
    alien = [value for value in alone + listed if not isinstance(value, AcceleratorTensor)]
    if alien:
        shapes = ", ".join(str(tuple(value.shape)) for value in alien)
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} got shapes {shapes} on cpu")


def _note_wait(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    if name in READS or _lands_on_cpu(name, args, kwargs) or _masks(name, args) or _measures_repeats(name, kwargs):
        note_wait(name)
    elif name == "aten::copy_" and not isinstance(args[1], AcceleratorTensor) and args[1].dim() + args[1].numel() > 1:
        unblocked = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        if not (unblocked and args[1].is_pinned()):
            note_wait("copy from memory that is not pinned")


def _lands_on_cpu(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    if name == "aten::copy_":
        return not isinstance(args[0], AcceleratorTensor)
    device = kwargs.get("device")
    return device is not None and torch.device(device).type == "cpu"


def _masks(name: str, args: Any) -> bool:
    """Whether an index is a mask, whose size the host must know. Writing one number behind a mask needs no size."""
    if name not in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
        return False
    if name != "aten::index" and args[2].numel() == 1:
        return False
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _measures_repeats(name: str, kwargs: dict[str, Any]) -> bool:
    return name == "aten::repeat_interleave" and kwargs.get("output_size") is None


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    return AcceleratorTensor(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return AcceleratorTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """A copy that torch makes below dispatch, such as for `torch.tensor`."""
    if not (isinstance(source, AcceleratorTensor) and isinstance(target, AcceleratorTensor)):
        note_wait("aten::_copy_from")
    _raw(target).copy_(_raw(source))
    return target


def _factory(make: Any) -> Any:
    """Makes on the CPU what torch would make empty and then enlarge, which a wrapper cannot be."""

    def made(*args: Any, device: Any = None, pin_memory: Any = None, **kwargs: Any) -> Tensor:
        return AcceleratorTensor(make(*args, device="cpu", **kwargs))

    return made


FACTORIES = ("arange", "arange.start", "arange.start_step", "eye", "eye.m", "randperm", "randperm.generator")

LIBRARY = torch.library.Library("aten", "IMPL")
for _name in FACTORIES:
    _packet, _, _overload = _name.partition(".")
    LIBRARY.impl(_name, _factory(getattr(getattr(torch.ops.aten, _packet), _overload or "default")), "PrivateUse1")
LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
LIBRARY.impl("_copy_from_and_resize", _copy_from, "PrivateUse1")

AUTOCAST = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
"""Autocast may be entered, and casts nothing: what is computed in bf16 is the business of real devices."""
AUTOCAST.fallback(torch.library.fallthrough_kernel)
