"""Step by step against traces of the published implementations (tests/golden; format in its manifests)."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tta_core import build_method

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
# The release weights entropies with ln 1000 whatever the number of classes; margins here are in units of ln(classes).
MOETTA_MARGIN = {"entropy_margin": 0.4 * math.log(1000) / math.log(10)}
CASES = {
    "tent": ("recommended", {"lr": 0.01}),
    "moetta_default": ("official", MOETTA_MARGIN),
    "moetta_noalias": ("recommended", MOETTA_MARGIN),
    "moetta_topk2": ("official", {"top_k": 2} | MOETTA_MARGIN),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_internals_follow_the_published_run(case, dtype):
    trace = np.load(GOLDEN / f"{case}.npz")
    manifest = json.loads((GOLDEN / f"{case}.json").read_text())
    method = build(case, trace, manifest, dtype)
    tolerance = manifest["tolerance"]["logits_float32"] if dtype == torch.float32 else 1e-8
    expected = trace["out/logits" if dtype == torch.float32 else "out64/logits"]
    for step, batch in enumerate(inputs(trace, manifest)):
        logits = method(torch.from_numpy(batch).to(dtype)).numpy()
        assert np.abs(logits - expected[step]).max() <= tolerance, f"step {step}"
        if "out/n_selected" in trace:
            assert int(method.record["selected"]) == trace["out/n_selected"][step]
        if "out/threshold" in trace:
            assert float(method.record["threshold"]) == pytest.approx(float(trace["out/threshold"][step]), abs=1e-5)
    for name, parameter in method.trainable_parameters().items():
        if f"final/{name}" in trace:
            assert np.abs(parameter.detach().numpy() - trace[f"final/{name}"]).max() <= 1e-5, name


def test_expert_usage_counts_what_the_published_run_counted():
    trace = np.load(GOLDEN / "moetta_noalias.npz")
    manifest = json.loads((GOLDEN / "moetta_noalias.json").read_text())
    method = build("moetta_noalias", trace, manifest, torch.float32)
    for batch in inputs(trace, manifest):
        method(torch.from_numpy(batch))
    usage = np.array(list(method.diagnostics()["expert_usage"].values()))
    counts = trace["out/count"].sum(axis=0)
    assert np.allclose(usage, counts / counts.sum(axis=1, keepdims=True))


def build(case, trace, manifest, dtype):
    network = VisionTransformer(**manifest["model"])
    weights = {n[len("init/") :]: torch.from_numpy(trace[n].astype(np.float32)) for n in trace if n.startswith("init/")}
    network.load_state_dict(weights)
    preset, settings = CASES[case]
    method = build_method(
        manifest["method"],
        network.to(dtype),
        num_classes=manifest["model"]["num_classes"],
        preset=preset,
        **settings,
    )
    with torch.no_grad():
        for name, parameter in method.trainable_parameters().items():
            if f"extra/{name}" in trace:
                parameter.copy_(torch.from_numpy(trace[f"extra/{name}"]))
    return method


def inputs(trace, manifest):
    scale = manifest["image_size"] // trace["u8"].shape[-1]
    pixels = trace["u8"].repeat(scale, axis=-1).repeat(scale, axis=-2).astype(np.float32) / np.float32(255)
    return (pixels - np.float32(0.5)) / np.float32(0.5)
