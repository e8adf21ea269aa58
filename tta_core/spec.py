"""Frozen descriptions of methods, backbones, benchmarks and streams. Nothing here imports torch.

A description is what `tta-grid list`, `plan` and `--help` need; the code that it describes is imported only when a
cell runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tta_core.errors import InputError, closest_match, unknown_name

Model = TypeVar("Model", bound=BaseModel)
SOURCE_IMAGES = "source images"
LABELLED_SOURCE_IMAGES = "labelled source images"
HELD_OUT_IMAGES = "held-out corruptions"
HELD_OUT_LABELS = "labels of held-out corruptions"

NEEDS: Mapping[str, str] = MappingProxyType(
    {
        SOURCE_IMAGES: "clean, unlabelled images of the source",
        LABELLED_SOURCE_IMAGES: "training images of the source with their labels",
        HELD_OUT_IMAGES: "images under the corruptions that no table reports",
        HELD_OUT_LABELS: "their labels",
    }
)
"""What a method can need beyond the stream -> what that is. `Context` hands it over."""

Scored = Literal["pre-update", "perturbed", "post-update"]
"""Which logits are scored: those computed before the method learned from the batch; those at weights that a
sharpness-aware step has moved up the gradient; those that the batch itself has already changed.
"""

NetworkKind = Literal["any", "transformer", "batch-norm"]

NETWORK_KINDS: Mapping[NetworkKind, str] = MappingProxyType(
    {
        "any": "any network with the layers that it adapts",
        "transformer": "vision transformers (timm's VisionTransformer)",
        "batch-norm": "networks with BatchNorm",
    }
)
"""Which networks a method can take -> in words."""

Pretraining = Literal["supervised", "mae", "clip", "text-prototype"]

CropName = Literal["none", "center", "resize-center", "upsample", "backbone"]
"""How an image is brought to the size that the network wants:

- `none`: it has that size.
- `center`: its middle is cut out; for files that have that size already.
- `resize-center`: its short side is first made 8/7 as long as that size (256 for 224), bilinearly.
- `upsample`: it is enlarged bilinearly as a tensor in [0, 1], corners not aligned.
- `backbone`: as the authors of the weights do it, see `BackboneSpec.own_crop`.
"""

Interpolation = Literal["bilinear", "bicubic"]

LabelSpace = Literal["full", "masked"]
"""Which logits there are, in a benchmark that has only some of the classes that a backbone predicts:

- `full`: all of them, also inside entropies; labels are numbers among all classes.
- `masked`: those of the benchmark's classes, as if the network had no others; labels are numbers among these.
"""


class Frozen(BaseModel):
    """A data model that cannot be changed and refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OwnCrop(Frozen):
    """What `crop: backbone` is for one backbone: the short side is resized, then the middle is cut out.

    Attributes:
        short: pixels of the short side after resizing.
        interpolation: how it is resized.
    """

    short: int
    interpolation: Interpolation

    def __str__(self) -> str:
        """Names the crop; of one image size equal texts are equal crops."""
        return f"backbone-{self.short}-{self.interpolation}"


Crop = CropName | OwnCrop
"""A crop as readers of images take it; `backbone` is an `OwnCrop` there."""


class SearchRange(Frozen):
    """Where a search may look for one setting."""

    low: float
    high: float
    log: bool = False


class ScalarSpec(Frozen):
    """One scalar that a method records at every step."""

    description: str
    unit: str = "1"


class PreparationSpec(Frozen):
    """What a method makes once from more than the stream, before any stream: kept on disk, see `tta_core.preparation`.

    Attributes:
        artefact: what is made, for people.
        settings: the settings of the method that it depends on.
        version: raised whenever other values are made from the same.
    """

    artefact: str
    settings: tuple[str, ...] = ()
    version: int = 1


