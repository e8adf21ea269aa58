"""A golden case: one `.npz` with the data of a published run and one `.json` that says what was run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

FLOAT64_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Case:
    """One case, read from its two files.

    Attributes:
        manifest: the `.json`: method, `hyper` (options), `model`, tolerances.
        trace: the `.npz`: inputs, initial values and what the published run did.
    """

    manifest: dict[str, Any]
    trace: dict[str, NDArray[Any]]

    @classmethod
    def read(cls, manifest: Path) -> Case:
        """Reads `<case>.json` and the `<case>.npz` beside it."""
        with np.load(manifest.with_suffix(".npz")) as arrays:
            return cls(json.loads(manifest.read_text()), {name: arrays[name] for name in arrays.files})

    @property
    def name(self) -> str:
        """Name of the case."""
        return str(self.manifest["case"])

    @property
    def followed_as(self) -> str:
        """Name of its follower: the method, after the task if that is not classification."""
        task, method = self.manifest.get("task", "classification"), self.manifest["method"]
        return str(method) if task == "classification" else f"{task} {method}"

    @property
    def hyper(self) -> dict[str, Any]:
        """Options of the published run, by their published names."""
        return dict(self.manifest["hyper"])

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return int(self.manifest["model"]["num_classes"])

    @cached_property
    def batches(self) -> Tensor:
        """What the published method was given: float32 `(steps, batch, 3, height, width)`."""
        return self.pixels(self.trace["u8"], normalised=self.normalised)

    @property
    def normalised(self) -> bool:
        """Whether the published method was given normalised images, not pixels."""
        return "(x-0.5)/0.5" in self.manifest["input_rule"]

    def pixels(self, grid: NDArray[np.uint8], *, normalised: bool) -> Tensor:
        """Enlarges a stored grid `(..., 3, g, g)` to network input, in [0, 1] or normalised to [-1, 1]."""
        scale = self.manifest["image_size"] // grid.shape[-1]
        pixels = grid.repeat(scale, axis=-1).repeat(scale, axis=-2).astype(np.float32) / np.float32(255)
        return torch.from_numpy((pixels - np.float32(0.5)) / np.float32(0.5) if normalised else pixels)

    @property
    def normalises_inside(self) -> bool:
        """Whether the published method was given pixels, and its network normalised them: mean and deviation 0.5."""
        return "the wrapped model normalises" in self.manifest["hyper_words"].get("input", "")

    def network(self, dtype: torch.dtype) -> nn.Module:
        """The plain network with its initial weights."""
        shape = {key: value for key, value in self.manifest["model"].items() if key not in ("note", "architecture")}
        network: VisionTransformer | ResNet
        if self.manifest["model"].get("architecture") == "resnet":
            network = ResNet(BasicBlock, **shape)
            network.maxpool = nn.Identity()
        else:
            network = VisionTransformer(**shape)
        initial = self.tensors("init/", torch.float32)
        # Counters of batches are whole numbers, which `tensors` leaves out; nothing reads them.
        counters = {name: value for name, value in network.state_dict().items() if value.dtype == torch.int64}
        network.load_state_dict(initial | counters)
        return network.to(dtype).eval()

    def tensors(self, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """The stored arrays whose names start with `prefix`, without it, as tensors; name lists are left out."""
        return {
            name.removeprefix(prefix): torch.from_numpy(array.astype(np.float32)).to(dtype)
            for name, array in self.trace.items()
            if name.startswith(prefix) and array.dtype.kind == "f"
        }

    def expected(self, name: str, dtype: torch.dtype) -> NDArray[Any] | None:
        """What the published run recorded under `name` in this precision, for all steps; None if it did not."""
        return self.trace.get(f"{'out64' if dtype == torch.float64 else 'out'}/{name}")

    def tolerance(self, quantity: str, dtype: torch.dtype) -> float:
        """Largest difference that is allowed for `logits` or `loss`."""
        if dtype == torch.float64:
            return FLOAT64_TOLERANCE
        return float(self.manifest["tolerance"][f"{quantity}_float32"])
