"""Weights of the user's own: files and addresses, checksums, names; what goes wrong is one message."""

import argparse
import hashlib
import http.server
import os
import threading
from pathlib import Path

import numpy
import pytest
import safetensors.torch
import timm
import torch
from timm.models.swin_transformer import SwinTransformer

import tta_core
from tta_core.backbones import downloads
from tta_core.backbones.networks import _filled, load_backbone
from tta_core.backbones.own_weights import OwnWeights, file_sha256
from tta_core.backbones.table import BACKBONES
from tta_core.backbones.weights import check_weights, weights_origin
from tta_core.backbones.weights_files import read_weights
from tta_core.errors import InputError
from tta_core.run.config import RunConfig

DIGITS = "digits-vit-supervised"
MAE = BACKBONES["mae_finetuned_vit_base"]


def config(**values):
    return RunConfig.from_values({"method": "source", "diagnostics": "none", **values})


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def row():
    """timm's test ViT, read out as MAE is, with 5 classes and weights from a file."""
    return MAE.model_copy(update={"name": "small", "source": "file:test_vit", "weights": "small", "num_classes": 5})


@pytest.fixture
def state(row):
    torch.manual_seed(1)
    return timm.create_model("test_vit", num_classes=5, **row.options).state_dict()


@pytest.fixture
def file(state, tmp_path):
    path = tmp_path / "own.pth"
    torch.save(state, path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TTA_GRID_WEIGHTS", raising=False)
    return tmp_path / "cache" / "weights"


def loaded(row, file, **entries):
    return load_backbone(row, OwnWeights.model_validate({"file": str(file), **entries})).state_dict()


def same(found, state):
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_file_needs_no_folder_and_no_name_of_its_own(row, state, tmp_path):
    safetensors.torch.save_file(state, tmp_path / "any name.safetensors")
    same(loaded(row, tmp_path / "any name.safetensors"), state)


def test_a_checkpoint_of_mae_is_read_with_its_arguments_and_pooled_over_patches(row, state, tmp_path):
    assert {"fc_norm.weight", "head.weight"} <= state.keys()
    assert "norm.weight" not in state
    content = {"model": state, "args": argparse.Namespace(nb_classes=5, device=torch.device("cpu")), "epoch": 99}
    torch.save(content, tmp_path / "mae_finetuned.pth")
    same(loaded(row, tmp_path / "mae_finetuned.pth"), state)
    network = load_backbone(row, OwnWeights.model_validate({"file": str(tmp_path / "mae_finetuned.pth")}))
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    patches = network.forward_features(images)[:, 1:]
    expected = network.head(network.fc_norm(patches.mean(dim=1)))
    torch.testing.assert_close(network(images), expected)


def test_a_checkpoint_as_vida_leaves_it(row, state, tmp_path):
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}, "acc": 98.9}, tmp_path / "vit.t7")
    same(loaded(row, tmp_path / "vit.t7"), state)


def test_a_key_map_renames_beginnings_and_leaves_out(row, state, tmp_path):
    changed = {f"encoder.{name}": value for name, value in state.items()} | {"decoder.weight": torch.zeros(3)}
    changed["classifier.weight"] = changed.pop("encoder.head.weight")
    changed["classifier.bias"] = changed.pop("encoder.head.bias")
    torch.save(changed, tmp_path / "a.pth")
    same(
        loaded(row, tmp_path / "a.pth", key_map={"encoder.": "", "decoder.": None, "classifier.": "head."}),
        state,
    )


def test_of_several_beginnings_the_longest_counts(tmp_path):
    torch.save({"a.b.c": torch.zeros(1), "a.d": torch.ones(1)}, tmp_path / "a.pth")
    assert list(read_weights(tmp_path / "a.pth", key_map={"a.": "x.", "a.b.": "y."})) == ["y.c", "x.d"]


