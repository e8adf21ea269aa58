"""DeYO: trains normalisation layers on the entropy of samples whose prediction depends on the shapes in the image.

Paper: Lee et al., ICLR 2024 (mixed §2.5). Deviations: the network stays in eval mode, and the layers that are left
out are the last quarter's, whatever their names; the release's names are the setting `legacy_names`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tta_core.device import scalar, upload
from tta_core.errors import InputError
from tta_core.methods.base import Method
from tta_core.methods.common.layer_choice import trained_norms
from tta_core.methods.common.losses import entropy_margin, softmax_entropy, widened
from tta_core.methods.common.optim import make_optimizer
from tta_core.methods.common.selective import SelectiveForward
from tta_core.methods.common.surgery import thaw_norms
from tta_core.methods.deyo.shape_destruction import occlude, shuffle_patches, shuffle_pixels
from tta_core.methods.deyo.spec import DeYOSettings
from tta_core.methods.stateful import Stateful

PUBLISHED_SIZE = 224
"""The image size, in pixels, that the published occlusion window is made for."""


class Selection(NamedTuple):
    """How a batch was judged.

    Attributes:
        reliable: int64 `(reliable,)`, the samples below the entropy margin.
        destroyed_logits: `(reliable, classes)`, of those with their shapes destroyed.
        plpd: by how much the probability of their predicted class fell, `(reliable,)`.
        selected: int64 `(selected,)`, the samples that enter the loss.
        selected_plpd: `(selected,)`.
    """

    reliable: Tensor
    destroyed_logits: Tensor
    plpd: Tensor
    selected: Tensor
    selected_plpd: Tensor


class DeYO(Method[DeYOSettings]):
    """One step per batch on the weighted entropy of the selected samples; scores the logits before the update.

    Attributes:
        last_selection: how the last batch was judged; None before the first.
    """

    last_selection: Selection | None = None

    def prepare(self) -> None:
        """Thaws the affine pairs of the normalisation layers that are trained."""
        thaw_norms(self.network, "deyo", trained_norms(self.settings.norms, self.network))
        self.forward = SelectiveForward(self.network)
        self.margin = entropy_margin(self.settings.entropy_margin, self.num_classes)
        self.weight_margin = entropy_margin(self.settings.weight_margin, self.num_classes)

    def parts(self) -> dict[str, Stateful]:
        """What decides how the next batch is computed."""
        return {"forward": self.forward}

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """SGD or Adam, no weight decay."""
        return make_optimizer(self.settings, parameters)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` before the update; none is made if no sample is selected.

        Waits for the device twice: for the reliable samples, which alone are destroyed, and for the selected ones.
        """
        logits = self.forward(images)
        judged = self._judge(images, logits.detach())
        self.last_selection = judged
        self.record = {
            "selected": scalar(len(judged.selected), images.device),
            "reliable": scalar(len(judged.reliable), images.device),
            "plpd": judged.plpd.sum() / max(len(judged.plpd), 1),
        }
        self.record |= self._learn(self.forward.selected(images, logits, judged.selected), judged.selected_plpd)
        return logits

    def draw_order(self, samples: int, pixels: int) -> Tensor:
        """What is shuffled how, on the CPU: tiles `(samples, patch_len^2)`, each row for itself, or `(pixels,)`."""
        if self.settings.destruction == "pixel":
            return torch.randperm(pixels, generator=self.generator)
        return torch.rand(samples, self.settings.patch_len**2, generator=self.generator).argsort(dim=-1)

    def destroy(self, images: Tensor) -> Tensor:
        """Destroys the shapes in images `(batch, channels, height, width)`, which stay as they are."""
        settings, (height, width) = self.settings, images.shape[-2:]
        if settings.destruction == "occlusion":
            return occlude(images, *self._window(height, width))
        order = upload(self.draw_order(len(images), height * width), images.device)
        if settings.destruction == "pixel":
            return shuffle_pixels(images, order)
        return shuffle_patches(images, order, settings.patch_len)

    @torch.no_grad()
    def _judge(self, images: Tensor, logits: Tensor) -> Selection:
        """The two filters; samples that the first leaves out are not looked at again."""
        settings = self.settings
        reliable = torch.arange(len(images), device=images.device)
        if settings.filter_entropy:
            reliable = (softmax_entropy(logits) < self.margin).nonzero().squeeze(1)
        if len(reliable) == 0:
            nothing = widened(logits)[:0]
            return Selection(reliable, nothing, nothing[:, 0], reliable, nothing[:, 0])
        destroyed: Tensor = self.network(self.destroy(images if len(reliable) == len(images) else images[reliable]))
        probabilities = widened(logits).softmax(dim=-1)[reliable]
        label = probabilities.argmax(dim=-1, keepdim=True)
        fallen = widened(destroyed).softmax(dim=-1).gather(1, label)
        plpd = (probabilities.gather(1, label) - fallen).squeeze(1)
        if not settings.filter_plpd:
            return Selection(reliable, destroyed, plpd, reliable, plpd)
        passed = (plpd > settings.plpd_margin).nonzero().squeeze(1)
        return Selection(reliable, destroyed, plpd, reliable[passed], plpd[passed])

    def _learn(self, logits: Tensor, plpd: Tensor) -> dict[str, Tensor]:
        """Steps on logits `(selected, classes)` and differences `(selected,)`; returns what was lost, if anything."""
        if len(logits) == 0:
            return {}
        settings, entropy = self.settings, softmax_entropy(logits)
        weight = torch.ones_like(plpd)
        if settings.weight_by_entropy or settings.weight_by_plpd:
            by_entropy = (self.weight_margin - entropy.detach()).exp()
            weight = settings.weight_by_entropy * by_entropy + settings.weight_by_plpd * plpd.exp()
        loss = (weight * entropy).mean()
        self.descend(loss)
        return {"loss": loss.detach()}

    def _window(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the occlusion in an image of this size.

        Raises:
            InputError: if the window lies outside.
        """
        settings, corner = self.settings, (self.settings.occlusion_row, self.settings.occlusion_column)
        slices = []
        for start, length in zip(corner, (height, width), strict=True):
            scale = length / PUBLISHED_SIZE if settings.occlusion_scaled else 1
            first, last = round(start * scale), round((start + settings.occlusion_size) * scale)
            if first >= min(last, length):
                raise InputError(
                    f"occlusion_size = {settings.occlusion_size} at row {corner[0]}, column {corner[1]} covers nothing "
                    f"of images of {height} by {width}: give a window inside of them; with occlusion_scaled its "
                    f"numbers are pixels of an image of {PUBLISHED_SIZE}"
                )
            slices.append(slice(first, last))
        return slices[0], slices[1]