class MethodSpec(Frozen):
    """A test-time adaptation algorithm, described without importing it.

    Attributes:
        name: the name used in YAML, in tables and on the command line; also the folder in `tta_core/methods`.
        title: one line for people.
        paper: authors, title, venue.
        changes: what the method changes in the network.
        implementation: name of the `Method` class in the folder's `method.py`.
        version: raised whenever the numbers that the method produces change; part of the cell id.
        settings: the data model of the method's settings; its defaults are the `recommended` preset.
        presets: named settings that differ from the defaults. `recommended` is always there and empty.
        search: ranges for a search, by setting.
        scalars: what the method adds to each row of `batches`.
        scores: which logits are scored; a function of the settings where they decide it.
        needs: what the method needs beyond the stream, keys of `NEEDS`; shown wherever methods are compared.
        needs_with: the part of `needs` that given settings ask for, where some ask for less.
        preparation: what is made of that before the stream; None if nothing is.
        network: which networks the method takes.
        relative_cost: cost of a step in source forwards; only used to estimate time before anything ran.
        published_cost: the same, measured of the method's released code on a vision transformer; None if it was not.
    """

    name: str
    title: str
    paper: str
    changes: str
    implementation: str
    version: int = 1
    settings: type[BaseModel]
    presets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    search: dict[str, SearchRange] = Field(default_factory=dict)
    scalars: dict[str, ScalarSpec] = Field(default_factory=dict)
    scores: Scored | Callable[[Any], Scored] = "pre-update"
    needs: tuple[str, ...] = ()
    needs_with: Callable[[Any], tuple[str, ...]] | None = None
    preparation: PreparationSpec | None = None
    network: NetworkKind = "any"
    relative_cost: float = 1.0
    published_cost: float | None = None

    def takes(self, kinds: Iterable[NetworkKind]) -> bool:
        """Whether the method takes a network of these kinds."""
        return self.network == "any" or self.network in kinds

    def preset_names(self) -> list[str]:
        """The presets of this method, `recommended` first."""
        return ["recommended", *sorted(set(self.presets) - {"recommended"})]

    def needs_of(self, settings: BaseModel) -> tuple[str, ...]:
        """What the method needs beyond the stream with these settings, in the order of `NEEDS`."""
        needed = self.needs if self.needs_with is None else self.needs_with(settings)
        return tuple(need for need in NEEDS if need in needed)

    def scores_of(self, settings: BaseModel) -> Scored:
        """Which logits are scored with these settings."""
        return self.scores(settings) if callable(self.scores) else self.scores

    def resolve(self, preset: str, overrides: dict[str, Any]) -> BaseModel:
        """Returns the complete settings: defaults, then the preset, then `overrides`.

        Raises:
            InputError: if the preset or a setting is unknown, or a value is not allowed.
        """
        if preset not in self.preset_names():
            raise unknown_name(f"preset of {self.name}", preset, self.preset_names())
        return validated(self.settings, {**self.presets.get(preset, {}), **overrides}, where=self.name)


class TextHeadSpec(Frozen):
    """The text side of a zero-shot classifier: one vector for each class, made once by open_clip's text tower.

    Attributes:
        model: open_clip's name of the model.
        weights: open_clip's tag of its weights.
        hub: the repository on the Hugging Face hub that has them.
        texts: SHA-256 of class names and templates, see `tta_core.loading.zero_shot_head.texts_digest`.
        version: raised whenever other vectors are made from the same.
    """

    model: str
    weights: str
    hub: str
    texts: str
    version: int = 1

    def tag(self) -> str:
        """Names the vectors: equal tags, equal vectors."""
        return f"{self.model}.{self.weights}.texts-{self.texts[:12]}.v{self.version}"