@pytest.mark.parametrize(
    ("key_map", "message"),
    [
        ({"encodr.": ""}, r"key_map: no tensor of .*a.pth begins with 'encodr.'.* the names are one.w, two.w, ..."),
        ({"two.": "one."}, r"key_map makes two tensors of .*a.pth the same 'one.w'"),
    ],
)
def test_a_key_map_that_fits_nothing_or_too_much_is_refused(key_map, message, tmp_path):
    torch.save({"one.w": torch.zeros(1), "two.w": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "a.pth", key_map=key_map)


def test_names_of_the_authors_of_a_network_are_translated_but_sizes_are_not():
    torch.manual_seed(0)
    network = SwinTransformer(img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(2, 1), num_classes=5)
    state, original = network.state_dict(), {}
    for name, value in state.items():
        original[name.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head")] = value + 1
    original["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    spec = MAE.model_copy(update={"name": "swin", "num_classes": 5})
    found = _filled(spec, network, original, "swin.pth").state_dict()
    assert torch.equal(found["layers.1.downsample.reduction.weight"], original["layers.0.downsample.reduction.weight"])
    assert torch.equal(found["head.fc.weight"], original["head.weight"])
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    with pytest.raises(InputError, match=rf"of another shape: {name} \(169, 3\), not \(49, 3\)"):
        _filled(spec, network, original | {name: torch.zeros(169, 3)}, "swin.pth")


def test_counters_of_batch_norm_may_be_missing():
    spec = BACKBONES["digits-resnet-supervised"]
    network = load_backbone(spec)
    state = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    assert len(state) < len(network.state_dict())
    assert _filled(spec, network, state, "old.pth") is network


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("size", [0x0080, 0x0280, 0x4B50])
def test_a_header_whose_size_begins_like_another_format_is_read(size, tmp_path):
    """The size stands first in a safetensors file, and 80 begins a pickle, 50 4B a zip archive."""
    file = tmp_path / "a.safetensors"
    tensors = {"a": torch.arange(3.0)}
    safetensors.torch.save_file(tensors, file)
    content = file.read_bytes()
    old = int.from_bytes(content[:8], "little")
    file.write_bytes(size.to_bytes(8, "little") + content[8 : 8 + old].ljust(size) + content[8 + old :])
    assert torch.equal(read_weights(file, None)["a"], tensors["a"])


def as_safetensors(change):
    def make(path):
        safetensors.torch.save_file({"a": torch.zeros(99)}, path)
        change(path)

    return make


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("no.pth", lambda path: None, "no.pth cannot be read: there is no such file"),
        ("folder", lambda path: path.mkdir(), "it is a folder: give the file in it"),
        ("empty.pth", lambda path: path.write_bytes(b""), "it is empty: get it again"),
        ("empty.safetensors", lambda path: path.write_bytes(b""), "it is empty: get it again"),
        ("text.pth", lambda path: path.write_bytes(b"no weights"), "damaged, or no file that torch.save wrote"),
        (
            "short.pth",
            lambda path: (torch.save({"a": torch.zeros(99)}, path), half(path)),
            "cut short, damaged or no w",
        ),
        ("short.safetensors", as_safetensors(half), "no whole safetensors file .*not fully covered.*; get it again"),
        (
            "head.safetensors",
            as_safetensors(lambda path: path.write_bytes(b"\xff" * 99)),
            "no whole safetensors file .*header",
        ),
        ("list.pth", lambda path: torch.save([torch.zeros(2)], path), "holds no tensors by name"),
    ],
)
@pytest.mark.parametrize("stated", [False, True])
def test_a_file_that_cannot_be_read_is_one_message(name, make, message, stated, tmp_path):
    make(tmp_path / name)
    whole = stated and (tmp_path / name).is_file()
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / name, sha256(tmp_path / name) if whole else "0" * 64 if stated else None)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_file_without_the_right_to_read_it_says_so(name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"weights")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tta_core.backbones.weights_files.torch.load", refuse)
    monkeypatch.setattr("tta_core.backbones.weights_files.safetensors.torch.load_file", refuse)
    with pytest.raises(InputError, match=rf"{name} cannot be read: Permission denied: give this user the right"):
        read_weights(tmp_path / name)
    monkeypatch.setattr("tta_core.backbones.own_weights._sha256", refuse)
    with pytest.raises(InputError, match=rf"{name} cannot be read: Permission denied: give this user the right"):
        read_weights(tmp_path / name, "0" * 64)


def test_a_changed_file_is_found_out(row, file):
    own = OwnWeights(file=str(file), sha256=sha256(file))
    check_weights(row, own)
    load_backbone(row, own)
    torch.save({"other": torch.zeros(1)}, file)
    for look in (check_weights, load_backbone):
        with pytest.raises(InputError, match=r"own.pth has sha256 .*, the checksum given with it is "):
            look(row, own)


def test_the_content_makes_the_id_and_not_the_path(file, tmp_path):
    other = tmp_path / "copy.pth"
    other.write_bytes(file.read_bytes())
    plain, own, copy = config(), config(weights={DIGITS: str(file)}), config(weights={DIGITS: {"file": str(other)}})
    assert own.cell_id() == copy.cell_id() != plain.cell_id()
    assert own.fingerprint() == copy.fingerprint() != plain.fingerprint()
    assert own.protocol()["weights"] == f"{DIGITS}@{sha256(file)[:12]}"
    address = config(weights={DIGITS: {"url": "https://example.org/own.pth", "sha256": sha256(file).upper()}})
    assert address.cell_id() == own.cell_id()
    mapped = config(weights={DIGITS: {"file": str(file), "key_map": {"a.": "b."}}})
    assert mapped.fingerprint() != own.fingerprint()
    torch.save({"other": torch.zeros(1)}, other)
    os.utime(other, ns=(1, 1))
    assert config(weights={DIGITS: str(other)}).cell_id() != own.cell_id()


