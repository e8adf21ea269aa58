"""The benchmark table: one row is one benchmark. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tta_core.data.domains import CORRUPTIONS, HELD_OUT_CORRUPTIONS
from tta_core.data.spec import BenchmarkSpec, CropName, LabelSpace
from tta_core.errors import named_row

CLEAN = "clean"
"""The domain of uncorrupted test images; every benchmark has it, no table reports it."""

IMAGENET_WNIDS = tuple(Path(__file__).with_name("imagenet_wnids.txt").read_text().split())
"""WordNet ids of the 1000 ImageNet classes, sorted: the place in the list is the number of the class."""


def _numbers(file: str) -> tuple[int, ...]:
    """Numbers of classes, from a file beside this one."""
    return tuple(int(number) for number in Path(__file__).with_name(file).read_text().split())


IMAGENET_R_CLASSES = _numbers("imagenet_r_classes.txt")
IMAGENET_A_CLASSES = _numbers("imagenet_a_classes.txt")
"""The 200 ImageNet classes of ImageNet-R and of ImageNet-A, by number (mixed §A). They differ."""

IMAGENET_LICENCE = "the photographs are ImageNet's, for non-commercial research, https://image-net.org"
CITYSCAPES_CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
"""The scored classes, by train id."""

WEATHER = ("fog", "night", "rain", "snow")
"""The conditions of ACDC, in the order of the published streams; `digit-scenes` has them too."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

CLEAN_FILES = "for clean images imagenet/val/<wnid>/*.JPEG"
TRAINING_FILES = "for methods that need training images imagenet/train/<wnid>/*.JPEG, all or some"


def _imagenet_c(name: str, title: str, files: str, **changes: object) -> BenchmarkSpec:
    """A row for a benchmark on the folders of ImageNet-C."""
    row = BenchmarkSpec(
        name=name,
        title=title,
        version=1,
        domains=CORRUPTIONS,
        held_out_domains=HELD_OUT_CORRUPTIONS,
        images_per_domain=50_000,
        images_per_class=50,
        num_classes=1000,
        classes="imagenet-1k",
        class_names=IMAGENET_WNIDS,
        severities=(1, 2, 3, 4, 5),
        crops=("center", "resize-center", "backbone"),
        storage="class-folders",
        folder="imagenet-c",
        clean_folder="imagenet/val",
        training_folder="imagenet/train",
        files=f"{files}; {CLEAN_FILES}; {TRAINING_FILES}",
        source="https://zenodo.org/records/2235448",
        size="about 75 GB: 19 corruptions at 5 severities",
        licence=f"CC BY 4.0; {IMAGENET_LICENCE}",
    )
    return row.model_copy(update=changes)


def _photographs(
    name: str,
    title: str,
    images: int,
    *,
    files: str,
    source: str,
    licence: str,
    size: str,
    classes: tuple[int, ...] = (),
    folders: tuple[str, ...] = IMAGENET_WNIDS,
    images_per_class: int = 0,
    folder: str = "",
) -> BenchmarkSpec:
    """A row for uncorrupted photographs of ImageNet's classes, or of some: one domain of the benchmark's name.

    Clean images are those of `imagenet`, and the corruptions for choosing settings those of `imagenet-c`.
    """
    own = tuple(folders[number] for number in classes) if classes else folders
    spaces: tuple[LabelSpace, ...] = ("full", "masked") if classes else ("full",)
    parts = {CLEAN: "imagenet"} | dict.fromkeys(HELD_OUT_CORRUPTIONS, "imagenet-c")
    return BenchmarkSpec(
        name=name,
        title=title,
        version=1,
        domains=(name,),
        held_out_domains=HELD_OUT_CORRUPTIONS,
        images_per_domain=images,
        counts=dict.fromkeys(parts, 50_000),
        images_per_class=images_per_class,
        num_classes=len(own),
        classes="imagenet-1k",
        class_names=own,
        class_numbers=classes,
        label_spaces=spaces,
        severities=(),
        crops=("resize-center", "backbone"),
        parts=parts,
        storage="class-folders",
        folder=folder or name,
        files=f"{files}; {CLEAN_FILES}; {TRAINING_FILES}",
        source=source,
        size=size,
        licence=licence,
    )