class BackboneSpec(Frozen):
    """A network, its weights and the normalisation that they want.

    Attributes:
        name: full name; for timm models `architecture.tag`, never a bare architecture.
        pretraining: how the weights were made.
        source: where the network comes from. `embedded:<network>`: shipped with this package.
            `timm:<architecture.tag>`: weights from a file of the user, else from the hub. `file:<architecture>`: a timm
            architecture with weights from a file of the user only.
        weights: name of the weights file; of a file of the user without its suffix, see `tta_core.loading.weights`.
        sha256: checksum of the weights file; None where the tag is all that pins the weights.
        options: keyword arguments of `timm.create_model` that the weights need.
        text: what makes the logits of a zero-shot classifier; None of a network that has a classifier.
        num_classes: number of logits.
        image_size: height and width of the input in pixels.
        mean, std: per-channel normalisation of inputs in [0, 1].
        crop_pct, interpolation: how the authors of the weights bring a photograph to `image_size`: its short side is
            resized to image_size / crop_pct, and the middle cut out. None where images are not cut.
        clean_accuracy: top-1 on clean test images, in [0, 1], at `image_size` and under that very transform
            (`crop: backbone`); None where no source that we trust states it.
        accuracy_source: who states it.
        protocol_accuracy: the same under the transform of the papers' protocols (`crop: resize-center`: to 256 pixels
            bilinearly, 224 cut out), where a source states it.
        classes: the classes that the head predicts; a benchmark must have the same.
        kinds: what kind of network it is, for methods that take only some.
        forward_ms: milliseconds of a source forward for one image on one CPU core; only used to estimate time.
    """

    name: str
    title: str
    pretraining: Pretraining
    source: str
    weights: str
    sha256: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    text: TextHeadSpec | None = None
    num_classes: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float | None = None
    interpolation: Interpolation = "bicubic"
    clean_accuracy: float | None = None
    accuracy_source: str = ""
    protocol_accuracy: float | None = None
    classes: str
    kinds: tuple[NetworkKind, ...] = ()
    forward_ms: float

    def own_crop(self) -> OwnCrop | None:
        """The transform of the weights' authors, as timm makes it of a tag's data config; None if there is none."""
        if self.crop_pct is None:
            return None
        return OwnCrop(short=math.floor(self.image_size / self.crop_pct), interpolation=self.interpolation)

    def weights_tag(self, content: str = "") -> str:
        """Short text that names these very weights, or those of the user with this content."""
        content = content or (self.sha256 or "")[:12]
        tag = f"{self.name}@{content}" if content else self.weights
        return f"{tag} + {self.text.tag()}" if self.text else tag


class BenchmarkSpec(Frozen):
    """Domains, counts and classes of a benchmark.

    Attributes:
        version: raised whenever the images change; part of the cell id.
        domains: the domains that a table reports, in their published order.
        held_out_domains: domains for choosing settings, never reported.
        images_per_domain: number of images in each domain.
        counts: number of images in domains that have another; see `count`.
        images_per_class: number of images of each class in each domain; 0 where classes differ.
        num_classes: number of its classes.
        classes: name of the set of classes that it has, or has some of; a backbone must predict the same.
        class_names: names of its classes in order, where they matter; of `class-folders` the folders' names.
        class_numbers: number of each of its classes in that set; empty if it has all.
        label_spaces: which logits may be scored, the default first.
        severities: allowed corruption strengths; none where images are not corrupted: the folder is the one domain.
        shuffled: whether streams take a domain's images in random order. Lists that were published in an order of
            their own are taken in that order.
        crops: how images may be brought to the network's size, the default first.
        parts: domains that are those of other rows -> the row: its files, crop and severities are read. The training
            images are those of the row that has `clean`.
        storage: `embedded`: made here. `class-folders`: one folder a class. `severity-arrays`: one array a corruption.
            `composition`: all domains are those of other rows.
        folder: the benchmark's folder in the data root, see `tta_core.data.root`.
        clean_folder: likewise, of the uncorrupted test images, if they lie elsewhere.
        training_folder: likewise, of the images that the backbones were trained on, for methods that need these.
        image_list: likewise, the file that lists the images to use; empty if all are used.
        generated_from: the benchmark whose clean images its own are made from here, by `tta-grid data corrupt`; empty
            if they are downloaded.
        files: the files that the data root must hold, for people.
        source: where to get them.
        size: how much there is to get.
        licence: under which licence.
        expected: numbers by which a user sees that images are read as others read them.
    """

    name: str
    title: str
    version: int
    domains: tuple[str, ...]
    held_out_domains: tuple[str, ...]
    images_per_domain: int
    counts: dict[str, int] = Field(default_factory=dict)
    images_per_class: int = 0
    num_classes: int
    classes: str
    class_names: tuple[str, ...] = ()
    class_numbers: tuple[int, ...] = ()
    label_spaces: tuple[LabelSpace, ...] = ("full",)
    severities: tuple[int, ...]
    shuffled: bool = True
    crops: tuple[CropName, ...] = ("none",)
    parts: dict[str, str] = Field(default_factory=dict)
    storage: Literal["embedded", "class-folders", "severity-arrays", "composition"] = "embedded"
    folder: str = ""
    clean_folder: str = ""
    training_folder: str = ""
    image_list: str = ""
    generated_from: str = ""
    files: str = "none: made here"
    source: str
    size: str = ""
    licence: str
    expected: str = ""

    def count(self, domain: str) -> int:
        """Number of images in a domain."""
        return self.counts.get(domain, self.images_per_domain)

    def crop(self, wanted: Crop | None) -> Crop:
        """How the images are cut where `wanted` is asked for: that, or the default if they are never cut so."""
        name = "backbone" if isinstance(wanted, OwnCrop) else wanted
        return wanted if wanted is not None and name in self.crops else self.crops[0]


