"""Weights from the Hugging Face hub, by timm and the hub's own client: here from a small hub on loopback."""

import hashlib
import http.server
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from tta_core.backbones.networks import load_backbone
from tta_core.backbones.table import BACKBONES

ROOT = Path(__file__).resolve().parents[3]

TAG = "test_vit.r160_in1k"
ROW = BACKBONES["vit_base_patch16_224.augreg_in21k_ft_in1k"].model_copy(
    update={"name": TAG, "source": f"timm:{TAG}", "weights": TAG}
)

PROGRAM = """
from huggingface_hub import constants
from tests.tta_core.backbones.test_hub import ROW
from tta_core.errors import InputError
from tta_core.backbones.networks import load_backbone
from tta_core.backbones.weights import weights_origin

def sums():
    return sum(tensor.double().sum().item() for tensor in load_backbone(ROW).state_dict().values())

constants.HF_HUB_OFFLINE = True
try:
    load_backbone(ROW)
except InputError as error:
    print(str(error).partition(". Put")[0])
constants.HF_HUB_OFFLINE = False
print(weights_origin(ROW))
first = sums()
constants.HF_HUB_OFFLINE = True
assert sums() == first
print(weights_origin(ROW))
print(first)
"""


@pytest.fixture
def state():
    torch.manual_seed(1)
    return timm.create_model("test_vit").state_dict()


@pytest.fixture
def hub(state, serving):
    """A hub that has the weights of one model: its address, and what it was asked for."""
    content, asked = safetensors.torch.save(state), []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append((self.command, self.path))
            found = self.path == f"/timm/{TAG}/resolve/main/model.safetensors"
            self.send_response(200 if found else 404)
            if found:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return found

        def do_GET(self):
            if self.do_HEAD():
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with serving(Hub) as address:
        yield address, asked


def test_timm_downloads_once_and_then_works_offline(hub, state, tmp_path):
    address, asked = hub
    own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TTA_GRID_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=kept | own, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    refused, before, after, total = done.stdout.splitlines()
    assert refused == f"the weights of {TAG} are not here: HF_HUB_OFFLINE is set and the hub's cache lacks them"
    assert (before, after) == (f"download of hf.co/timm/{TAG}", f"cache of the Hugging Face hub, timm/{TAG}")
    assert float(total) == pytest.approx(sum(tensor.double().sum().item() for tensor in state.values()))
    assert [path for command, path in asked if command == "GET" and "/timm/" in path] == [
        f"/timm/{TAG}/resolve/main/model.safetensors"
    ]


@pytest.mark.parametrize("name", [f"{TAG}.safetensors", f"{TAG}/model.safetensors"])
def test_a_cluster_without_network_reads_the_folder(name, state, tmp_path, monkeypatch):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    safetensors.torch.save_file(state, tmp_path / name)
    monkeypatch.setenv("TTA_GRID_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = load_backbone(ROW).state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())
