"""Loading backbones: the right weights into the right network, or one clear message."""

import hashlib

import pytest
import safetensors.torch
import timm
import torch

from tta_core.backbones import networks, weights
from tta_core.backbones.embedded.network import MEAN, STD, weights_file
from tta_core.backbones.embedded.scenes import SCENES, build_scenes_network
from tta_core.backbones.networks import load_backbone, read_weights
from tta_core.backbones.segformer import build_segformer
from tta_core.backbones.table import BACKBONES
from tta_core.backbones.weights import check_weights
from tta_core.errors import InputError
from tta_core.methods.common.surgery import network_kinds

CLASSIFIERS = {name: row for name, row in BACKBONES.items() if row.task == "classification"}
SEGMENTERS = {name: row for name, row in BACKBONES.items() if row.task == "segmentation"}
EMBEDDED = [name for name, row in CLASSIFIERS.items() if row.source.startswith("embedded:")]
TIMM = [name for name, row in BACKBONES.items() if row.source.startswith("timm:") and row.text is None]
FILE = [name for name, row in CLASSIFIERS.items() if row.source.startswith("file:")]


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_shipped_backbone_is_a_float32_network_in_eval_mode(name):
    network = load_backbone(BACKBONES[name])
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, BACKBONES[name].num_classes)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_table_and_the_training_agree(name):
    spec = BACKBONES[name]
    assert (spec.mean, spec.std) == (MEAN, STD)
    assert weights_file(spec.source.removeprefix("embedded:")).name == spec.weights


@pytest.mark.parametrize("name", TIMM)
def test_the_table_and_timm_agree(name):
    spec = BACKBONES[name]
    tag = spec.source.removeprefix("timm:")
    known = timm.get_pretrained_cfg(tag)
    assert (known.num_classes, known.input_size) == (spec.num_classes, (3, spec.image_size, spec.image_size))
    assert (spec.weights, known.hf_hub_id) == (tag, f"timm/{tag}")
    assert (spec.crop_pct, spec.interpolation, known.crop_mode) == (known.crop_pct, known.interpolation, "center")
    if name.endswith("-unnormalised"):
        assert (spec.mean, spec.std) == ((0, 0, 0), (1, 1, 1))
    else:
        assert (spec.mean, spec.std, spec.name) == (known.mean, known.std, tag)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_a_clean_accuracy_has_a_source(name):
    spec = BACKBONES[name]
    assert bool(spec.accuracy_source) == (spec.clean_accuracy is not None)
    assert (spec.crop_pct is not None) == (spec.classes == "imagenet-1k")
    if spec.protocol_accuracy is not None:
        assert abs(spec.protocol_accuracy - spec.clean_accuracy) < 0.01
    if name == "resnet50.tv_in1k":  # Its own transform is that of the protocols.
        assert str(spec.own_crop()) == "backbone-256-bilinear"


@pytest.mark.parametrize("name", FILE)
def test_a_row_for_a_file_builds_its_network(name):
    spec = BACKBONES[name]
    with torch.device("meta"):
        network = timm.create_model(spec.source.removeprefix("file:"), num_classes=spec.num_classes, **spec.options)
    assert network.patch_embed.img_size == (spec.image_size, spec.image_size)
    assert network.head.weight.shape == (spec.num_classes, 768)
    # The released weights of MAE have a norm after the mean of the tokens, and none before.
    assert ("fc_norm.weight" in network.state_dict()) == (spec.pretraining == "mae")
    assert ("norm.weight" in network.state_dict()) == (spec.pretraining != "mae")


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_row_of_segmentation_builds_its_network(name):
    spec = SEGMENTERS[name]
    with torch.device("meta"):
        network = build_scenes_network() if name == SCENES else build_segformer(name, spec.num_classes)
    assert network_kinds(network) == spec.kinds
    assert network(torch.zeros(1, 3, 64, 128, device="meta")).shape[1] == spec.num_classes


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_table_says_what_kind_of_network_it_is(name):
    spec = BACKBONES[name]
    kind, _, architecture = spec.source.partition(":")
    if kind == "embedded":
        network = load_backbone(spec)
    else:
        with torch.device("meta"):
            network = timm.create_model(architecture, num_classes=spec.num_classes, **spec.options)
    assert network_kinds(network) == spec.kinds


