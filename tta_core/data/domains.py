"""Names of the corruption domains, in the order in which the published tables list them."""

from __future__ import annotations

CORRUPTIONS: tuple[str, ...] = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The fifteen reported corruptions of ImageNet-C."""

HELD_OUT_CORRUPTIONS: tuple[str, ...] = ("speckle_noise", "spatter", "gaussian_blur", "saturate")
"""The four extra corruptions, kept for choosing settings."""
