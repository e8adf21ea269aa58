"""Small networks with random weights, and small benchmarks of the kinds that are not shipped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from tta_core.backbones.table import BACKBONES
from tta_core.data.benchmarks import BENCHMARKS, CLEAN
from tta_core.data.spec import BenchmarkSpec
from tta_core.methods.registry import method_spec

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 10}


@pytest.fixture
def tiny_vit():
    """Makes the same small vision transformer each time; keyword arguments change its shape."""

    def make(seed: int = 0, **changes) -> VisionTransformer:
        torch.manual_seed(seed)
        network = VisionTransformer(**{**TINY, **changes})
        # The default head is so small that all predictions are near uniform and nothing is ever filtered.
        torch.nn.init.normal_(network.head.weight, std=0.3)
        return network.eval()

    return make


class TinyConvNet(torch.nn.Sequential):
    """Two convolutions with BatchNorm, an average over the pixels, a head."""

    def __init__(self, num_classes: int = 10):
        super().__init__(
            torch.nn.Conv2d(3, 16, 3, stride=2, padding=1),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
            torch.nn.BatchNorm2d(32),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(32, num_classes),
        )

    @property
    def head(self) -> torch.nn.Module:
        """The classifier."""
        return self[-1]


@pytest.fixture
def tiny_convnet():
    """Makes the same small network with BatchNorm each time, with running statistics of its own."""

    def make(seed: int = 0) -> torch.nn.Module:
        torch.manual_seed(seed)
        network = TinyConvNet()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.running_mean, std=0.2)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        torch.nn.init.normal_(network[-1].weight, std=1.0)
        return network.eval()

    return make


@pytest.fixture
def images():
    """Makes normalised random images."""

    def make(batch: int = 16, seed: int = 0) -> torch.Tensor:
        return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def network_of(tiny_vit, tiny_convnet):
    """Makes the small network that a method takes."""
    return lambda name: (tiny_convnet if method_spec(name).network == "batch-norm" else tiny_vit)()


@pytest.fixture
def beyond(images):
    """What a runner hands over to a method beyond the stream, as arguments of `build_method`."""

    def make(dtype: torch.dtype = torch.float32) -> dict[str, list]:
        source = [images(16, 100 + number).to(dtype) for number in range(3)]
        labels = torch.arange(8) % 10
        return {
            "source_images": source,
            "labelled_source": [(source[0][:8], labels)],
            "held_out": [(source[1][:8], labels)],
        }

    return make


WNIDS = ("n01", "n02", "n03")
COLOURS = {"n01": (200, 40, 40), "n02": (40, 200, 40), "n03": (40, 40, 200)}
PER_CLASS = 4
SEVERITIES = (1, 2, 3, 4, 5)


def write_photograph(file: Path, name: str, number: int, severity: int, size: tuple[int, int]) -> None:
    """A plain image whose colour tells the class and whose brightness tells number and severity."""
    colour = tuple(c + 2 * number - 5 * severity for c in COLOURS[name])
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file, format="JPEG", quality=95)


@pytest.fixture
def photographs(tmp_path, monkeypatch) -> BenchmarkSpec:
    """`photos-c`, laid out as ImageNet-C: two domains and clean images, three classes of four images, 32x32."""
    row = BenchmarkSpec(
        name="photos-c",
        title="plain colours",
        version=1,
        domains=("fog", "snow"),
        held_out_domains=("spatter",),
        images_per_domain=len(WNIDS) * PER_CLASS,
        num_classes=len(WNIDS),
        classes="colours",
        class_names=WNIDS,
        severities=SEVERITIES,
        crops=("center", "resize-center", "backbone"),
        storage="class-folders",
        folder="photos-c",
        clean_folder="photos/val",
        files="photos-c/<corruption>/<severity>/<wnid>/*.JPEG",
        source="https://example.org/photos",
        licence="none",
    )
    for name in WNIDS:
        for number in range(PER_CLASS):
            for domain in row.domains:
                for severity in SEVERITIES:
                    file = tmp_path / row.folder / domain / str(severity) / name / f"image_{number}.JPEG"
                    write_photograph(file, name, number, severity, (32, 32))
            write_photograph(tmp_path / row.clean_folder / name / f"image_{number}.JPEG", name, number, 0, (50, 40))
    monkeypatch.setenv("TTA_GRID_DATA", str(tmp_path))
    monkeypatch.setitem(BENCHMARKS, row.name, row)
    return row


@pytest.fixture
def listed_photographs(photographs, tmp_path, monkeypatch) -> BenchmarkSpec:
    """`photos-c-5`: five images of `photos-c`, in the order of a list."""
    listed = ["n02/image_3.JPEG", "n01/image_0.JPEG", "n03/image_1.JPEG", "n02/image_0.JPEG", "n03/image_2.JPEG"]
    row = photographs.model_copy(
        update={"name": "photos-c-5", "images_per_domain": 5, "shuffled": False, "image_list": "photos-c-5.txt"}
    )
    (tmp_path / row.image_list).write_text("\n".join(listed) + "\n")
    monkeypatch.setitem(BENCHMARKS, row.name, row)
    return row


@pytest.fixture
def arrays(tmp_path, monkeypatch) -> BenchmarkSpec:
    """`tiny10-c`, laid out as CIFAR-10-C: two domains and clean images, six random images at five severities."""
    row = BenchmarkSpec(
        name="tiny10-c",
        title="noise",
        version=1,
        domains=("fog", "snow"),
        held_out_domains=(),
        images_per_domain=6,
        num_classes=3,
        classes="colours",
        severities=SEVERITIES,
        shuffled=False,
        crops=("upsample",),
        storage="severity-arrays",
        folder="tiny10-c",
        files="tiny10-c/<corruption>.npy",
        source="https://example.org/tiny",
        licence="none",
    )
    folder = tmp_path / row.folder
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in (*row.domains, CLEAN):
        count = 6 if name == CLEAN else 30
        np.save(folder / f"{name}.npy", generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.tile(np.arange(6, dtype=np.uint8) % 3, 5))
    monkeypatch.setenv("TTA_GRID_DATA", str(tmp_path))
    monkeypatch.setitem(BENCHMARKS, row.name, row)
    return row


@pytest.fixture
def colour_vit(tmp_path, monkeypatch):
    """A backbone of three colours whose weights are a file in `TTA_GRID_WEIGHTS`: timm's test ViT at 32 pixels."""
    import safetensors.torch
    import timm
    import torch

    row = BACKBONES["mae_finetuned_vit_base"].model_copy(
        update={
            "name": "colour-vit",
            "source": "file:test_vit",
            "weights": "colour_vit",
            "options": {"img_size": 32},
            "num_classes": 3,
            "image_size": 32,
            "classes": "colours",
        }
    )
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=3, img_size=32)
    folder = tmp_path / "weights"
    folder.mkdir()
    safetensors.torch.save_file(network.state_dict(), folder / "colour_vit.safetensors")
    monkeypatch.setenv("TTA_GRID_WEIGHTS", str(folder))
    monkeypatch.setitem(BACKBONES, row.name, row)
    return row


