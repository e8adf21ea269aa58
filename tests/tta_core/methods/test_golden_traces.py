"""Step by step against traces of the published implementations (tests/golden), with `tests.golden.replay`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden import replay
from tests.golden.case import Case

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
CASES = {case.name: case for case in map(Case.read, sorted(GOLDEN.glob("*.json")))}
FOLLOWED = [name for name, case in CASES.items() if case.manifest["method"] in replay.FOLLOWERS]
RUNS = [(name, precision) for name in FOLLOWED for precision in replay.precisions(CASES[name])]
PARAMETER_TOLERANCE = 1e-5


@pytest.mark.parametrize(("name", "precision"), RUNS)
def test_logits_and_internals_follow_the_published_run(name, precision):
    outcome = replay.replay(CASES[name], replay.PRECISIONS[precision])
    assert outcome.passed, replay.describe(CASES[name], precision, outcome)


@pytest.mark.parametrize("name", [name for name in FOLLOWED if CASES[name].manifest["method"] in ("tent", "moetta")])
def test_parameters_end_where_the_published_run_ends(name):
    case = CASES[name]
    follower = replay.FOLLOWERS[case.manifest["method"]](case, torch.float32)
    for step in range(len(case.batches)):
        follower.step(step)
    compared = 0
    for parameter, value in follower.method.trainable_parameters().items():
        if f"final/{parameter}" in case.trace:
            assert np.abs(value.detach().numpy() - case.trace[f"final/{parameter}"]).max() <= PARAMETER_TOLERANCE
            compared += 1
    assert compared > 0


def test_expert_usage_counts_what_the_published_run_counted():
    case = CASES["moetta_noalias"]
    follower = replay.FOLLOWERS["moetta"](case, torch.float32)
    for step in range(len(case.batches)):
        follower.step(step)
    usage = np.array(list(follower.method.diagnostics()["expert_usage"].values()))
    counts = case.trace["out/count"].sum(axis=0)
    assert np.allclose(usage, counts / counts.sum(axis=1, keepdims=True))


def test_a_wrong_learning_rate_fails_with_exit_status_1(monkeypatch, capsys):
    follower = replay.FOLLOWERS["tent"]
    right = follower.settings
    monkeypatch.setattr(follower, "settings", lambda self: right(self) | {"lr": 1.1 * self.case.hyper["lr"]})
    assert replay.main([str(GOLDEN / "tent.json")]) == 1
    assert "FAIL  tent  float64" in capsys.readouterr().out


def test_an_option_without_a_translation_fails(monkeypatch, capsys):
    monkeypatch.setattr(replay.FOLLOWERS["tent"], "translated", frozenset({"lr"}))
    assert replay.main([str(GOLDEN / "tent.npz")]) == 1
    assert "option 'momentum' in the manifest has no translation" in capsys.readouterr().out


def test_a_case_that_cannot_be_followed_is_one_failure_and_never_the_end(monkeypatch, capsys, tmp_path):
    for name in ("imse_tta", "sar", "tent"):
        for suffix in (".json", ".npz"):
            (tmp_path / name).with_suffix(suffix).write_bytes((GOLDEN / name).with_suffix(suffix).read_bytes())
    monkeypatch.setattr(replay.FOLLOWERS["imse"], "internals", lambda self, step: iter({}["blocks.0.attn.proj"]))
    monkeypatch.setattr(replay.FOLLOWERS["sar"], "scored", "nothing")
    assert replay.main([str(tmp_path), "--precision", "float32"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "FAIL  imse_tta  float32  KeyError: 'blocks.0.attn.proj'"
    assert lines[1] == "FAIL  sar  it holds no nothing, which our method scores"
    assert lines[2].startswith("PASS  tent  float32")
    assert lines[-1] == "1 passed, 2 failed, 0 skipped"


def test_imse_is_followed_on_other_layers_without_retrieval():
    """A released option; internals name layers that are then not decomposed."""
    case = CASES["imse_tta"]
    trace = case.trace | {"extra/__svd_layers__": np.array(["blocks.0.attn.proj", "blocks.0.mlp.fc1"])}
    hyper = case.hyper | {"components": ["mlp.fc1"]}
    follower = replay.FOLLOWERS["imse"](Case(case.manifest | {"hyper": hyper}, trace), torch.float32)
    follower.step(0)
    assert "s_first_two_layers" in {comparison.quantity for comparison in follower.internals(0)}


def test_a_path_without_a_case_is_named(capsys):
    assert replay.main(["nowhere"]) == 2
    assert "no golden case at nowhere" in capsys.readouterr().err