def _composition(
    name: str, title: str, parts: tuple[BenchmarkSpec, ...], *, held_out: bool = False, expected: str = ""
) -> BenchmarkSpec:
    """A row for the domains of several rows in one stream: each is read as its own row says (mixed §5.1).

    Args:
        name: the composition's name.
        title: one line for people.
        parts: the rows, in the order in which their domains come.
        held_out: whether their held-out domains are the reported ones here.
        expected: see `BenchmarkSpec`.
    """
    owners = {domain: row for row in parts for domain in (row.held_out_domains if held_out else row.domains)}
    tuning = {} if held_out else dict.fromkeys(parts[0].held_out_domains, parts[0])
    crops: dict[CropName, None] = dict.fromkeys(crop for row in parts for crop in row.crops)
    return BenchmarkSpec(
        name=name,
        title=title,
        version=1,
        domains=tuple(owners),
        held_out_domains=tuple(tuning),
        images_per_domain=50_000,
        counts={domain: row.count(domain) for domain, row in owners.items() if row.count(domain) != 50_000},
        num_classes=1000,
        classes="imagenet-1k",
        severities=parts[0].severities,
        crops=tuple(crops),
        parts={domain: row.name for domain, row in (owners | tuning).items()} | {CLEAN: "imagenet"},
        storage="composition",
        files="; ".join(row.files.partition(";")[0] for row in parts) + f"; {CLEAN_FILES}; {TRAINING_FILES}",
        source=" and ".join(dict.fromkeys(row.source for row in parts)),
        size="that of its parts",
        licence="; ".join(f"{row.name}: {row.licence}" for row in parts),
        expected=expected,
    )


def _cifar_c(name: str, classes: int, record: int) -> tuple[BenchmarkSpec, BenchmarkSpec]:
    """A row for CIFAR-10-C or CIFAR-100-C, and one for the same made here."""
    training = f"for methods that need training images {name}/train.npy and {name}/train_labels.npy"
    published = BenchmarkSpec(
        name=name,
        title=f"test images of CIFAR-{classes}, 32x32, corrupted, in file order",
        version=1,
        domains=CORRUPTIONS,
        held_out_domains=HELD_OUT_CORRUPTIONS,
        images_per_domain=10_000,
        images_per_class=10_000 // classes,
        num_classes=classes,
        classes=f"cifar-{classes}",
        severities=(1, 2, 3, 4, 5),
        shuffled=False,
        crops=("upsample",),
        storage="severity-arrays",
        folder=name,
        training_folder=name,
        files=f"{name}/<corruption>.npy and {name}/labels.npy; for clean images {name}/clean.npy; {training}",
        source=f"https://zenodo.org/records/{record}",
        size="2.9 GB: 19 arrays of 50,000 images",
        licence="CC BY 4.0",
    )
    changes = {
        "name": f"{name}-gen",
        "title": f"{name} made here: the same corruptions, other random choices, made frost; never compare the two",
        "folder": f"{name}-gen",
        "generated_from": name,
        "files": f"{name}-gen/*.npy as `tta-grid data corrupt {name}-gen` makes them; {training}",
        "source": f"{name}/clean.npy, by tta-grid data corrupt",
        "size": "none: made here, 2.9 GB",
    }
    return published, published.model_copy(update=changes)


IMAGENET_C = _imagenet_c(
    "imagenet-c",
    "validation photographs of ImageNet, corrupted",
    "imagenet-c/<corruption>/<severity>/<wnid>/*.JPEG",
)

IMAGENET = BenchmarkSpec(
    name="imagenet",
    title="validation photographs of ImageNet, uncorrupted",
    version=1,
    domains=("imagenet",),
    held_out_domains=HELD_OUT_CORRUPTIONS,
    images_per_domain=50_000,
    images_per_class=50,
    num_classes=1000,
    classes="imagenet-1k",
    class_names=IMAGENET_WNIDS,
    severities=(),
    crops=("resize-center", "backbone"),
    parts=dict.fromkeys(HELD_OUT_CORRUPTIONS, "imagenet-c"),
    storage="class-folders",
    folder="imagenet/val",
    clean_folder="imagenet/val",
    training_folder="imagenet/train",
    files=f"imagenet/val/<wnid>/*.JPEG; {TRAINING_FILES}",
    source="https://image-net.org/download (account needed): ILSVRC 2012",
    size="6.7 GB; training images 148 GB",
    licence=IMAGENET_LICENCE,
)

IMAGENET_R = _photographs(
    "imagenet-r",
    "renditions (art, cartoons, toys, ...) of 200 ImageNet classes",
    30_000,
    classes=IMAGENET_R_CLASSES,
    files="imagenet-r/<wnid>/*.jpg",
    source="https://github.com/hendrycks/imagenet-r",
    size="2.19 GB",
    licence="MIT (its repository); rights in the images: see source",
)

