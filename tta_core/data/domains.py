"""Names of the corruption domains, in the order in which the published tables list them, and in ten random orders."""

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

_RANDOM_ORDERS = """
brightness pixelate gaussian_noise motion_blur zoom_blur glass_blur impulse_noise jpeg_compression defocus_blur elastic_transform shot_noise frost snow fog contrast
jpeg_compression shot_noise zoom_blur frost contrast fog defocus_blur elastic_transform gaussian_noise brightness glass_blur impulse_noise pixelate snow motion_blur
contrast defocus_blur gaussian_noise shot_noise snow frost glass_blur zoom_blur elastic_transform jpeg_compression pixelate brightness impulse_noise motion_blur fog
shot_noise fog glass_blur pixelate snow elastic_transform brightness impulse_noise defocus_blur frost contrast gaussian_noise motion_blur jpeg_compression zoom_blur
pixelate glass_blur zoom_blur snow fog impulse_noise brightness motion_blur frost jpeg_compression gaussian_noise shot_noise contrast defocus_blur elastic_transform
motion_blur snow fog shot_noise defocus_blur contrast zoom_blur brightness frost elastic_transform glass_blur gaussian_noise pixelate jpeg_compression impulse_noise
frost impulse_noise jpeg_compression contrast zoom_blur glass_blur pixelate snow defocus_blur motion_blur brightness elastic_transform shot_noise fog gaussian_noise
glass_blur zoom_blur impulse_noise fog snow jpeg_compression gaussian_noise frost shot_noise brightness contrast motion_blur pixelate defocus_blur elastic_transform
defocus_blur motion_blur zoom_blur shot_noise gaussian_noise glass_blur jpeg_compression fog contrast pixelate frost snow brightness elastic_transform impulse_noise
contrast gaussian_noise defocus_blur zoom_blur frost glass_blur jpeg_compression fog pixelate elastic_transform shot_noise impulse_noise snow motion_blur brightness
"""  # noqa: E501

ORDERS: dict[str, tuple[str, ...]] = {
    f"order-{number}": tuple(line.split()) for number, line in enumerate(_RANDOM_ORDERS.strip().splitlines())
}
"""The ten random orders over which continual results are published, by their name in `domains` (continual §5.2)."""


def at_severity(domain: str, severity: int) -> str:
    """The name of a domain at a strength of its own, such as `fog@3`."""
    return f"{domain}@{severity}"


def split_severity(name: str, severity: int) -> tuple[str, int]:
    """Domain and strength of a name; `severity` is that of a name that has none, such as `fog`."""
    domain, at, own = name.partition("@")
    return domain, int(own) if at else severity
