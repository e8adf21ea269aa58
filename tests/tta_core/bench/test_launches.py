"""Counting the operations of a step."""

import json

import pytest
import torch

from tta_core.bench.command import bench_command
from tta_core.bench.launches import LaunchCounter
from tta_core.errors import InputError

SMALL = ["--launches", "--backbone", "vit_tiny_patch16_224", "--image-size", "32", "--batch-size", "4"]


def rows(*words):
    text, failed = bench_command([*SMALL, "--json", *words], program="bench", tell=lambda line: None)
    assert not failed
    return {row["method"]: row for row in json.loads(text)}


def test_views_and_empty_memory_are_no_launches():
    counter = LaunchCounter()
    x = torch.ones(4, 3, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=0.1)
    with counter.watching_optimizers(), counter:
        loss = (x.view(3, 4).T * torch.empty(4, 3)).sum()
        loss.backward()
        optimizer.step()
    totals = {phase: sum(counts.values()) for phase, counts in counter.counts.items()}
    assert dict(counter.counts["forward"]) == {"mul": 1, "sum": 1, "ones_like": 1}
    assert counter.counts["backward"]["mul"] == 1
    assert totals["optimizer"] >= 1


LIMITS = {"tent": 290, "moetta": 945, "imse": 1370, "moase": 1490}
"""Of a transformer of twelve blocks, forward and backward. They only ever fall."""


HALF_LIMITS = {"tent": 1.28, "moetta": 1.09}
"""In bf16, times those in fp32: autocast casts the outputs of layers, but frozen weights only once."""


def test_steps_launch_no_more_than_they_did():
    plain = rows("--methods", ",".join(LIMITS))
    assert {name: row["step"] for name, row in plain.items() if row["step"] > LIMITS[name]} == {}
    half = rows("--methods", ",".join(HALF_LIMITS), "--precision", "bf16")
    ratios = {name: row["step"] / plain[name]["step"] for name, row in half.items()}
    assert {name: ratio for name, ratio in ratios.items() if ratio > HALF_LIMITS[name]} == {}


@pytest.mark.parametrize("words", [[], ["--methods", "source,tent"]])
def test_the_table_names_every_phase(words):
    text, _ = bench_command([*SMALL, "--methods", "source", *words], program="bench", tell=lambda line: None)
    assert "forward" in text
    assert "optimizer" in text


def test_options_of_measuring_are_refused():
    with pytest.raises(InputError, match="--repeats, --check-cpu beside --launches"):
        rows("--repeats", "3", "--check-cpu")