IMAGENET_A = _photographs(
    "imagenet-a",
    "natural photographs of 200 ImageNet classes that a ResNet-50 got wrong",
    7_500,
    classes=IMAGENET_A_CLASSES,
    files="imagenet-a/<wnid>/*.jpg",
    source="https://github.com/hendrycks/natural-adv-examples",
    size="0.7 GB",
    licence="MIT (its repository); rights in the images: see source",
)

IMAGENET_SKETCH = _photographs(
    "imagenet-sketch",
    "black-and-white sketches of the ImageNet classes",
    50_889,
    files="imagenet-sketch/<wnid>/*.JPEG (rename the folder of the archive)",
    source="https://github.com/HaohanWang/ImageNet-Sketch",
    size="7.6 GB",
    licence="MIT (its repository); rights in the images: see source",
)


def _imagenet_v2(variant: str, archive: str, title: str, size: str) -> BenchmarkSpec:
    """A row for one of the three versions of ImageNet-V2; the folders of their classes are named by number."""
    name = "imagenet-v2" if variant == "matched-frequency" else f"imagenet-v2-{variant}"
    return _photographs(
        name,
        f"new test photographs of the ImageNet classes, {title}",
        10_000,
        folders=tuple(str(number) for number in range(len(IMAGENET_WNIDS))),
        images_per_class=10,
        files=f"{name}/<number of the class>/*.jpeg (rename the folder {archive} of the archive)",
        source="https://huggingface.co/datasets/vaishaal/ImageNetV2",
        size=size,
        licence="MIT (its repository); rights in the images: see source",
    )


