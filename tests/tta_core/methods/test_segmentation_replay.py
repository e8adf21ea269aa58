"""A case of the released Tent step for segmentation is replayed as any other: the case is written here."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.golden import replay
from tests.golden.case import Case
from tests.golden.methods.segmentation import PixelFollower
from tta_core.backbones.segformer import SegFormer, SegFormerShape, under_our_names

COTTA = Path(replay.__file__).with_name("seg_cotta.json")
STEPS = 3


def enlarged(logits, size):
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def in_windows(network, images, crop, stride):
    """Logits of windows at the size of the images, as the release puts them together."""
    (height, width), total, count = images.shape[-2:], 0, 0
    for row in range(max(height - crop[0] + stride[0] - 1, 0) // stride[0] + 1):
        for column in range(max(width - crop[1] + stride[1] - 1, 0) // stride[1] + 1):
            bottom, right = min(row * stride[0] + crop[0], height), min(column * stride[1] + crop[1], width)
            top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
            logits = enlarged(network(images[:, :, top:bottom, left:right]), (bottom - top, right - left))
            around = (left, width - right, top, height - bottom)
            total = total + functional.pad(logits, around)
            count = count + functional.pad(torch.ones_like(logits), around)
    return total / count


def tent_run(manifest, trace, dtype, loss="hard_labels"):
    """The step of the specification, written down a second time: maps of classes, logits and losses of all steps."""
    model, hyper = manifest["model"], manifest["hyper"]
    shape = SegFormerShape(
        *(tuple(model["embed_dims"]), tuple(model["depths"]), model["decoder_dim"], tuple(model["num_heads"])),
        *(tuple(model[name]) for name in ("sr_ratios", "patch_sizes", "strides")),
        model["mlp_ratios"][0],
    )
    network = SegFormer(shape, model["num_classes"]).eval()
    initial = {name[5:]: torch.from_numpy(trace[name].astype(np.float32)) for name in trace if name[:5] == "init/"}
    network.load_state_dict(under_our_names(initial), strict=False)
    network.to(dtype)
    trained = [p for name, p in network.named_parameters() if "norm" in name or ".bn." in name]
    optimizer = torch.optim.Adam(trained, lr=hyper["lr"], betas=hyper["betas"])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1).to(dtype) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    size = tuple(manifest["label_size"])
    found = {"prediction": [], "student_logits": [], "loss": []}
    for u8 in trace["u8"]:
        pixels = torch.from_numpy(u8.repeat(2, -1).repeat(2, -2).astype(np.float32) / 255).to(dtype)
        images = (pixels - mean) / std
        with torch.no_grad():
            classes = enlarged(in_windows(network, images, hyper["crop"], hyper["stride"]), size).argmax(dim=1)
        logits = network(images)
        if loss == "hard_labels":
            value = functional.cross_entropy(enlarged(logits, size), classes)
        else:
            value = torch.distributions.Categorical(logits=enlarged(logits, size).movedim(1, -1)).entropy().mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found["prediction"].append(classes[0].numpy().astype(np.uint8))
        found["student_logits"].append(logits[0].detach().numpy())
        found["loss"].append(value.item())
    return {name: np.stack(values) for name, values in found.items()}


def write_case(folder, *, learned="hard_labels", **hyper):
    """A Tent case of the generator's format, on the network and the images of the shipped case of CoTTA."""
    cotta = Case.read(COTTA)
    shared = ("optimizer", "betas", "num_classes", "lr", "ignore_index")
    options = {name: cotta.hyper[name] for name in shared} | {"crop": [24, 40], "stride": [16, 24]} | hyper
    manifest = {name: cotta.manifest[name] for name in ("model", "image_size", "label_size", "input_rule", "tolerance")}
    manifest |= {"method": "tent", "variant": "segmentation", "task": "segmentation", "case": "seg_tent"}
    manifest |= {"hyper": options, "steps": STEPS, "batch_size": 1}
    trace = {name: values for name, values in cotta.trace.items() if name.startswith("init/")}
    trace["u8"] = cotta.trace["u8"][:STEPS]
    for prefix, dtype in (("out", torch.float32), ("out64", torch.float64)):
        run = tent_run(manifest, trace, dtype, learned)
        trace |= {f"{prefix}/{name}": values for name, values in run.items()}
    (folder / "seg_tent.json").write_text(json.dumps(manifest))
    np.savez(folder / "seg_tent.npz", **trace)
    return str(folder)


@pytest.mark.parametrize(
    ("loss", "hyper"),
    [("hard_labels", {}), ("hard_labels", {"view_ratios": [1.0], "flip": False}), ("entropy", {"loss": "entropy"})],
)
def test_a_case_of_tent_passes_in_both_precisions(loss, hyper, tmp_path, capsys):
    assert replay.main([write_case(tmp_path, learned=loss, **hyper)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 0 failed, 0 skipped"


def test_another_loss_fails(tmp_path):
    assert replay.main([write_case(tmp_path, learned="entropy")]) == 1


@pytest.mark.parametrize(
    ("hyper", "reason"),
    [
        ({"temperature": 2.0}, "option 'temperature' in the manifest has no translation"),
        ({"view_ratios": [1.0, 3.0], "flip": True}, r"views of the ratios \[1.0, 3.0\] are not implemented"),
        ({"loss": "soft"}, "tent: loss = 'soft'"),
    ],
)
def test_an_option_that_we_do_not_know_is_one_failure(hyper, reason, tmp_path, capsys):
    path = write_case(tmp_path, **hyper)
    assert replay.main([path, "--precision", "float64"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("FAIL  seg_tent  float64")
    assert re.search(reason, lines[0])


def test_the_follower_is_told_by_task_and_method():
    assert {name for name, kind in replay.FOLLOWERS.items() if issubclass(kind, PixelFollower)} == {
        "segmentation cotta",
        "segmentation tent",
    }