def test_networks_of_two_cells_share_no_weights():
    one, other = (load_backbone(BACKBONES["digits-vit-supervised"]) for _ in range(2))
    with torch.no_grad():
        one.norm.weight.zero_()
    assert other.norm.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "nosuch.safetensors"}, r"nosuch.safetensors cannot be read: .*install the package again"),
        ({"sha256": "0" * 64}, "has sha256 .* the backbone table says 000000000000"),
        ({"source": "embedded:mae"}, "do not fit digits-vit-supervised"),
    ],
)
def test_wrong_shipped_weights_are_refused(change, message):
    spec = BACKBONES["digits-vit-supervised"].model_copy(update=change)
    with pytest.raises(InputError, match=message):
        load_backbone(spec)


@pytest.fixture
def small():
    """timm's test ViT, of 5 classes."""
    torch.manual_seed(1)
    return timm.create_model("test_vit", num_classes=5).eval()


@pytest.fixture
def row():
    """A row for it, with weights from a file."""
    changes = {"name": "small", "source": "file:test_vit", "weights": "small.tag", "num_classes": 5, "options": {}}
    return BACKBONES["mae_finetuned_vit_base"].model_copy(update=changes)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TTA_GRID_WEIGHTS", str(tmp_path))
    return tmp_path


SAVED = {
    "safetensors": lambda state, file: safetensors.torch.save_file(state, file.with_name("small.tag.safetensors")),
    "half": lambda state, file: torch.save({k: v.half() for k, v in state.items()}, file),
    "plain": torch.save,
    "model": lambda state, file: torch.save({"model": state, "epoch": 3}, file),
    "state_dict": lambda state, file: torch.save({"state_dict": state, "best": 0.9}, file),
    "module": lambda state, file: torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, file),
}


@pytest.mark.parametrize("form", SAVED)
def test_weights_come_from_a_file_as_training_scripts_leave_it(form, small, row, folder):
    SAVED[form](small.state_dict(), folder / "small.tag.pth")
    check_weights(row)
    network = load_backbone(row)
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    tolerance = {"rtol": 0.02, "atol": 0.02} if form == "half" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(network(images), small(images), **tolerance)


