"""IMSE, for segmentation: trains singular values of a SegFormer on reliable pixels, and keeps a bank of them by domain.

Nothing was published for it. Blocks of all stages are counted in one row. Domains are told apart by the tokens of the
first patch embedding, at no more than 1,024 places of an image, and by several images together. The diversity is that
of all tokens of the last blocks, which the layers measure in their own forward.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_core.backbones.segformer import Block, SegFormer
from tta_core.errors import InputError
from tta_core.methods.common.pixels import PixelMethod, at_ratio, chosen_pixels, pixel_entropy, pixel_mean
from tta_core.methods.context import Artefact, Context
from tta_core.methods.imse.descriptor import Descriptor, average, describe
from tta_core.methods.imse.domains import source_descriptor
from tta_core.methods.imse.layers import SpectralLinear, replace_by_spectral
from tta_core.methods.imse.method import IMSE, Objective, told
from tta_core.methods.imse.pixel_spec import PixelIMSESettings

MOST_PLACES = 1024
"""Places of an image whose tokens describe it."""


class PixelIMSE(PixelMethod[PixelIMSESettings], IMSE):
    """One SAM step of Adam per batch on the entropy of pixels minus diversity; scores the logits of the first pass.

    Attributes:
        means, variances: of the images that were described and not yet looked at, `(images, channels)`.
    """

    remembers = ("means", "variances")
    settings: PixelIMSESettings

    @classmethod
    def make_artefact(cls, network: nn.Module, settings: PixelIMSESettings, context: Context) -> Artefact:  # type: ignore[override]
        """Describes the source: `mean` and `variance` `(channels,)` of its tokens; nothing without retrieval."""
        if settings.retrieval == "none":
            return {}
        assert context.source_images is not None, "asked for by the spec"
        return source_descriptor(
            context.source_images,
            lambda images: describe(first_tokens(network, at_ratio(images, context.base_scale))),
            settings,
        )._asdict()

    def prepare(self) -> None:
        """Decomposes the linear layers and thaws the singular values of the blocks that are trained."""
        blocks = [name for name, module in self.network.named_modules() if isinstance(module, Block)]
        names = [f"{block}.{component}" for block in blocks for component in self.settings.components]
        replace_by_spectral(self.network, names)
        layers = {name: self.network.get_submodule(name) for name in names}
        numbers = {name: number for number, name in enumerate(blocks)}
        self._take(
            blocks,
            [
                (numbers[name.rsplit(".", 2)[0]], name, layer)
                for name, layer in layers.items()
                if isinstance(layer, SpectralLinear)
            ],
        )

    def begin(self) -> None:
        """Opens the bank with the source."""
        super().begin()
        if self.bank is not None:
            self.means, self.variances = self.bank.means[:0], self.bank.variances[:0]

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes, height, width)` before the update, with the code that was retrieved."""
        visit = self._visit(first_tokens(self.network, self.sized(images)))
        first = self._objective(images)
        scored = self.frozen_logits(images) if self.settings.views > 1 else self.as_predicted(first.logits, images)
        last = self._learn(first, images)
        self.record = visit | told(first, last)
        self.record |= {
            "selected": last.selected.flatten(1).any(dim=1).sum(),
            "selected_pixels": last.selected.double().mean(),
            "reliable": first.selected.flatten(1).any(dim=1).sum(),
        }
        return scored

    def _objective(self, images: Tensor, among: Tensor | None = None) -> Objective:
        """One pass over whole images; pixels are selected from those `among` `(batch, height, width)`."""
        logits = self.whole(self.network, images)
        entropy = pixel_entropy(self.enlarged(logits, images))
        selected = chosen_pixels(entropy.detach(), self.margin, self.settings.select)
        if among is not None:
            selected = selected & among
        return self._with_diversity(logits, selected, pixel_mean(entropy, selected))

    def _visit(self, tokens: Tensor) -> dict[str, Tensor]:
        """Describes a batch; once there are enough of them, looks for a change of domain (imse §1.7)."""
        if self.bank is None:
            return super()._visit(tokens)
        found = describe(tokens)
        self.means = torch.cat([self.means, found.mean[None]])
        self.variances = torch.cat([self.variances, found.variance[None]])
        if len(self.means) < self.settings.detection_window:
            self.last_retrieval = self.last_distances = None
            zero = torch.zeros((), device=tokens.device)
            unchanged = {"shift": zero, "shift_distance": zero, "stored": zero - 1, "retrieved": zero - 1}
            return unchanged | {"bank_size": zero + len(self.bank)}
        visit = super()._visit(tokens)
        self.means, self.variances = self.means[:0], self.variances[:0]
        return visit

    def _describe(self, tokens: Tensor) -> Descriptor:
        """The batches since the last look, together."""
        return average((Descriptor(*one), 1) for one in zip(self.means, self.variances, strict=True))


def first_tokens(network: nn.Module, images: Tensor) -> Tensor:
    """Tokens `(batch, places, channels)` of the first patch embedding on a fixed grid, without gradient.

    Raises:
        InputError: if the network is no SegFormer.
    """
    if not isinstance(network, SegFormer):
        raise InputError(f"imse segments with a SegFormer, and this network is a {type(network).__name__}")
    embedding = network.stages[0].get_submodule("patch_embed")
    with torch.no_grad():
        tokens: Tensor = embedding(images)
    every = 1
    while -(-tokens.shape[1] // every) * -(-tokens.shape[2] // every) > MOST_PLACES:
        every += 1
    return tokens[:, ::every, ::every].flatten(1, 2)
