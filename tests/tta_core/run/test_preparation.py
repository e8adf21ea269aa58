"""What methods make before the stream is kept on disk under all that it depends on."""

import pytest
import torch

from tta_core.run import cell as runner
from tta_core.run.config import RunConfig
from tta_core.run.preparation import artefact_key, kept_artefact, weights_digest

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """The images stay where they are; only what is prepared goes to a folder of its own."""
    monkeypatch.setattr("tta_core.run.preparation.cache_root", lambda: tmp_path)


def key(tiny_vit, weights=0, **values):
    return artefact_key(RunConfig.from_values({"method": "imse", **values}), tiny_vit(weights), CPU)


def test_the_key_holds_what_matters_and_nothing_else(tiny_vit):
    base = key(tiny_vit)
    for same in ({"seed": 4}, {"batch_size": 1}, {"stream": "continual"}, {"severity": 3}, {"settings": {"lr": 0.1}}):
        assert key(tiny_vit, **same) == base
    for other in ({"settings": {"source_samples": 10}}, {"data_seed": 1}):
        assert key(tiny_vit, **other) != base
    assert key(tiny_vit, weights=1) != base


def test_any_change_of_the_weights_changes_their_digest(tiny_vit):
    network = tiny_vit()
    before = weights_digest(network)
    assert weights_digest(tiny_vit()) == before
    with torch.no_grad():
        network.head.bias[3] += 1e-6
    assert weights_digest(network) != before


def test_what_is_kept_is_made_once_and_again_if_the_file_is_damaged(tiny_vit, tmp_path):
    made = []

    def make():
        made.append(1)
        return {"mean": torch.arange(3.0), "count": torch.tensor(2)}

    first, name = kept_artefact(key(tiny_vit), make, CPU)
    again, same = kept_artefact(key(tiny_vit), make, CPU)
    assert (len(made), name, same) == (1, name, name)
    assert all(torch.equal(first[part], again[part]) for part in ("mean", "count"))
    (file,) = (tmp_path / "prepared").glob("imse-*.safetensors")
    assert name in file.name
    file.write_bytes(file.read_bytes()[:40])
    kept_artefact(key(tiny_vit), make, CPU)
    assert len(made) == 2


def test_a_cell_names_what_it_was_prepared_with_and_all_cells_share_it(tmp_path):
    values = {"method": "imse", "preset": "digits-c", "samples_per_domain": 20, "domains": ["fog"]}
    one = runner.run(values | {"seed": 1}, device="cpu")
    other = runner.run(values | {"seed": 2, "batch_size": 8}, device="cpu")
    assert one.artefact == other.artefact != ""
    (file,) = (tmp_path / "prepared").glob("*.safetensors")
    assert one.artefact in file.name
    assert runner.run(values | {"settings": {"retrieval": "none"}}, device="cpu").artefact == ""
    assert runner.run({**values, "method": "tent"}, device="cpu").artefact == ""