RENDITIONS = {"n01": 2, "n03": 3}


@pytest.fixture
def renditions(photographs, tmp_path, monkeypatch) -> BenchmarkSpec:
    """`renditions`: five larger images of the first and the third class; its clean images are those of `photos-c`."""
    row = photographs.model_copy(
        update={
            "name": "renditions",
            "domains": ("renditions",),
            "held_out_domains": (),
            "images_per_domain": 5,
            "counts": {CLEAN: 12},
            "num_classes": 2,
            "class_names": tuple(RENDITIONS),
            "class_numbers": (0, 2),
            "label_spaces": ("full", "masked"),
            "severities": (),
            "crops": ("resize-center", "backbone"),
            "parts": {CLEAN: photographs.name},
            "folder": "renditions",
            "clean_folder": "",
            "files": "renditions/<wnid>/*.jpg",
        }
    )
    for name, count in RENDITIONS.items():
        for number in range(count):
            write_photograph(tmp_path / row.folder / name / f"art_{number}.jpg", name, number, 0, (64, 48))
    monkeypatch.setitem(BENCHMARKS, row.name, row)
    return row


@pytest.fixture
def mixture(photographs, renditions, monkeypatch) -> BenchmarkSpec:
    """`mixture`: the domains of `photos-c` and of `renditions`."""
    owners = dict.fromkeys((*photographs.domains, *photographs.held_out_domains, CLEAN), photographs.name)
    row = photographs.model_copy(
        update={
            "name": "mixture",
            "domains": ("fog", "snow", "renditions"),
            "images_per_domain": 12,
            "counts": {"renditions": 5},
            "class_names": (),
            "parts": owners | {"renditions": renditions.name},
            "storage": "composition",
            "folder": "",
            "clean_folder": "",
            "files": "those of photos-c and renditions",
        }
    )
    monkeypatch.setitem(BENCHMARKS, row.name, row)
    return row