def test_cells_of_other_backbones_stay_what_they_are(file):
    given = {DIGITS: str(file)}
    assert config(weights=given, backbone="digits-vit-mae") == config(backbone="digits-vit-mae")
    assert config(weights=given, backbone="digits-vit-mae").weights is None
    assert config(weights={}) == config(weights=None) == config()
    assert config().protocol()["weights"] == BACKBONES[DIGITS].weights_tag()


def test_a_resolved_cell_reads_back_without_its_file(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    made = config(weights={DIGITS: file.name})
    assert made.own_weights.file == str(file)
    file.unlink()
    assert RunConfig.from_values(made.model_dump(mode="json")) == made


ADDRESS = "https://example.org/a.pth"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (ADDRESS, f"url = '{ADDRESS}' has no checksum, .*: give sha256 too"),
        ({"url": ADDRESS}, "has no checksum"),
        ({"url": ADDRESS, "sha256": "abc"}, "sha256 = 'abc' is not allowed"),
        ({"url": "ftp://example.org/a", "sha256": "0" * 64}, "is no address: allowed are https://, http://, file://"),
        ({"url": "https://me:secret@example.org/a", "sha256": "0" * 64}, "url holds a user or password, and would"),
        ({"url": ADDRESS, "file": "/a.pth", "sha256": "0" * 64}, "give either file or url"),
        ({"sha256": "0" * 64}, "give either file or url"),
        ({"fil": "/a.pth"}, "unknown key 'fil', did you mean 'file'"),
        ({"file": "/nosuch/a.pth"}, "the weights file /nosuch/a.pth cannot be read: there is no such file"),
        (3, f"weights: {DIGITS} = 3 is not allowed: give a file"),
    ],
)
def test_a_wrong_entry_is_one_message(entry, message):
    with pytest.raises(InputError, match=message):
        config(weights={DIGITS: entry})


def test_weights_belong_to_a_backbone(file):
    with pytest.raises(InputError, match=rf"say for which backbone: weights: {{{DIGITS}: {file}}}"):
        config(weights=str(file))
    with pytest.raises(InputError, match=r"unknown backbone in weights 'digits-vit'\. Did you mean 'digits-vit-mae'"):
        config(weights={"digits-vit": str(file)})


def test_a_cell_runs_with_weights_of_its_own(tmp_path):
    spec = BACKBONES["digits-vit-supervised"]
    state = load_backbone(spec).state_dict()
    state["head.weight"], state["head.bias"] = state["head.weight"].flip(0), state["head.bias"].flip(0)
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "flipped.pth")
    values = {"domains": ["clean"], "samples_per_domain": 32}
    plain = tta_core.run(config(**values))
    own = tta_core.run(config(weights={DIGITS: str(tmp_path / "flipped.pth")}, **values))
    assert (own.samples["prediction"] == 9 - plain.samples["prediction"]).all()


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def end_headers(self):
        if self.path == "/short.pth":
            self._headers_buffer = [line.replace(b": 9", b": 99") for line in self._headers_buffer]
        super().end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, serving):
    """Serves `tmp_path` on loopback: its address, and the paths that were asked for."""
    asked = []
    handler = type("Handler", (Quiet,), {"asked": asked})

    def make(*arguments):
        return handler(*arguments, directory=str(tmp_path))

    with serving(make) as address:
        yield address, asked


