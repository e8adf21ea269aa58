"""What describes a benchmark and how its images are cut. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.frozen import Frozen

Task = Literal["classification", "segmentation"]
"""What is predicted: one class for an image, or one for each pixel."""

CropName = Literal["none", "center", "resize-center", "upsample", "backbone", "half"]
"""How an image is brought to the size that the network wants:

- `none`: it has that size.
- `center`: its middle is cut out; for files that have that size already.
- `resize-center`: its short side is first made 8/7 as long as that size (256 for 224), bilinearly.
- `upsample`: it is enlarged bilinearly as a tensor in [0, 1], corners not aligned.
- `half`: the whole image at half its height and width, bilinearly; labels of pixels keep theirs.
- `backbone`: as the authors of the weights do it, see `BackboneSpec.own_crop`.
"""

Interpolation = Literal["bilinear", "bicubic"]

Ladder = Literal["imagenet", "cifar"]
"""Which published strengths corruptions have: those for photographs of 224 pixels, or those for images of 32."""

LabelSpace = Literal["full", "masked"]
"""Which logits there are, in a benchmark that has only some of the classes that a backbone predicts:

- `full`: all of them, also inside entropies; labels are numbers among all classes.
- `masked`: those of the benchmark's classes, as if the network had no others; labels are numbers among these.
"""


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


class BenchmarkSpec(Frozen):
    """Domains, counts and classes of a benchmark.

    Attributes:
        task: what is predicted.
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
        storage: how the images are kept, a file in `tta_core/data/sources`. `embedded`: made here. `class-folders`: one
            folder a class. `severity-arrays`: one array a corruption. `digit-scenes`: made here, with a class for
            each pixel. `segmentation-folders`: images, and label maps of the same names. `composition`: all domains
            are those of other rows, so there is no such file.
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
    task: Task = "classification"
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
    storage: str = "embedded"
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

    @property
    def composed(self) -> bool:
        """Whether all reported domains are those of other rows."""
        return all(name in self.parts for name in self.domains)

    def count(self, domain: str) -> int:
        """Number of images in a domain."""
        return self.counts.get(domain, self.images_per_domain)

    def crop(self, wanted: Crop | None) -> Crop:
        """How the images are cut where `wanted` is asked for: that, or the default if they are never cut so."""
        name = "backbone" if isinstance(wanted, OwnCrop) else wanted
        return wanted if wanted is not None and name in self.crops else self.crops[0]
