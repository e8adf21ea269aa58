"""Images of any benchmark on their way into the network, and whole cells on benchmarks that are not shipped."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

import tta_core
from tta_core.backbones.table import BACKBONES
from tta_core.data.benchmarks import CLEAN
from tta_core.data.files.encoded import cropped
from tta_core.data.spec import OwnCrop
from tta_core.errors import InputError
from tta_core.run.config import RunConfig
from tta_core.run.images import load_domains, normalisation
from tta_core.streams.batches import Normalise, gather

OWN_CROPS = [name for name, row in BACKBONES.items() if row.source == f"timm:{name}"]

CPU = torch.device("cpu")


def config(**values):
    return RunConfig.from_values({"method": "source", "backbone": "colour-vit", "diagnostics": "none", **values})


def test_files_are_gathered_in_stream_order(photographs, colour_vit):
    made = config(benchmark="photos-c", stream="mixed", severity=3)
    order = made.order()
    domains = load_domains(made, order.domains)
    found, labels = gather(domains, order, 5, 17)
    assert found.shape == (12, 32, 32, 3)
    # The colour tells the class.
    assert (found.mean(axis=(1, 2)).argmax(axis=1) == labels).all()
    for place in range(12):
        source = domains[order.domain[5 + place]].images
        assert (found[place] == source[order.index[[5 + place]]][0]).all()


def test_a_domain_at_a_severity_of_its_own(photographs, colour_vit):
    made = config(benchmark="photos-c", stream="gradual")
    mild, strong = load_domains(made, ["fog@1", "fog@5"])
    assert mild.images.folder.name == "1"
    assert strong.images.folder.name == "5"
    assert load_domains(made, ["fog"])[0].images.folder.name == "5"


def test_digits_at_a_severity_of_their_own():
    made = RunConfig.from_values({"method": "source", "severity": 5})
    strong, mild, own = load_domains(made, ["contrast@5", "contrast@1", "contrast"])
    assert (strong.images == own.images).all()
    assert mild.images[:].std() > 2 * strong.images[:].std()


def test_small_images_are_enlarged_in_zero_to_one_before_they_are_normalised(arrays, colour_vit):
    made = config(benchmark="tiny10-c")
    images = load_domains(made, ["fog"])[0].images[:4]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (colour_vit.mean, colour_vit.std))
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2) / 255
    expected = (interpolate(pixels, size=(32, 32), mode="bilinear", align_corners=False) - mean) / std
    torch.testing.assert_close(normalisation(made, CPU)(np.array(images)), expected)


@pytest.mark.parametrize("name", OWN_CROPS)
@pytest.mark.parametrize("size", [(500, 375), (213, 301), (224, 224), (248, 1001)])
def test_a_backbones_own_crop_is_the_transform_that_timm_makes_of_its_tag(name, size):
    import timm
    from PIL import Image

    row = BACKBONES[name]
    known = timm.get_pretrained_cfg(row.source.removeprefix("timm:"))
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=known.to_dict()))
    pixels = np.random.default_rng(0).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size)
    cut = np.array(cropped(image, row.own_crop(), row.image_size, "here"))
    normalise = Normalise(row.mean, row.std, CPU)
    torch.testing.assert_close(normalise(cut[None])[0], transform(image), rtol=0, atol=0)


def test_a_backbones_own_crop_is_used_for_all_images_and_counts(photographs, colour_vit, monkeypatch):
    own = OwnCrop(short=35, interpolation="bilinear")
    changed = colour_vit.model_copy(update={"crop_pct": 0.9, "interpolation": "bilinear"})
    monkeypatch.setitem(BACKBONES, colour_vit.name, changed)
    made, plain = (config(benchmark="photos-c", crop=crop) for crop in ("backbone", "center"))
    assert made.cut == own
    assert made.protocol()["crop"] == "backbone-35-bilinear 32"
    assert [domain.images.crop for domain in load_domains(made, ["fog", CLEAN])] == [own, own]
    assert [domain.images.crop for domain in load_domains(plain, ["fog", CLEAN])] == ["center", "resize-center"]
    ids = {made.cell_id(), plain.cell_id()}
    prints = {made.fingerprint(), plain.fingerprint()}
    monkeypatch.setitem(BACKBONES, colour_vit.name, changed.model_copy(update={"interpolation": "bicubic"}))
    made = config(benchmark="photos-c", crop="backbone")
    assert len(ids | {made.cell_id()}) == len(prints | {made.fingerprint()}) == 3
    assert tta_core.run(made, device="cpu").n_samples == 24


def test_a_backbone_without_a_crop_of_its_own_says_so(photographs, colour_vit, monkeypatch):
    monkeypatch.setitem(BACKBONES, colour_vit.name, colour_vit.model_copy(update={"crop_pct": None}))
    with pytest.raises(InputError, match="colour-vit has no crop of its own: give crop: center or resize-center"):
        config(benchmark="photos-c", crop="backbone")


def test_other_images_keep_their_size():
    made = RunConfig.from_values({"method": "source"})
    assert normalisation(made, CPU).size is None


@pytest.mark.parametrize("benchmark", ["photos-c", "photos-c-5", "tiny10-c"])
@pytest.mark.parametrize("stream", ["mixed", "single", "gradual", "recurring", "recurring-same"])
def test_a_cell_runs_on_what_is_not_shipped(benchmark, stream, listed_photographs, arrays, colour_vit):
    rounds = {"rounds": 2} if stream.startswith("recurring") else {}
    made = config(benchmark=benchmark, stream=stream, batch_size=4, **rounds)
    result = tta_core.run(made, device="cpu")
    assert result.n_samples == made.num_samples
    names = {f"{d}@{s}" for d in ("fog", "snow") for s in range(1, 6)} if stream == "gradual" else {"fog", "snow"}
    assert set(result.domain_accuracy) == names
    assert result.samples["segment"].max() + 1 == {"mixed": 1, "single": 2, "gradual": 18}.get(stream, 4)


def test_a_damaged_image_ends_the_cell_and_is_named(photographs, colour_vit, tmp_path):
    (tmp_path / "photos-c/snow/5/n03/image_3.JPEG").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InputError, match=r"snow/5/n03/image_3.JPEG cannot be decoded"):
        tta_core.run(config(benchmark="photos-c"), device="cpu")