BENCHMARKS: dict[str, BenchmarkSpec] = {
    row.name: row
    for row in (
        BenchmarkSpec(
            name="digits-c",
            title="real handwritten digits, enlarged to 32x32 and corrupted as ImageNet-C corrupts photographs",
            version=1,
            domains=CORRUPTIONS,
            held_out_domains=HELD_OUT_CORRUPTIONS,
            images_per_domain=899,
            num_classes=10,
            classes="digits",
            class_names=DIGITS,
            severities=(1, 2, 3, 4, 5),
            source="scikit-learn load_digits (UCI optical recognition of handwritten digits), made here",
            size="none: it comes with scikit-learn",
            licence="CC BY 4.0 (UCI); scikit-learn BSD-3-Clause",
        ),
        IMAGENET_C,
        _imagenet_c(
            "imagenet-c-5k",
            "5,000 images of each domain of imagenet-c, those of a list, in its order",
            "imagenet-c/<corruption>/<severity>/<wnid>/*.JPEG and imagenet-c-5k.txt with a line <wnid>/<file>.JPEG for "
            "each image (RobustBench publishes the usual list)",
            images_per_domain=5_000,
            shuffled=False,
            crops=("resize-center", "center", "backbone"),
            image_list="imagenet-c-5k.txt",
        ),
        _imagenet_c(
            "imagenet-c-gen",
            "imagenet-c made here: the same corruptions, other random choices, made frost; never compare the two",
            "imagenet-c-gen/<corruption>/<severity>/<wnid>/*.JPEG as `tta-grid data corrupt imagenet-c-gen` makes them",
            folder="imagenet-c-gen",
            generated_from="imagenet-c",
            source="imagenet/val, by tta-grid data corrupt",
            size="none: made here, about 80 GB with all severities",
            licence=IMAGENET_LICENCE,
        ),
        IMAGENET,
        IMAGENET_R,
        IMAGENET_A,
        IMAGENET_SKETCH,
        _imagenet_v2(
            "matched-frequency",
            "imagenetv2-matched-frequency-format-val",
            "chosen as often by annotators as those of ImageNet",
            "1.26 GB",
        ),
        _imagenet_v2(
            "threshold-0.7", "imagenetv2-threshold0.7-format-val", "chosen by at least 70 % of annotators", "1.25 GB"
        ),
        _imagenet_v2("top-images", "imagenetv2-top-images-format-val", "chosen most often by annotators", "1.25 GB"),
        _composition(
            "potpourri",
            "imagenet-c with ImageNet-R, -Sketch and -A in one stream",
            (IMAGENET_C, IMAGENET_R, IMAGENET_SKETCH, IMAGENET_A),
            expected="accuracy of source pooled over R, Sketch and A, about, unmasked: ViT-B (augreg2) 42.8 %, "
            "ConvNeXt-B 46.3 % (mixed §5.3)",
        ),
        _composition(
            "potpourri+",
            "potpourri with the clean images of ImageNet",
            (IMAGENET_C, IMAGENET_R, IMAGENET_SKETCH, IMAGENET_A, IMAGENET),
            expected="accuracy of source on its clean images: ViT-B (augreg2) 85.1 +- 0.2 %, ConvNeXt-B 85.5 +- 0.2 % "
            "(mixed §5.3)",
        ),
        _composition(
            "imagenet-c-val-mix",
            "the four extra corruptions of imagenet-c, as reported domains: for choosing settings",
            (IMAGENET_C,),
            held_out=True,
        ),
        *_cifar_c("cifar10-c", 10, record=2535967),
        *_cifar_c("cifar100-c", 100, record=3555552),
        BenchmarkSpec(
            name="digit-scenes",
            title="segmentation: scenes of real handwritten digits, 64x64, in fog, night, rain and snow made here",
            task="segmentation",
            version=1,
            domains=WEATHER,
            held_out_domains=tuple(f"{name}-train" for name in WEATHER),
            images_per_domain=200,
            counts={CLEAN: 400},
            num_classes=11,
            classes="digits and ground",
            class_names=(*DIGITS, "ground"),
            severities=(1, 2, 3, 4, 5),
            shuffled=False,
            storage="digit-scenes",
            source="scikit-learn load_digits (UCI optical recognition of handwritten digits), made here",
            size="none: it comes with scikit-learn",
            licence="CC BY 4.0 (UCI); scikit-learn BSD-3-Clause",
        ),
        BenchmarkSpec(
            name="cityscapes",
            title="segmentation: validation images of Cityscapes, streets of German cities in good weather",
            task="segmentation",
            version=1,
            domains=("cityscapes",),
            held_out_domains=(),
            images_per_domain=500,
            counts={"train": 2975},
            num_classes=19,
            classes="cityscapes",
            class_names=CITYSCAPES_CLASSES,
            severities=(),
            shuffled=False,
            crops=("none", "half"),
            storage="segmentation-folders",
            folder="cityscapes",
            training_folder="cityscapes/leftImg8bit/train",
            files="cityscapes/leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and cityscapes/gtFine/{train,val}/"
            "<city>/*_gtFine_labelTrainIds.png or *_gtFine_labelIds.png",
            source="https://www.cityscapes-dataset.com (registration): leftImg8bit_trainvaltest.zip, "
            "gtFine_trainvaltest.zip",
            size="about 11 GB",
            licence="Cityscapes' own terms: non-commercial research, registration, no redistribution",
            expected="mIoU of SegFormer-B5 on the validation images, crop none: 82.4",
        ),
        BenchmarkSpec(
            name="acdc",
            title="segmentation: training images of ACDC, streets in fog, at night, in rain and in snow",
            task="segmentation",
            version=1,
            domains=WEATHER,
            held_out_domains=tuple(f"{name}-val" for name in WEATHER),
            images_per_domain=400,
            counts={CLEAN: 500, **{f"{name}-val": 106 if name == "night" else 100 for name in WEATHER}},
            num_classes=19,
            classes="cityscapes",
            class_names=CITYSCAPES_CLASSES,
            severities=(),
            shuffled=False,
            crops=("half", "none"),
            parts={CLEAN: "cityscapes"},
            storage="segmentation-folders",
            folder="acdc",
            files="acdc/rgb_anon/<condition>/{train,val}/<sequence>/*_rgb_anon.png and acdc/gt/<condition>/{train,val}/"
            "<sequence>/*_gt_labelTrainIds.png; for clean and training images cityscapes as its own row says",
            source="https://acdc.vision.ee.ethz.ch (registration): rgb_anon_trainvaltest.zip, gt_trainval.zip",
            size="see the site",
            licence="see the site: registration, non-commercial",
            expected="mIoU of SegFormer-B5 (source, one view): fog 69.1, night 40.3, rain 59.7, snow 57.8",
        ),
    )
}


def owner(spec: BenchmarkSpec, domain: str) -> BenchmarkSpec:
    """The row that says where the images of a domain lie and how they are read: `spec` itself unless it names another.

    Args:
        spec: a benchmark.
        domain: one of its domains or `clean`, without a severity.
    """
    return BENCHMARKS[spec.parts[domain]] if domain in spec.parts else spec


def benchmark_tag(spec: BenchmarkSpec, domains: Iterable[str]) -> str:
    """Name and version of a benchmark, and of those by which some of its domains are read: equal tags, equal images."""
    parts = sorted({row.name: row.version for row in (owner(spec, name) for name in domains) if row != spec}.items())
    return " ".join([f"{spec.name} v{spec.version}", *(f"+ {name} v{version}" for name, version in parts)])


def benchmark_spec(name: str) -> BenchmarkSpec:
    """Returns the description of a benchmark, or raises `InputError` with the closest match."""
    return named_row("benchmark", BENCHMARKS, name)
