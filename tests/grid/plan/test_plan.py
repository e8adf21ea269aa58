"""Plans: what exists, how long the rest takes, how cells are named."""

import hashlib
import json

import pytest

import tta_core
from grid.plan.plan import Unread, cell_labels, make_plan
from grid.plan.simulate import duration
from grid.plan.sweep import Sweep, checked_sweep
from grid.store.store import ResultStore


def test_a_plan_needs_no_folder_and_makes_none(tiny_sweep, tmp_path):
    plan = make_plan(tiny_sweep, ResultStore(tmp_path / "none"))
    assert len(plan.cells) == len(plan.to_run) == 8
    assert not (tmp_path / "none").exists()
    assert "nominal" in plan.estimate.basis


def test_finished_cells_are_not_run_again_and_failed_ones_are(tiny_sweep, store):
    first, second, *_ = make_plan(tiny_sweep, store).cells.values()
    store.write_result(tta_core.run(first), sweep="tiny", git_commit="")
    store.write_failure(second, "no luck", sweep="tiny", git_commit="")
    plan = make_plan(tiny_sweep, store)
    assert plan.states == {first.cell_id(): "done", second.cell_id(): "failed"}
    assert first.cell_id() not in plan.to_run
    assert second.cell_id() in plan.to_run
    assert "finished cells" in plan.estimate.basis
    told = json.loads(plan.as_json())
    assert [cell["state"] for cell in told["cells"]] == ["done", "failed"] + ["new"] * 6
    assert told["cells"][0]["config"]["method"] == "source"
    assert (told["total"], told["to_run"]) == (8, 7)
    assert "8 cells, 1 done, 7 to run" in plan.as_text()


def test_measured_time_goes_before_nominal_time(tiny_sweep, store):
    first = next(iter(make_plan(tiny_sweep, store).cells.values()))
    result = tta_core.run(first)
    store.write_result(result, sweep="tiny", git_commit="")
    plan = make_plan(tiny_sweep, store)
    assert plan.seconds[result.cell] == pytest.approx(result.seconds)
    tent = next(cell for cell, config in plan.cells.items() if config.method == "tent")
    assert plan.seconds[tent] == pytest.approx(2.3 * result.seconds)


def test_labels_name_what_varies_and_nothing_else(tiny_sweep, store):
    labels = list(cell_labels(make_plan(tiny_sweep, store).cells).values())
    assert labels[:4] == [
        "source seed=0",
        "tent seed=0",
        "moetta num_experts=2 seed=0",
        "moetta num_experts=3 seed=0",
    ]


def test_a_plan_says_what_cells_need_beyond_the_stream(store):
    sweep = Sweep(
        sweep="needy",
        base={"samples_per_domain": 8},
        grid={"method": ["source", "imse"], "imse.retrieval": ["none", "top1"]},
        seeds=(0, 1),
    )
    plan = make_plan(sweep, store)
    assert plan.needs == {"source images": ["imse"]}
    assert "\nbeyond the stream: source images (imse)\n" in plan.as_text()
    told = json.loads(plan.as_json())
    assert told["needs"] == {"source images": ["imse"]}
    assert [cell["needs"] for cell in told["cells"]].count(["source images"]) == 2
    assert [cell["needs"] for cell in told["cells"]].count([]) == 4


def test_a_plan_of_what_needs_nothing_says_nothing_of_it(tiny_sweep, store):
    assert "beyond the stream" not in make_plan(tiny_sweep, store).as_text()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (42.4, "0:42"), (725, "12:05"), (11220, "3:07:00")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def backbones_of(store, **base):
    values = {"samples_per_domain": 8, **base}
    axes = {"method": ["source"], "backbone": values.pop("backbone")}
    plan = make_plan(Sweep(sweep="fed", base=values, grid=axes, seeds=(0, 1)), store)
    text = plan.as_text().split("\n\n")[1]
    return text.splitlines(), json.loads(plan.as_json())["backbones"]


