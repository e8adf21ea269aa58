"""Zero-shot backbones: logits as open_clip's own, a head that is made once, one message for what is missing."""

import json
import multiprocessing

import open_clip
import pytest
import safetensors.torch
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn

from tta_core import build_method
from tta_core.backbones import zero_shot, zero_shot_head
from tta_core.backbones.classifier import keep_classes
from tta_core.backbones.networks import load_backbone
from tta_core.backbones.table import BACKBONES
from tta_core.backbones.zero_shot import check_text_head, head_file, kept_head_file, text_head_state
from tta_core.backbones.zero_shot_head import texts_digest
from tta_core.errors import InputError
from tta_core.methods.common.surgery import network_kinds
from tta_core.methods.registry import methods

ZERO_SHOT = [name for name, row in BACKBONES.items() if row.text is not None]
MODEL = "tiny-clip-of-a-test"
NAMES = ("tench", "great white shark", "rock crab", "pug", "mobile phone", "cup")
TEMPLATES = (lambda c: f"a photo of a {c}.", lambda c: f"a very bad old photo of the {c}.", lambda c: f"{c}")
VISION = {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TOWER = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "act_layer": "quick_gelu"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """open_clip's model of a small configuration, with random weights."""
    config = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}
    file = tmp_path_factory.mktemp("configs") / f"{MODEL}.json"
    file.write_text(json.dumps(config))
    open_clip.add_model_config(file)
    torch.manual_seed(0)
    model = open_clip.CLIP(**open_clip.get_model_config(MODEL)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture
def folder(tmp_path, monkeypatch, clip):
    """A folder that `TTA_GRID_WEIGHTS` names with both towers; the cache is another one."""
    monkeypatch.setattr(open_clip, "IMAGENET_CLASSNAMES", NAMES)
    monkeypatch.setattr(open_clip, "OPENAI_IMAGENET_TEMPLATES", TEMPLATES)
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("TTA_GRID_WEIGHTS", str(folder))
    safetensors.torch.save_file(clip.state_dict(), folder / f"{MODEL}.random.safetensors")
    tower = timm.create_model("vit_base_patch16_clip_224", num_classes=24, **TOWER)
    tower.load_state_dict(checkpoint_filter_fn(clip.state_dict(), tower))
    safetensors.torch.save_file(tower.state_dict(), folder / "tiny_tower.safetensors")
    return folder


@pytest.fixture
def row():
    """The row of a small zero-shot backbone."""
    openai = BACKBONES["vit_base_patch16_clip_224.openai-zeroshot"]
    text = {"model": MODEL, "weights": "random", "texts": texts_digest(NAMES, TEMPLATES)}
    return openai.model_copy(
        update={
            "name": "tiny-zeroshot",
            "source": "timm:vit_base_patch16_clip_224.openai",
            "weights": "tiny_tower",
            "options": TOWER,
            "num_classes": len(NAMES),
            "image_size": 32,
            "text": openai.text.model_copy(update=text),
        }
    )


@pytest.fixture
def without_open_clip(monkeypatch):
    """As if open_clip were not installed."""

    def make():
        monkeypatch.setattr(zero_shot.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setitem(__import__("sys").modules, "open_clip", None)

    return make


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_the_table_and_open_clip_agree(name):
    spec = BACKBONES[name]
    known = open_clip.get_pretrained_cfg(spec.text.model, spec.text.weights)
    config = open_clip.get_model_config(spec.text.model)
    tag = spec.source.removeprefix("timm:")
    assert known["hf_hub"] == f"{spec.text.hub}/"
    assert (spec.mean, spec.std, spec.interpolation) == (known["mean"], known["std"], known["interpolation"])
    # open_clip resizes the short side to the size of the input and cuts the middle out.
    assert (known["resize_mode"], spec.crop_pct, config["vision_cfg"]["image_size"]) == ("shortest", 1.0, 224)
    assert spec.text.texts == texts_digest(open_clip.IMAGENET_CLASSNAMES, open_clip.OPENAI_IMAGENET_TEMPLATES)
    assert len(open_clip.IMAGENET_CLASSNAMES) == spec.num_classes
    # An image tower with the activation of the other kind loses accuracy without any error.
    quick = (known.get("quick_gelu", False), config.get("quick_gelu", False), "act_layer" in spec.options)
    assert len(set(quick)) == 1
    assert timm.get_pretrained_cfg(tag).num_classes == config["embed_dim"]
    assert spec.weights == tag


def test_logits_are_those_of_open_clip(clip, folder, row, images):
    network, batch = load_backbone(row), images(5)
    tokenizer = open_clip.get_tokenizer(MODEL)
    with torch.no_grad():
        vectors = [clip.encode_text(tokenizer([t(name) for t in TEMPLATES]), normalize=True) for name in NAMES]
        vectors = torch.nn.functional.normalize(torch.stack(vectors).mean(dim=1), dim=-1)
        expected = clip.logit_scale.exp() * clip.encode_image(batch, normalize=True) @ vectors.T
        logits = network(batch)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert (network.num_classes, network.training) == (len(NAMES), False)
    assert network_kinds(network) == row.kinds


def test_a_head_is_made_once_and_then_open_clip_is_not_needed(folder, row, images, without_open_clip, monkeypatch):
    assert text_head_state(row) == (
        f"text head: will be made once from {folder}/{MODEL}.random.safetensors and kept as {kept_head_file(row.text)}"
    )
    first = load_backbone(row)(images(3))
    made = kept_head_file(row.text)
    assert text_head_state(row) == f"text head: {made}"
    monkeypatch.setattr(zero_shot_head, "make_text_head", lambda spec: pytest.fail("made again"))
    without_open_clip()
    (folder / f"{MODEL}.random.safetensors").unlink()
    assert torch.equal(load_backbone(row)(images(3)), first)
    # The same file in the folder of weights serves a machine that never made it.
    made.rename(folder / made.name)
    assert head_file(row.text) == folder / made.name
    check_text_head(row)
    assert torch.equal(load_backbone(row)(images(3)), first)


def test_without_open_clip_one_message_says_what_to_install(folder, row, without_open_clip):
    without_open_clip()
    told = r"open_clip, which makes it, is not installed: pip install open_clip_torch .*, or put tiny-clip.*v1.safeten"
    for look in (check_text_head, load_backbone):
        with pytest.raises(InputError, match=told):
            look(row)
    assert "is not installed" in text_head_state(row)


def test_without_weights_of_the_text_tower_one_message_says_where_to_put_them(folder, row, monkeypatch):
    from huggingface_hub import constants

    check_text_head(row)
    (folder / f"{MODEL}.random.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: None)
    told = rf"nor are the weights of open_clip's {MODEL} \(random\) .*: {{}}.* Put .* {MODEL}.random.safetensors or"
    with pytest.raises(InputError, match=told.format("HF_HUB_OFFLINE is set")):
        check_text_head(row)

    def download(config):
        raise FileNotFoundError("Failed to download file\nbecause")

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    with pytest.raises(InputError, match=told.format(r"open_clip got none from the hub \(Failed to .* because\)")):
        load_backbone(row)


def test_weights_of_the_hub_are_asked_for_by_model_and_tag(folder, row, monkeypatch, images):
    expected = load_backbone(row)(images(2))
    kept_head_file(row.text).unlink()
    elsewhere = folder / "open_clip_model.safetensors"
    (folder / f"{MODEL}.random.safetensors").rename(elsewhere)
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: (model, tag))
    asked = []
    monkeypatch.setattr(open_clip, "download_pretrained", lambda config: asked.append(config) or str(elsewhere))
    assert torch.equal(load_backbone(row)(images(2)), expected)
    assert asked == [(MODEL, "random")]


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00garbage", None])
def test_weights_of_another_text_tower_are_refused(content, folder, row, clip):
    file = folder / f"{MODEL}.random.safetensors"
    if content is None:
        safetensors.torch.save_file({"visual.proj": torch.zeros(48, 7)}, file)
    else:
        file.write_bytes(content)
    told = r"do not fit open_clip's tiny.*Missing key" if content is None else "cannot be read"
    with pytest.raises(InputError, match=told):
        load_backbone(row)
    assert head_file(row.text) is None


def test_towers_of_two_models_are_refused(folder, row):
    tower = timm.create_model("vit_base_patch16_clip_224", num_classes=24, **TOWER)
    safetensors.torch.save_file(tower.state_dict(), folder / "tiny_tower.safetensors")
    with pytest.raises(InputError, match="are of two models, their projections differ: give the weights of tiny_tower"):
        load_backbone(row)


def test_other_class_names_are_refused(folder, row, monkeypatch):
    monkeypatch.setattr(open_clip, "IMAGENET_CLASSNAMES", (*NAMES[:-1], "mug"))
    with pytest.raises(InputError, match="has other class names or templates than the backbone table knows"):
        load_backbone(row)


def test_a_damaged_head_is_made_anew_in_the_cache_and_refused_elsewhere(folder, row, images):
    expected = load_backbone(row)(images(2))
    made = kept_head_file(row.text)
    whole = made.read_bytes()
    made.write_bytes(whole[:100])
    assert torch.equal(load_backbone(row)(images(2)), expected)
    (folder / made.name).write_bytes(whole[:100])
    with pytest.raises(InputError, match=rf"the text head {folder / made.name} cannot be read"):
        load_backbone(row)


def test_a_head_of_another_backbone_is_refused(folder, row):
    load_backbone(row)
    made = kept_head_file(row.text)
    other = row.model_copy(update={"text": row.text.model_copy(update={"version": 2})})
    made.rename(folder / zero_shot.head_file_name(other.text))
    with pytest.raises(InputError, match=r"is not the text head of tiny-zeroshot .*: it holds tiny-clip.*v1\. Give"):
        load_backbone(other)


def test_a_masked_label_space_cuts_the_vectors(folder, row, images):
    with torch.no_grad():
        whole = load_backbone(row)(images(4))
        network = keep_classes(load_backbone(row), (4, 1))
        torch.testing.assert_close(network(images(4)), whole[:, [4, 1]])
    assert network.num_classes == 2
    with pytest.raises(InputError, match="keeps class 6, and VisionTransformer has 6"):
        keep_classes(load_backbone(row), (0, 6))


@pytest.mark.parametrize("name", [name for name, spec in methods().items() if spec.takes(("transformer",))])
def test_every_method_for_transformers_runs_on_it(name, folder, row, images, beyond):
    source = load_backbone(row)
    given = {**beyond(), "labelled_source": [(images(6), torch.arange(6))], "held_out": [(images(6), torch.arange(6))]}
    method = build_method(name, load_backbone(row), num_classes=len(NAMES), batch_size=8, **given)
    for seed in range(3):
        logits = method(images(8, seed))
        assert logits.shape == (8, len(NAMES))
        assert logits.isfinite().all()
    head = method.network.get_classifier()
    assert torch.equal(head.prototypes, source.get_classifier().prototypes)


def _load(row, names, templates, queue):
    torch.set_num_threads(1)  # Threads of the parent are not here.
    open_clip.IMAGENET_CLASSNAMES, open_clip.OPENAI_IMAGENET_TEMPLATES = names, templates
    make, made = zero_shot_head.make_text_head, []
    zero_shot_head.make_text_head = lambda spec: made.append(1) or make(spec)
    zero_shot_head.text_head(row)
    queue.put(len(made))


def test_of_two_processes_one_makes_the_head(folder, row):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=_load, args=(row, NAMES, TEMPLATES, queue)) for _ in range(2)]
    for process in both:
        process.start()
    made = [queue.get(timeout=60) for _ in both]
    for process in both:
        process.join(timeout=60)
    assert sorted(made) == [0, 1]
    assert not list(kept_head_file(row.text).parent.glob("*partial*"))


def test_the_weights_tag_names_both_towers():
    spec = BACKBONES["vit_base_patch16_clip_224.openai-zeroshot"]
    assert spec.weights_tag() == "vit_base_patch16_clip_224.openai + ViT-B-16-quickgelu.openai.texts-ba2475255f4b.v1"