class StreamSpec(Frozen):
    """An order in which the samples of a benchmark arrive.

    Attributes:
        reset: when the loop calls `reset()`: never, or at the start of each domain.
        severities: strengths at which each domain is visited one after the other; empty: once, at the cell's own.
        rounds: whether the domains come back round after round: `once`, no; `split`, with other images in each round;
            `same`, with the same images.
        needs: what the order is made from beyond the number of images, for people; empty if nothing.
        labels: whether that is the images' labels.
        settings: fields of the cell that only such streams have -> their defaults.
    """

    name: str
    title: str
    reset: Literal["never", "domain", "as the file says"]
    severities: tuple[int, ...] = ()
    rounds: Literal["once", "split", "same"] = "once"
    needs: str = ""
    labels: bool = False
    settings: dict[str, float | int | str] = Field(default_factory=dict)


def validated(model: type[Model], values: dict[str, Any], *, where: str) -> Model:
    """Builds `model` from `values`, with one message for everything that is wrong.

    Args:
        model: the data model.
        values: field values as read from YAML.
        where: what the values belong to, to start the message with.

    Raises:
        InputError: naming each wrong field with what was given, what is allowed and the closest match.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        items: list[dict[str, Any]] = [dict(item) for item in error.errors()]
        unknown = [str(item["loc"][0]) for item in items if _is_unknown_key(item)]
        problems = [_problem(item) for item in items if not _is_unknown_key(item)]
        if unknown:
            problems.append(_unknown_keys(unknown, sorted(model.model_fields)))
        raise InputError(f"{where}: {'; '.join(problems)}") from None


def _is_unknown_key(item: dict[str, Any]) -> bool:
    return bool(item["type"] == "extra_forbidden" and len(item["loc"]) == 1)


def _unknown_keys(names: Sequence[str], allowed: Sequence[str]) -> str:
    shown = []
    for name in names:
        match = closest_match(name, allowed)
        shown.append(f"{name!r}, did you mean {match!r}?" if match else f"{name!r},")
    return f"unknown key{'s' if len(names) > 1 else ''} {' '.join(shown)} allowed: {', '.join(allowed)}"


def _problem(item: dict[str, Any]) -> str:
    location = [str(part) for part in item["loc"]]
    name = ".".join(location)
    if item["type"] == "missing":
        return f"{name!r} is missing: give it"
    message = item["msg"].removeprefix("Value error, ")
    if not location:
        return message
    return f"{name} = {item['input']!r} is not allowed: {message[0].lower()}{message[1:]}"
