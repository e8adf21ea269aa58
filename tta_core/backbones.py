"""The backbone table: one row is one network with its weights and preprocessing. Imports no torch."""

from __future__ import annotations

from tta_core.spec import BackboneSpec, NetworkKind, Pretraining

Channels = tuple[float, float, float]
Normalisation = tuple[Channels, Channels]
"""Mean and standard deviation of inputs in [0, 1], by channel."""

HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: Normalisation = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
UNNORMALISED: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Inputs stay in [0, 1]. Results on such inputs are another table than those on normalised ones (imse spec 5.1)."""

AUGREG_VIT_B = "vit_base_patch16_224.augreg_in21k_ft_in1k"

VIT_B_MS, VIT_L_MS, VIT_B_384_MS, CONVNEXT_B_MS = 240.0, 870.0, 790.0, 240.0
"""Milliseconds an image, measured with random weights in batches of 8 on one core of an Intel Xeon."""


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
        mean=HALF[0],
        std=HALF[1],
        clean_accuracy=clean_accuracy,
        classes="digits",
        kinds=("transformer",),
        forward_ms=0.15,
    )


def _imagenet(
    name: str,
    title: str,
    forward_ms: float,
    *,
    pretraining: Pretraining = "supervised",
    source: str = "",
    weights: str = "",
    normalisation: Normalisation = HALF,
    options: dict[str, str] | None = None,
    clean_accuracy: float | None = None,
    kinds: tuple[NetworkKind, ...] = ("transformer",),
) -> BackboneSpec:
    """A row for a network on ImageNet's 1000 classes at 224 pixels; by default the timm model of that name."""
    return BackboneSpec(
        name=name,
        title=title,
        pretraining=pretraining,
        source=source or f"timm:{name}",
        weights=weights or name,
        options=options or {},
        num_classes=1000,
        image_size=224,
        mean=normalisation[0],
        std=normalisation[1],
        clean_accuracy=clean_accuracy,
        classes="imagenet-1k",
        kinds=kinds,
        forward_ms=forward_ms,
    )


def _cifar(classes: int) -> BackboneSpec:
    """A row for ViT-B/16 at 384 pixels, fine-tuned on CIFAR by the user or by the authors of ViDA (imse spec 5.6)."""
    name = f"cifar{classes}_vit_base_patch16_384"
    return BackboneSpec(
        name=name,
        title=f"ViT-B/16 at 384 pixels on inputs in [0, 1], fine-tuned on CIFAR-{classes}; weights from your own file",
        pretraining="supervised",
        source="file:vit_base_patch16_384",
        weights=name,
        num_classes=classes,
        image_size=384,
        mean=UNNORMALISED[0],
        std=UNNORMALISED[1],
        classes=f"cifar-{classes}",
        kinds=("transformer",),
        forward_ms=VIT_B_384_MS,
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
        BackboneSpec(
            name="digits-resnet-supervised",
            title="tiny ResNet with BatchNorm, trained with labels",
            pretraining="supervised",
            source="embedded:resnet-supervised",
            weights="digits_resnet_supervised.safetensors",
            sha256="ca42c69f1a603dd9948e32be7535dbdac4bb99ed8fcc8abdb3c5433abb8cc291",
            num_classes=10,
            image_size=32,
            mean=HALF[0],
            std=HALF[1],
            clean_accuracy=0.995551,
            classes="digits",
            kinds=("batch-norm",),
            forward_ms=0.35,
        ),
        _imagenet(
            "vit_base_patch16_224.augreg2_in21k_ft_in1k", "ViT-B/16 of the MoETTA, FOA and MGTTA tables", VIT_B_MS
        ),
        _imagenet(AUGREG_VIT_B, "ViT-B/16 of the IMSE and DPAL tables", VIT_B_MS),
        _imagenet(
            f"{AUGREG_VIT_B}-unnormalised",
            "the same ViT-B/16 on inputs in [0, 1], as in the ViDA and MoASE tables; never compare the two",
            VIT_B_MS,
            source=f"timm:{AUGREG_VIT_B}",
            weights=AUGREG_VIT_B,
            normalisation=UNNORMALISED,
        ),
        _imagenet("vit_large_patch16_224.augreg_in21k_ft_in1k", "ViT-L/16 of the MoETTA tables", VIT_L_MS),
        _imagenet(
            "convnext_base.fb_in22k_ft_in1k",
            "ConvNeXt-B of the MoETTA tables",
            CONVNEXT_B_MS,
            normalisation=IMAGENET,
            kinds=(),
        ),
        _imagenet(
            "vit_base_patch16_clip_224.openai_ft_in1k",
            "ViT-B/16 of OpenAI's CLIP, fine-tuned",
            VIT_B_MS,
            pretraining="clip",
            normalisation=CLIP,
        ),
        _imagenet(
            "mae_finetuned_vit_base",
            "ViT-B/16 by masked autoencoding, fine-tuned, read out as the mean of its patches; weights from your own "
            "file (https://github.com/facebookresearch/mae)",
            VIT_B_MS,
            pretraining="mae",
            source="file:vit_base_patch16_224",
            options={"global_pool": "avg"},
            normalisation=IMAGENET,
            clean_accuracy=0.836,
        ),
        _cifar(10),
        _cifar(100),
    )
}
