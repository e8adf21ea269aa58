"""CoTTA, for segmentation: trains the whole network towards the classes that its moving average gives to views.

The released step decides pixel by pixel, by the source's confidence, and learns hard classes; both are here. Deviation:
the source is run on the one view that is used, where the release runs it on all.
"""

from __future__ import annotations

from typing import cast

from tta_core.methods.common.pixel_teacher import PixelTeacher
from tta_core.methods.common.surgery import norm_layers, thaw_weights
from tta_core.methods.cotta.pixel_spec import PixelCoTTASettings


class PixelCoTTA(PixelTeacher):
    """One step per batch, see `PixelTeacher`."""

    def prepare(self) -> None:
        """Thaws what `train_scope` names; BatchNorm keeps its running statistics."""
        scope = cast(PixelCoTTASettings, self.settings).train_scope
        thaw_weights(self.network, "cotta", [n for n, _ in norm_layers(self.network)] if scope == "norm" else None)
