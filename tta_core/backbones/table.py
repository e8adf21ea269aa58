"""The backbone table: one row is one network with its weights and preprocessing. Imports no torch."""

from __future__ import annotations

from typing import Any

from tta_core.backbones.spec import BackboneSpec, NetworkKind, Pretraining, TextHeadSpec
from tta_core.data.spec import Interpolation
from tta_core.errors import InputError, named_row

Channels = tuple[float, float, float]
Normalisation = tuple[Channels, Channels]
"""Mean and standard deviation of inputs in [0, 1], by channel."""

HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: Normalisation = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
UNNORMALISED: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Inputs stay in [0, 1]. Results on such inputs are another table than those on normalised ones (continual §5.1)."""

AUGREG_VIT_B = "vit_base_patch16_224.augreg_in21k_ft_in1k"
AUGREG2_VIT_B = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
ORIG_VIT_B = "vit_base_patch16_224.orig_in21k_ft_in1k"
AUGREG_IN1K_VIT_B = "vit_base_patch16_224.augreg_in1k"

IMSE_ALTERNATIVES = (AUGREG2_VIT_B, ORIG_VIT_B, AUGREG_IN1K_VIT_B)
"""Other weights that IMSE registers, like `AUGREG_VIT_B` with and without normalisation (continual §5.6)."""

VIT_B_MS, VIT_L_MS, VIT_B_384_MS, CONVNEXT_B_MS, SWIN_B_MS, RESNET_50_MS = 240.0, 870.0, 790.0, 240.0, 235.0, 50.0
"""Milliseconds an image, measured with random weights in batches of 8 on one core of an Intel Xeon; the last two on an
AMD EPYC, scaled by the time of ViT-B there.
"""

SEGFORMER_MS = {"b0": 900.0, "b1": 2000.0, "b2": 4300.0, "b3": 6700.0, "b4": 9100.0, "b5": 12000.0}
"""The same of half an image of ACDC (960 x 540), scaled by arithmetic from B0."""

TIMM_RESULTS = "timm, results/results-imagenet.csv"
"""https://github.com/huggingface/pytorch-image-models at commit 0173a139: ImageNet's validation images under the tag's
own test transform. Where that table has another size than 224 pixels, a row names another source.
"""

CONVNEXT_CARD = "timm, model cards of ConvNeXt, at 224 pixels"
RESNET_CARD = "timm, model cards of ResNet, at 224 pixels"
MAE_README = "https://github.com/facebookresearch/mae, FINETUNE.md"
OPEN_CLIP_RESULTS = "open_clip, docs/openclip_results.csv"
"""https://github.com/mlfoundations/open_clip at commit 0a1cc150: ImageNet's validation images, CLIP's own transform."""

IMAGENET_TEXTS = "ba2475255f4b17a835a2322030aaa28749e1886e79dcdbdc2aeca9c6263ce7b4"
"""SHA-256 of open_clip's names of the 1000 classes in the 80 templates of OpenAI."""

EMBEDDED_TRAINING = "tta_core.backbones.embedded.train, 899 test digits"


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
        accuracy_source=EMBEDDED_TRAINING,
        classes="digits",
        kinds=("transformer",),
        forward_ms=0.15,
    )


def _segformer(size: str, forward_ms: float) -> BackboneSpec:
    """A row for a SegFormer on the classes of Cityscapes, with weights of the user's own."""
    return BackboneSpec(
        name=f"segformer-{size}",
        title=f"SegFormer-{size.upper()} on Cityscapes; weights from your own file "
        f"(https://github.com/NVlabs/SegFormer or nvidia/segformer-{size}-finetuned-cityscapes-1024-1024 on the hub; "
        "research and evaluation only)",
        task="segmentation",
        pretraining="supervised",
        source=f"file:segformer-{size}",
        weights=f"segformer-{size}",
        num_classes=19,
        image_size=1024,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        clean_accuracy=0.8239 if size == "b5" else None,
        accuracy_source="https://github.com/NVlabs/SegFormer/issues/128, windows, one scale" if size == "b5" else "",
        classes="cityscapes",
        kinds=("segformer",),
        forward_ms=forward_ms,
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
    crop_pct: float = 0.9,
    interpolation: Interpolation = "bicubic",
    clean_accuracy: float | None = None,
    accuracy_source: str = TIMM_RESULTS,
    protocol_accuracy: float | None = None,
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
        crop_pct=crop_pct,
        interpolation=interpolation,
        clean_accuracy=clean_accuracy,
        accuracy_source="" if clean_accuracy is None else accuracy_source,
        protocol_accuracy=protocol_accuracy,
        classes="imagenet-1k",
        kinds=kinds,
        forward_ms=forward_ms,
    )


