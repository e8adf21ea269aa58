"""How images of a domain are brought to a network's size: which crop counts, and in words. Imports no torch."""

from __future__ import annotations

from tta_core.data.spec import Crop, OwnCrop


def photograph_crop(wanted: Crop) -> Crop:
    """The crop of photographs of any size, which are resized whatever is wanted of others."""
    return wanted if isinstance(wanted, OwnCrop) else "resize-center"


def crop_text(crop: Crop, size: int) -> str:
    """A crop in words.

    Args:
        crop: the crop, as readers take it.
        size: pixels that come out.
    """
    if isinstance(crop, OwnCrop):
        return f"resize {crop.short} {crop.interpolation}, centre crop {size}"
    return {
        "none": "as they are",
        "center": f"centre crop {size}, not resized",
        "resize-center": f"resize {round(size * 256 / 224)} bilinear, centre crop {size}",
        "upsample": f"enlarged to {size} bilinearly",
        "half": "half the height and width, bilinear",
    }[crop]