@pytest.fixture
def online(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return constants


def test_an_address_is_downloaded_once(row, state, file, server, cache, online, monkeypatch):
    address, asked = server
    own = OwnWeights(url=f"{address}/own.pth?signed=1", sha256=sha256(file))
    check_weights(row, own)
    assert weights_origin(row, own) == f"download of {address}/own.pth (sha256 {own.sha256[:12]})"
    assert not asked
    for _ in range(2):
        same(load_backbone(row, own).state_dict(), state)
    assert asked == ["/own.pth?signed=1"]
    (kept,) = (path for path in cache.iterdir() if not path.name.startswith("."))
    assert kept.read_bytes() == file.read_bytes()
    assert weights_origin(row, own) == f"{kept} (sha256 {own.sha256[:12]})"
    monkeypatch.setattr(online, "HF_HUB_OFFLINE", True)
    load_backbone(row, own)
    kept.write_bytes(b"damaged")
    monkeypatch.setattr(online, "HF_HUB_OFFLINE", False)
    same(load_backbone(row, own).state_dict(), state)
    assert len(asked) == 2


def test_two_at_once_download_once(file, server, online):
    address, asked = server
    digest, found = sha256(file), []
    threads = [
        threading.Thread(target=lambda: found.append(downloads.downloaded(f"{address}/own.pth", digest)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found)), len(asked)) == (3, 1, 1)


def test_a_file_address_works_without_the_network(row, state, file, online, monkeypatch):
    monkeypatch.setattr(online, "HF_HUB_OFFLINE", True)
    own = OwnWeights(url=file.as_uri(), sha256=sha256(file))
    check_weights(row, own)
    same(load_backbone(row, own).state_dict(), state)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own.pth", r"what http://127.0.0.1:\d+/own.pth holds has sha256 .*, not 000000000000... as given\. Nothing"),
        ("page.html", r"looks like a web page: the address must be that of the file itself"),
        ("short.pth", r"short.pth broke off after 9 of 99 bytes: run again"),
        (
            "nosuch.pth",
            r"http://127.0.0.1:\d+/nosuch.pth cannot be downloaded \(HTTP Error 404: .*\): look at the address",
        ),
    ],
)
def test_what_is_not_the_file_of_the_checksum_is_not_kept(path, message, row, file, server, cache, online):
    (file.parent / "page.html").write_text("<html>Download quota exceeded</html>")
    (file.parent / "short.pth").write_bytes(b"9 of them")
    own = OwnWeights(url=f"{server[0]}/{path}", sha256="0" * 64)
    with pytest.raises(InputError, match=message):
        load_backbone(row, own)
    assert not [name for name in os.listdir(cache) if not name.endswith(".lock")]  # noqa: PTH208


def test_a_server_that_is_not_there_is_one_message(row, online):
    own = OwnWeights(url="http://127.0.0.1:9/a.pth", sha256="0" * 64)
    with pytest.raises(
        InputError, match=r"127.0.0.1:9/a.pth cannot be downloaded \(.*refused.*\): look at the address"
    ):
        load_backbone(row, own)


def test_offline_nothing_is_asked(row, file, server, online, monkeypatch):
    monkeypatch.setattr(online, "HF_HUB_OFFLINE", True)
    own = OwnWeights(url=f"{server[0]}/own.pth", sha256=sha256(file))
    for look in (check_weights, load_backbone):
        with pytest.raises(InputError, match=r"HF_HUB_OFFLINE is set, and http://.*/own.pth is not in the cache"):
            look(row, own)
    assert "MISSING" in weights_origin(row, own)
    assert not server[1]


def test_where_weights_come_from_is_said(row, file, online, monkeypatch):
    timm_row = BACKBONES["resnet50.tv_in1k"]
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: None)
    assert weights_origin(BACKBONES[DIGITS]) == "shipped with tta-grid"
    assert weights_origin(timm_row) == "download of hf.co/timm/resnet50.tv_in1k"
    assert weights_origin(row).startswith("MISSING: the weights of small are not here: there is no such file. Put ")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: "/there")
    assert weights_origin(timm_row) == "cache of the Hugging Face hub, timm/resnet50.tv_in1k"
    monkeypatch.setenv("TTA_GRID_WEIGHTS", str(file.parent))
    file.rename(file.with_name("small.pth"))
    assert weights_origin(row) == str(file.with_name("small.pth"))


def test_a_folder_that_is_none_is_not_passed_over(row, tmp_path, monkeypatch):
    monkeypatch.setenv("TTA_GRID_WEIGHTS", str(tmp_path / "wieghts"))
    for spec in (row, BACKBONES["resnet50.tv_in1k"]):
        for look in (check_weights, load_backbone):
            with pytest.raises(InputError, match=r"TTA_GRID_WEIGHTS = .*/wieghts is no folder: name the folder"):
                look(spec)
    check_weights(BACKBONES[DIGITS])
    load_backbone(BACKBONES[DIGITS])

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tta_core.backbones.weights.Path.is_dir", refuse)
    with pytest.raises(InputError, match=r"cannot be looked into \(Permission denied\): mend its permissions"):
        check_weights(row)


def test_a_checksum_is_computed_once_until_the_file_changes(file, monkeypatch):
    first = file_sha256(file)
    monkeypatch.setattr("tta_core.backbones.own_weights.hashlib.file_digest", None)
    assert file_sha256(file) == first


