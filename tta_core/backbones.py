"""The backbone table: one row is one network with its weights and preprocessing. Imports no torch."""

from __future__ import annotations

from tta_core.spec import BackboneSpec, Pretraining


def _digits_vit(name: str, title: str, pretraining: Pretraining, sha256: str, clean_accuracy: float) -> BackboneSpec:
    """A row for one of the networks shipped in `tta_core/embedded`."""
    return BackboneSpec(
        name=name,
        title=title,
        pretraining=pretraining,
        source=f"embedded:{pretraining}",
        weights=f"{name.replace('-', '_')}.safetensors",
        sha256=sha256,
        num_classes=10,
        image_size=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        crop="none",
        clean_accuracy=clean_accuracy,
        benchmark="digits-c",
        forward_ms=0.11,
    )


BACKBONES: dict[str, BackboneSpec] = {
    row.name: row
    for row in (
        _digits_vit("digits-vit-supervised", "tiny ViT trained with labels", "supervised", "0" * 64, 0.97),
        _digits_vit("digits-vit-mae", "tiny ViT, masked pre-training then fine-tuned", "mae", "", 0.0),
        _digits_vit("digits-vit-text-prototype", "tiny ViT matched to class-name vectors", "text-prototype", "", 0.0),
    )
}