def _unnormalised(tag: str, title: str) -> BackboneSpec:
    """A row for weights of a timm tag on inputs in [0, 1], which they were not trained on (continual §5.1, §5.6)."""
    return _imagenet(
        f"{tag}-unnormalised", title, VIT_B_MS, source=f"timm:{tag}", weights=tag, normalisation=UNNORMALISED
    )


def _zero_shot(tag: str, title: str, text: TextHeadSpec, **row: Any) -> BackboneSpec:
    """A row for a CLIP image tower of timm, whose own classifier is the projection, under a text head."""
    spec = _imagenet(
        f"{tag}-zeroshot",
        title,
        VIT_B_MS,
        pretraining="clip",
        source=f"timm:{tag}",
        weights=tag,
        normalisation=CLIP,
        crop_pct=1.0,
        accuracy_source=OPEN_CLIP_RESULTS,
        **row,
    )
    return spec.model_copy(update={"text": text})


def _cifar(classes: int) -> BackboneSpec:
    """A row for ViT-B/16 at 384 pixels, fine-tuned on CIFAR by the user or by the authors of ViDA (continual §5.6)."""
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
            accuracy_source=EMBEDDED_TRAINING,
            classes="digits",
            kinds=("batch-norm",),
            forward_ms=0.35,
        ),
        # Protocol accuracies of ViT-B (augreg2) and ConvNeXt-B: +- 0.002, from the MoETTA tables (mixed §5.3).
        _imagenet(
            AUGREG2_VIT_B,
            "ViT-B/16 of the MoETTA, FOA and MGTTA tables",
            VIT_B_MS,
            clean_accuracy=0.85096,
            protocol_accuracy=0.851,
        ),
        _imagenet(AUGREG_VIT_B, "ViT-B/16 of the IMSE and DPAL tables", VIT_B_MS, clean_accuracy=0.84532),
        _imagenet(
            ORIG_VIT_B,
            "ViT-B/16 of the first ViT paper, trained with less augmentation",
            VIT_B_MS,
            clean_accuracy=0.81786,
        ),
        _imagenet(
            AUGREG_IN1K_VIT_B, "ViT-B/16 trained on ImageNet-1k alone, augmented", VIT_B_MS, clean_accuracy=0.79154
        ),
        _imagenet(
            "vit_base_patch16_224.sam_in1k",
            "ViT-B/16 trained on ImageNet-1k alone, sharpness-aware",
            VIT_B_MS,
            clean_accuracy=0.80244,
        ),
        _unnormalised(
            AUGREG_VIT_B,
            "the same ViT-B/16 on inputs in [0, 1], as in the ViDA and MoASE tables; never compare the two",
        ),
        *(_unnormalised(tag, "the same ViT-B/16 on inputs in [0, 1]") for tag in IMSE_ALTERNATIVES),
        _imagenet(
            "vit_large_patch16_224.augreg_in21k_ft_in1k",
            "ViT-L/16 of the MoETTA tables",
            VIT_L_MS,
            clean_accuracy=0.85834,
        ),
        _imagenet(
            "convnext_base.fb_in22k_ft_in1k",
            "ConvNeXt-B of the MoETTA tables",
            CONVNEXT_B_MS,
            normalisation=IMAGENET,
            crop_pct=0.875,
            clean_accuracy=0.85822,
            accuracy_source=CONVNEXT_CARD,
            protocol_accuracy=0.855,
            kinds=(),
        ),
        _imagenet(
            "swin_base_patch4_window7_224.ms_in22k_ft_in1k",
            "Swin-B with windows of 7, pre-trained on ImageNet-22k",
            SWIN_B_MS,
            normalisation=IMAGENET,
            clean_accuracy=0.85272,
            kinds=(),
        ),
        _imagenet(
            "resnet50.tv_in1k",
            "ResNet-50 with BatchNorm, torchvision's first weights: the one of most papers",
            RESNET_50_MS,
            normalisation=IMAGENET,
            crop_pct=0.875,
            interpolation="bilinear",
            clean_accuracy=0.7613,
            # The tag's own transform is that of the protocols.
            protocol_accuracy=0.7613,
            kinds=("batch-norm",),
        ),
        _imagenet(
            "resnet50.a1_in1k",
            "ResNet-50 with BatchNorm, timm's weights (what timm takes for a bare resnet50)",
            RESNET_50_MS,
            normalisation=IMAGENET,
            crop_pct=0.95,
            clean_accuracy=0.8038,
            accuracy_source=RESNET_CARD,
            kinds=("batch-norm",),
        ),
        _imagenet(
            "resnet50_gn.a1h_in1k",
            "ResNet-50 with GroupNorm, as in the SAR tables",
            RESNET_50_MS,
            normalisation=IMAGENET,
            crop_pct=0.94,
            clean_accuracy=0.8006,
            accuracy_source=RESNET_CARD,
            kinds=(),
        ),
        _imagenet(
            "vit_base_patch16_clip_224.openai_ft_in1k",
            "ViT-B/16 of OpenAI's CLIP, fine-tuned",
            VIT_B_MS,
            pretraining="clip",
            normalisation=CLIP,
            clean_accuracy=0.85292,
        ),
        _imagenet(
            "vit_base_patch16_clip_224.laion2b_ft_in1k",
            "ViT-B/16 of OpenCLIP, pre-trained on LAION-2B, fine-tuned",
            VIT_B_MS,
            pretraining="clip",
            normalisation=CLIP,
            crop_pct=1.0,
            clean_accuracy=0.85466,
        ),
        _zero_shot(
            "vit_base_patch16_clip_224.openai",
            "ViT-B/16 of OpenAI's CLIP, zero-shot: logits are cosines with texts of the class names",
            TextHeadSpec(
                model="ViT-B-16-quickgelu",
                weights="openai",
                hub="timm/vit_base_patch16_clip_224.openai",
                texts=IMAGENET_TEXTS,
            ),
            # The weights were trained with it, and timm's tag builds GELU.
            options={"act_layer": "quick_gelu"},
            clean_accuracy=0.6834,
        ),
        _zero_shot(
            "vit_base_patch16_clip_224.laion2b",
            "ViT-B/16 of OpenCLIP, pre-trained on LAION-2B, zero-shot",
            TextHeadSpec(
                model="ViT-B-16",
                weights="laion2b_s34b_b88k",
                hub="laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
                texts=IMAGENET_TEXTS,
            ),
            clean_accuracy=0.7023,
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
            crop_pct=0.875,
            clean_accuracy=0.83664,
            accuracy_source=MAE_README,
        ),
        BackboneSpec(
            name="segformer-scenes",
            title="small SegFormer (274 k parameters) trained on clean scenes of digits in five sizes",
            task="segmentation",
            pretraining="supervised",
            source="embedded:segformer-scenes",
            weights="segformer_scenes.safetensors",
            sha256="2c78afce57278df3805ba552de3e564867d8073115db3ad9128ddfc0003891dd",
            num_classes=11,
            image_size=64,
            mean=HALF[0],
            std=HALF[1],
            clean_accuracy=0.849,
            accuracy_source="tta_core.backbones.embedded.train_scenes, 400 test scenes",
            classes="digits and ground",
            kinds=("segformer",),
            forward_ms=6.5,
        ),
        *(_segformer(size, ms) for size, ms in SEGFORMER_MS.items()),
        _cifar(10),
        _cifar(100),
    )
}


def backbone_spec(name: str) -> BackboneSpec:
    """Returns the description of a backbone.

    Raises:
        InputError: if there is none of that name, with the closest match; of a bare architecture with its tags.
    """
    if not isinstance(name, str) or name not in BACKBONES:
        tags = sorted(
            tag for tag, row in BACKBONES.items() if row.source == f"timm:{tag}" and tag.startswith(f"{name}.")
        )
        if tags:
            raise InputError(
                f"backbone {name!r} names an architecture, whose weights differ from tag to tag: give one with its "
                f"tag. Allowed: {', '.join(tags)}. See them with: tta-grid list backbones"
            )
    return named_row("backbone", BACKBONES, name)