def test_a_plan_says_what_backbones_are_fed_and_where_their_weights_come_from(store, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: "/there")
    tag = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
    lines, (made,) = backbones_of(store, backbone=[tag], benchmark="potpourri")
    assert lines == [
        f"backbone {tag}: 224x224, mean 0.5, std 0.5",
        "  images    centre crop 224, not resized (potpourri: 15 domains)",
        "  images    resize 256 bilinear, centre crop 224 (potpourri: imagenet-r, imagenet-sketch, imagenet-a)",
        "  own crop  resize 248 bicubic, centre crop 224 (not used here; crop: backbone)",
        f"  weights   cache of the Hugging Face hub, timm/{tag}",
    ]
    assert (made["backbone"], made["mean"], made["weights"]) == (tag, [0.5, 0.5, 0.5], tag)
    lines, _ = backbones_of(store, backbone=["resnet50_gn.a1h_in1k"], benchmark="imagenet-c", crop="backbone")
    assert lines[0].endswith("mean 0.485 0.456 0.406, std 0.229 0.224 0.225")
    assert lines[1:2] == ["  images    resize 238 bicubic, centre crop 224 (imagenet-c)"]
    assert lines[2].startswith("  weights")


def test_a_plan_shows_weights_of_ones_own_and_missing_ones(store, tmp_path, monkeypatch):
    monkeypatch.delenv("TTA_GRID_WEIGHTS", raising=False)
    file = tmp_path / "own.pth"
    file.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()[:12]
    names = ["digits-vit-mae", "digits-vit-supervised"]
    lines, made = backbones_of(store, backbone=names, weights={"digits-vit-mae": str(file)})
    assert lines[2] == f"  weights   {file} (sha256 {digest})"
    assert lines[5] == "  weights   shipped with tta-grid"
    assert made[0]["weights"] == f"digits-vit-mae@{digest}"
    axis = [None, {"digits-vit-mae": str(file)}]
    sweep = Sweep(sweep="fed", base={"backbone": "digits-vit-mae"}, grid={"method": ["source"], "weights": axis})
    labels = list(make_plan(sweep, store).labels.values())
    assert labels == ["source weights=default", f"source weights={digest}"]
    lines, _ = backbones_of(store, backbone=["mae_finetuned_vit_base"], benchmark="imagenet-r")
    assert lines[3].startswith("  weights   MISSING: the weights of mae_finetuned_vit_base are not here")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"rounds": 3}, ["rounds = 3: the streams of all cells do without it (mixed)"]),
        ({"rounds": 1}, []),
        ({"rounds": 3, "stream": "recurring"}, []),
        (
            {"stream": "gradual", "severity": 2},
            ["severity = 2: the streams of all cells do without it (gradual in digits-c)"],
        ),
        ({"time_slots": 4, "stream": "correlated"}, []),
        (
            {"imbalance_ratio": 4, "stream": "correlated"},
            ["imbalance_ratio = 4: the streams of all cells do without it (correlated)"],
        ),
        ({"deyo.lr": 0.1}, ["deyo.lr: no cell has the method deyo"]),
        ({"tent.lr": 0.1}, []),
        ({"diagnostics": "none", "diagnostics_every": 2}, ["diagnostics_every = 2: no cell has diagnostics"]),
        (
            {"weights": {"digits-vit-mae": {"url": "https://example.org/a.pth", "sha256": "0" * 64}}},
            ["weights of digits-vit-mae: no cell has this backbone"],
        ),
    ],
)
def test_what_no_cell_uses_is_told(said, told):
    base = {"samples_per_domain": 8, "domains": ["fog", "snow"]} | said
    if said.get("stream") == "recurring":
        base["samples_per_domain"] = 2
    sweep = checked_sweep({"sweep": "s", "base": base, "grid": {"method": ["source", "tent"]}}, where="here")
    plan = make_plan(sweep, Unread())
    assert plan.unused == told
    assert [line.removeprefix("not used: ") for line in plan.as_text().splitlines() if "not used" in line] == told


def test_what_is_excluded_is_not_called_unused():
    text = {"sweep": "s", "base": {"method": "source"}, "grid": {"severity": [3, 5]}, "exclude": [{"severity": 3}]}
    assert make_plan(checked_sweep(text, where="here"), Unread()).unused == []


def test_what_is_said_of_tracking_that_is_off_is_told():
    text = {"sweep": "s", "base": {"method": "source"}, "tracking": {"enabled": False, "experiment": "e", "uri": "u"}}
    assert make_plan(checked_sweep(text, where="here"), Unread()).unused == [
        "tracking.experiment = e: tracking is off",
        "tracking.uri = u: tracking is off",
    ]


def test_an_axis_of_which_a_stream_uses_a_part_is_told_by_its_value():
    sweep = checked_sweep(
        {"sweep": "s", "base": {"method": "source"}, "grid": {"rounds": [1, 2], "stream": ["mixed", "continual"]}},
        where="here",
    )
    assert make_plan(sweep, Unread()).unused == [
        "rounds = 2: the streams of all cells do without it (mixed, continual)"
    ]