def changed(state):
    return {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda own, other: {"state_dict": other, "state_dict_ema": own, "epoch": 3},
        lambda own, other: {"model": other, "model_ema": own, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        lambda own, other: {"model_ema": own, "epoch": 3},
        lambda own, other: {"model": other, "ema": {"module": own, "decay": 0.99}},
        lambda own, other: {"model": {"module": own}},
        lambda own, other: {"teacher": own, "optim": other},
        lambda own, other: {"n_averaged": torch.tensor(9), **{f"module.{name}": t for name, t in own.items()}},
        lambda own, other: {"state_dict": own, "accuracy": numpy.float64(0.8), "hyper_parameters": {"lr": 0.1}},
    ],
)
def test_what_training_scripts_put_around_weights_is_taken_off(wrap, row, state, tmp_path):
    torch.save(wrap(state, changed(state)), tmp_path / "a.pth")
    same(loaded(row, tmp_path / "a.pth"), state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"student": {"a": torch.zeros(1)}, "teacher": {"a": torch.zeros(1)}}, "several networks: student, teacher"),
        ({"model": {"one": {"a": torch.zeros(1)}, "two": {"a": torch.zeros(1)}}}, "several networks: model.one, mod"),
        ({"epoch": 3, "args": {"lr": 0.1}}, "holds no tensors by name, .*: it has epoch, args. Save those"),
    ],
)
def test_a_file_of_several_networks_or_none_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html><html><head><title>Virus scan warning</title></head></html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer"),
        (b"/annex/objects/MD5E-s1--1.pth\n", "git-annex pointer"),
        (b'{"error": "Entry not found"}', "it is JSON"),
        (b"\x1f\x8b\x08\x00" + bytes(60), "it is compressed"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "it is HDF5"),
    ],
)
def test_files_that_are_no_weights_are_called_what_they_are(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"cannot be read: .*{message}"):
        read_weights(tmp_path / name)


def test_a_file_is_read_by_what_it_holds_not_by_its_name(row, state, tmp_path):
    torch.save(state, tmp_path / "a.safetensors")
    safetensors.torch.save_file(state, tmp_path / "b.pth")
    same(loaded(row, tmp_path / "a.safetensors"), state)
    same(loaded(row, tmp_path / "b.pth"), state)


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.complex64, torch.bool])
def test_weights_of_another_kind_are_refused(kind, row, state, tmp_path):
    torch.save(state | {"head.weight": state["head.weight"].to(kind)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"of another kind: head.weight \w+, not float32"):
        loaded(row, tmp_path / "a.pth")


def test_weights_without_values_or_of_no_shape_are_refused(row, state, tmp_path):
    for changed, message in (
        ({"head.weight": state["head.weight"].to("meta")}, "of another kind: head.weight without values, not float32"),
        ({"head.weight": state["head.weight"].sum()}, r"of another shape: head.weight \(\), not"),
        ({"pos_embed": state["pos_embed"].sum()}, r"of another shape: pos_embed \(\), not"),
    ):
        torch.save(state | changed, tmp_path / "a.pth")
        with pytest.raises(InputError, match=message):
            load_backbone(row, OwnWeights(file=str(tmp_path / "a.pth")))


def test_a_script_is_told_what_is_wrong_with_its_weights(tmp_path):
    for fields, message in (
        ({"file": str(tmp_path / "gone.pth")}, "^the weights file .*gone.pth cannot be read: there is no such file"),
        ({"file": "a.pth", "sha256": "abc"}, "^sha256 = 'abc' is not allowed"),
        ({"sha256": "0" * 64}, "^give either file or url"),
    ):
        with pytest.raises(InputError, match=message):
            OwnWeights(**fields)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
def test_sparse_weights_are_refused(row, state, tmp_path):
    torch.save(state | {"head.weight": state["head.weight"].to_sparse()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"of another kind: head.weight sparse_coo, not float32"):
        loaded(row, tmp_path / "a.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, row, state, tmp_path):
    broken = state["head.bias"].clone()
    broken[0] = value
    torch.save(state | {"head.bias": broken}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"infinite or not a number in head.bias\. .* earlier checkpoint"):
        loaded(row, tmp_path / "a.pth")


def test_weights_before_fine_tuning_are_told(row, state, tmp_path):
    pretrained = {name.replace("fc_norm", "norm"): value for name, value in state.items() if "head" not in name}
    torch.save({"model": pretrained | {"mask_token": torch.zeros(1, 1, 64)}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="they have no classifier, as before fine-tuning"):
        loaded(row, tmp_path / "a.pth")


def test_a_path_that_is_none_is_refused():
    with pytest.raises(InputError, match="this is no path"):
        file_sha256(Path("a\0b"))
