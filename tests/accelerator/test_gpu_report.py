"""The report on an accelerator, made on the stand-in with tiny networks."""

import json

import pytest
import torch
from torch import nn

from tests.accelerator.device import DEVICE
from tta_core.bench.command import bench_command
from tta_core.bench.gpu import agreement, cells, corruptions, feeding, report, section
from tta_core.bench.gpu.section import Found, Section, Unit, measure
from tta_core.bench.memory_table import read_table
from tta_core.errors import InputError
from tta_core.methods.tent.method import Tent

TINY = [
    "--methods",
    "source,tent,bn-adapt",
    "--backbone",
    "digits-vit-supervised",
    "--batch-size",
    "2",
    "--repeats",
    "1",
    "--warmup",
    "0",
]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(agreement, "NETWORK", "digits-vit-supervised")
    monkeypatch.setattr(agreement, "NETWORKS", {"batch-norm": "test_resnet"})
    monkeypatch.setattr(agreement, "IMAGE_SIZE", 32)
    monkeypatch.setattr(feeding, "METHODS", ("source",))
    monkeypatch.setattr(feeding, "SECONDS", 0.01)
    monkeypatch.setattr(section, "PHOTOGRAPHS", 8)
    monkeypatch.setattr(corruptions, "NAMES", ("gaussian_noise", "motion_blur"))
    monkeypatch.setattr(corruptions, "IMAGES", 2)
    monkeypatch.setattr(cells, "METHODS", ("tent",))
    monkeypatch.setattr(cells, "CELL", cells.CELL | {"domains": ["fog"], "first_samples": 16, "batch_size": 8})

    def compile_at_once(self):
        self._compiled_call_impl = self._call_impl

    monkeypatch.setattr(nn.Module, "compile", compile_at_once)


def made(folder, *words):
    given = [*TINY, "--device", DEVICE.type, "--gpu-report", str(folder), *words]
    text, failed = bench_command(given, program="bench", tell=print)
    assert text == (folder / "report.md").read_text().rstrip("\n")
    return json.loads((folder / "report.json").read_text()), text, failed


def test_every_section_is_measured_and_a_planted_mistake_is_a_row(tiny, tmp_path, monkeypatch):
    step = Tent.step

    def wrong_on_the_device(self, images):
        wrong = images.device == DEVICE and images.dtype == torch.float64
        return step(self, images) + float(wrong)

    monkeypatch.setattr(Tent, "step", wrong_on_the_device)
    found, text, failed = made(tmp_path / "new" / "out")
    rows = {name: part["rows"] for name, part in found["sections"].items()}
    assert {name for name, values in rows.items() if not values} == set()
    assert [row for values in rows.values() for row in values if "error" in row] == []
    by_method = {row["method"]: row for row in rows["agreement"]}
    assert by_method["source"]["agrees"]
    assert by_method["bn-adapt"]["agrees"]
    assert len(by_method["source"]["float32"]) == 3
    assert by_method["tent"]["agrees"] is False
    assert failed
    assert {goal["question"]: goal["kept"] for goal in found["goals"]}[
        "presets that compute what the CPU does"
    ] is False
    assert rows["fp32"][2]["left_out"] == "digits-vit-supervised is no network that it takes"
    table = read_table(tmp_path / "new" / "out" / "memory.csv")
    assert set(table) == {
        ("digits-vit-supervised", precision, method) for precision in ("fp32", "bf16") for method in ("source", "tent")
    }
    assert min(row["images_per_second"] for row in rows["bf16"][:2]) > 0
    assert 0 < rows["feeding"][0]["busy"] <= 1
    assert [row["largest_difference"] for row in rows["corruptions"]] == [0, 0]
    assert rows["cells"][0]["equal_predictions"] == 1
    assert found["device"] == "stand-in accelerator"
    assert "## steps in bf16, compiled" in text


def test_a_method_that_fails_or_is_slow_does_not_cost_the_others(tmp_path):
    def endless():
        while True:
            pass

    def broken():
        raise RuntimeError("out of luck\nand more")

    works = {"endless": endless, "broken": broken, "healthy": lambda: {"value": 1.0}}
    units = [Unit({"method": name}, work) for name, work in works.items()]
    part = Section("part", "part", "", lambda asked: units, ("method", "value"), share=1, most=0.01)
    asked = section.Asked(None, torch.device("cpu"), 32, tmp_path)
    *_, found = measure(part, asked, 20.0, lambda line: None)
    assert [row.get("error", row.get("value")) for row in found.rows] == [
        "OverTimeError: stopped after 0 s, its part of the time",
        "RuntimeError: out of luck",
        1.0,
    ]
    *_, found = measure(part, asked, 0.0, lambda line: None)
    assert {row["left_out"] for row in found.rows} == {"the time was over"}


def test_a_section_that_cannot_begin_says_why(tmp_path):
    def units(asked):
        raise InputError("no network")

    part = Section("part", "part", "", units, ("method",), share=1)
    *_, found = measure(part, section.Asked(None, torch.device("cpu"), 32, tmp_path), 1.0, lambda line: None)
    assert found.rows == [{"error": "no network"}]


def test_what_is_there_so_far_is_written_after_every_row(tmp_path):
    part = Section("fp32", "steps", "ratios", lambda asked: [], ("method", "ratio"), share=1)
    rows = [{"method": "tent", "ratio": 2.125}, {"method": "memo", "left_out": "the time was over"}]
    sections = [Found(each, rows if each.name == part.name else []) for each in report.SECTIONS]
    sections = [Found(part, rows) if each.section.name == part.name else each for each in sections]
    head = report._head(report.BenchRequest(methods=()), torch.device("cpu"))
    report._write(tmp_path, head, sections)
    text = (tmp_path / "report.md").read_text()
    assert "tent     2.12" in text
    assert "- left out: memo: the time was over" in text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["memory.csv", "report.json", "report.md"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cpu", "--gpu-report", "OUT"], "the device is the CPU: run it on a machine with a GPU"),
        (["--gpu-report", "OUT", "--compile", "--json"], "--compile, --json beside --gpu-report"),
        (["--gpu-report", "OUT", "--launches"], "--gpu-report beside --launches"),
        (["--gpu-report", "OUT", "--minutes", "none", "--device", "accel"], "--minutes none is not allowed"),
        (["--gpu-report", "OUT", "--minutes", "nan", "--device", "accel"], "--minutes nan is not allowed"),
        (["--gpu-report", "OUT", "--backbone", "segformer-scenes"], "networks that classify, and segformer-scenes"),
        (["--minutes", "3"], "--minutes is the time of --gpu-report"),
        (["--gpu-report", "/proc/none", "--device", "accel"], "cannot be written to"),
    ],
)
def test_what_cannot_be_reported_is_refused(words, message, tmp_path):
    given = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    with pytest.raises(InputError, match=message):
        bench_command(["--methods", "source", *given], program="bench", tell=lambda line: None)
