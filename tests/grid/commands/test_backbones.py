"""`tta-grid data check-backbone`: what it measures, output, exit statuses, messages."""

import json

import pytest
from click.testing import CliRunner

from grid.commands.main import main
from tta_core.backbones.embedded.network import WEIGHTS_FOLDER
from tta_core.backbones.table import BACKBONES


def check(*options):
    return CliRunner().invoke(main, ["data", "check-backbone", *options, *(["--device", "cpu"] if options else [])])


def test_backbones_that_agree():
    done = check(
        "digits-vit-supervised", "digits-resnet-supervised", "--images", "200", "--batch-size", "32", "--partial"
    )
    assert done.exit_code == 0
    assert done.output.count("images     200 of digits-c, clean") == done.output.count("agrees: ") == 2


def test_one_that_disagrees_ends_with_status_1_after_all_are_measured(monkeypatch):
    row = BACKBONES["digits-vit-mae"]
    monkeypatch.setitem(BACKBONES, row.name, row.model_copy(update={"clean_accuracy": 0.999}))
    done = check(row.name, "digits-vit-supervised", "--json")
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert [(each["backbone"], each["agrees"], bool(each["causes"])) for each in found] == [
        (row.name, False, True),
        ("digits-vit-supervised", True, False),
    ]
    assert check(row.name, "--tolerance", "2").exit_code == 0


def test_the_backbones_of_a_sweep_are_measured_once_each_with_its_weights(tmp_path):
    mae = WEIGHTS_FOLDER / BACKBONES["digits-vit-mae"].weights
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "sweep: two\n"
        "base: {samples_per_domain: 8, weights: {digits-vit-mae: " + str(mae) + "}}\n"
        "grid:\n  method: [source, tent]\n  backbone: [digits-vit-supervised, digits-vit-mae]\n"
        "seeds: [0, 1]\n"
    )
    done = check("--sweep", str(file), "--precision", "bf16", "--json")
    assert done.exit_code == 0
    found = {each["backbone"]: each for each in json.loads(done.output)}
    assert list(found) == ["digits-vit-supervised", "digits-vit-mae"]
    assert found["digits-vit-mae"]["weights"][0].startswith(str(mae))
    assert {each["precision"] for each in found.values()} == {"bf16"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "there is no backbone to check: name some, such as digits-vit-supervised"),
        (("digits-vit-mea",), "Did you mean 'digits-vit-mae'?"),
        (("digits-vit-mae", "--benchmark", "imagenet"), "predicts the classes of 'digits'"),
        (("digits-vit-mae", "--crop", "center"), "unknown crop of digits-c 'center'"),
        (("digits-vit-mae", "digits-vit-supervised", "--weights", "x.pth"), "--weights names a file for one backbone"),
        (("digits-vit-mae", "--weights", "x.pth"), "x.pth cannot be read"),
        (("cifar10_vit_base_patch16_384",), "the weights of cifar10_vit_base_patch16_384 are not here"),
        (("digits-vit-mae", "--sweep", "no-such"), "no-such"),
        (("digits-vit-mae", "--images", "0"), "--images"),
        (("digits-vit-mae", "--partial", "--subset-file", "x"), "give one of the two"),
        (("resnet50.tv_in1k", "--partial", "--root", "no-such-folder"), "no-such-folder is no folder"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(options, told, monkeypatch):
    monkeypatch.delenv("TTA_GRID_WEIGHTS", raising=False)
    done = check(*options)
    assert done.exit_code == 2
    assert told in done.output
    assert "Traceback" not in done.output


def test_missing_images_are_said_before_anything_is_measured(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet50.tv_in1k.safetensors").write_bytes(b"not read")
    monkeypatch.setenv("TTA_GRID_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TTA_GRID_DATA", "")
    done = check("digits-vit-mae", "resnet50.tv_in1k", "--root", str(tmp_path))
    assert done.exit_code == 2
    assert "imagenet" in done.output
    assert "verdict" not in done.output


def test_the_rule_is_in_the_help():
    done = check("--help")
    assert "95 % interval (Wilson)" in done.output
    assert "Exit status" in done.output