def shrunk(state):
    """The tensors of a network for smaller images, which timm alone would enlarge."""
    return state | {"pos_embed": torch.zeros(1, 50, 64)}


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "norm.bias"), r"do not fit small \(5 classes\): missing: norm.bias\. Give"),
        (lambda s: s | {"extra": torch.zeros(1)}, "not in the network: extra"),
        (lambda s: s | {"head.weight": torch.zeros(7, 64)}, r"another shape: head.weight \(7, 64\), not \(5, 64\)"),
        (
            lambda s: {f"backbone.{k}": v for k, v in s.items()},
            r"missing: cls_token, .* more; not in the network: back",
        ),
        (lambda s: {"weights": [1, 2]}, "holds no tensors by name"),
        (lambda s: torch.zeros(3), "holds no tensors by name"),
        (lambda s: {}, "holds no tensors by name"),
        (lambda s: s | {"head.weight": torch.zeros(7, 64)}, "they have 7 classes, not 5;"),
        (lambda s: without(without(s, "head.weight"), "head.bias"), "they have no classifier, as before fine-tuning"),
        (
            lambda s: s | {"pos_embed": torch.zeros(1, 50, 64)},
            r"for other images \(50 tokens, not 101\), and are not i",
        ),
        (lambda s: {f"vit.{k}": v for k, v in s.items()}, r"names begin with 'vit.': give key_map: {'vit.': ''}"),
        (lambda s: {f"visual.trunk.{k}": v for k, v in shrunk(s).items()}, "missing: cls_token"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(change, message, small, row, folder):
    torch.save(change(small.state_dict()), folder / "small.tag.pth")
    with pytest.raises(InputError, match=message):
        load_backbone(row)


class Touched:
    """Leaves a trace if it is ever unpickled."""

    def __reduce__(self):
        return open, ("touched", "w")


def test_a_file_with_code_in_it_is_refused_and_not_executed(row, folder, monkeypatch):
    monkeypatch.chdir(folder)
    torch.save({"model": Touched()}, folder / "small.tag.pth")
    with pytest.raises(InputError, match=r"small.tag.pth cannot be read: .*more than tensors \(io.open\)"):
        load_backbone(row)
    assert not (folder / "touched").exists()


def test_a_checksum_in_the_table_holds_for_files_of_the_user(small, row, folder):
    file = folder / "small.tag.pth"
    torch.save(small.state_dict(), file)
    load_backbone(row.model_copy(update={"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}))
    with pytest.raises(InputError, match="has sha256"):
        read_weights(file, "0" * 64)


def test_missing_weights_are_named_with_where_to_put_them(row, folder, monkeypatch):
    told = rf"small.tag.safetensors or small.tag.pth into a folder and let TTA_GRID_WEIGHTS name it \(now {folder}\),"
    for look in (load_backbone, check_weights):
        with pytest.raises(InputError, match=told):
            look(row)
    monkeypatch.delenv("TTA_GRID_WEIGHTS")
    with pytest.raises(InputError, match=r"\(now not set\), or name a file: weights: {small: FILE}$"):
        check_weights(row)


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds nothing and cannot be reached."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: None)
    return constants


def test_without_a_file_timm_is_asked_for_the_weights(small, row, hub, monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    asked = {}

    def create(name, **options):
        asked.update(options, name=name)
        return small.half()

    monkeypatch.setattr(networks.timm, "create_model", create)
    network = load_backbone(row.model_copy(update={"source": "timm:test_vit.r160_in1k"}))
    assert asked == {"name": "test_vit.r160_in1k", "pretrained": True}
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    with pytest.raises(InputError, match="has 5 classes, the backbone table says 1000"):
        load_backbone(row.model_copy(update={"source": "timm:test_vit.r160_in1k", "num_classes": 1000}))


def test_a_hub_that_has_nothing_is_one_message(row, hub, folder, monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)

    def create(name, **options):
        raise FileNotFoundError("An error happened while trying to locate the file on the Hub\nTraceback")

    monkeypatch.setattr(networks.timm, "create_model", create)
    spec = row.model_copy(update={"source": "timm:test_vit.r160_in1k"})
    told = r"timm got none from the hub \(An error .* Hub\)\. Put small.tag.safetensors .*, or let timm download https"
    with pytest.raises(InputError, match=told):
        load_backbone(spec)


def test_before_a_run_the_hub_is_only_ruled_out_where_it_may_not_be_used(row, hub, folder, monkeypatch):
    spec = row.model_copy(update={"source": "timm:test_vit.r160_in1k"})
    for look in (check_weights, load_backbone):
        with pytest.raises(InputError, match="HF_HUB_OFFLINE is set and the hub's cache lacks them"):
            look(spec)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: f"/cache/{repo}/{file}")
    check_weights(spec)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: None)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    check_weights(spec)


def test_weights_are_named_by_checksum_or_by_their_tag():
    assert BACKBONES["digits-vit-mae"].weights_tag() == "digits-vit-mae@f326ec9acfde"
    tag = "vit_base_patch16_224.augreg_in21k_ft_in1k"
    assert BACKBONES[tag].weights_tag() == BACKBONES[f"{tag}-unnormalised"].weights_tag() == tag


def test_both_suffixes_are_looked_for(folder, row):
    assert weights.local_weights(row) is None
    (folder / "small.tag.pth").write_bytes(b"")
    assert weights.local_weights(row) == folder / "small.tag.pth"
    (folder / "small.tag.safetensors").write_bytes(b"")
    assert weights.local_weights(row) == folder / "small.tag.safetensors"


def test_a_folder_that_the_hub_client_downloaded_is_looked_into(folder, row):
    (folder / "small.tag").mkdir()
    (folder / "small.tag/model.safetensors").write_bytes(b"")
    assert weights.local_weights(row) == folder / "small.tag/model.safetensors"
