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
        forward_ms=0.15,
    )


BACKBONES: dict[str, BackboneSpec] = {
    row.name: row
    for row in (
        _digits_vit(
            "digits-vit-supervised",
            "tiny ViT trained with labels",
            "supervised",
            sha256="fe421b64429f9a17c1b9713153177372db0e9ad4ec70d987dd7a006bc579cd35",
            clean_accuracy=0.975528,
        ),
        _digits_vit(
            "digits-vit-mae",
            "tiny ViT, masked autoencoding and then fine-tuning with labels",
            "mae",
            sha256="f326ec9acfde3ee5c1455dfed8a7398bddee0d8b8f400a08f05731d1ee2f71ef",
            clean_accuracy=0.978865,
        ),
        _digits_vit(
            "digits-vit-text-prototype",
            "tiny ViT matched to vectors of the class names: the idea of CLIP, not CLIP",
            "text-prototype",
            sha256="b48039b5c12ee8982803f813fe0f6e2a4aef6b568787269c3372279517ae6d3d",
            clean_accuracy=0.984427,
        ),
    )
}
