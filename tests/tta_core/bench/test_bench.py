"""The benchmark: what it counts is exact, what it times has the right form. No test depends on how long things take."""

import copy
import json
import math
import time

import pytest
import torch
from torch import nn

from tta_core import build_method
from tta_core.bench.agreement import differences_to_cpu
from tta_core.bench.compilation import compile_method
from tta_core.bench.instruments import Clock, TensorMemory, counted_images, mark_for_counting
from tta_core.bench.measure import ROUNDS_BETWEEN_RESETS, run_bench
from tta_core.bench.request import BenchRequest, read_choices
from tta_core.bench.subject import make_subject
from tta_core.bench.table import as_text
from tta_core.errors import InputError
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.registry import method_spec
from tta_core.methods.spec import MethodSpec
from tta_core.methods.tent.method import Tent

CPU = torch.device("cpu")
MIB = torch.Size((2**18,))  # float32


def request(*words, **changes):
    fixed = {"backbone": "digits-vit-supervised", "batch_size": 4, "repeats": 2, "warmup": 0, "device": "cpu"}
    return BenchRequest(**{"methods": read_choices(words), **fixed, **changes})


@pytest.fixture(scope="module")
def result():
    return run_bench(request("source,tent", "moetta:official", repeats=3))


def test_rows_come_in_the_order_that_was_asked_for_with_every_number(result):
    assert [(row.method, row.preset) for row in result.rows] == [
        ("source", "recommended"),
        ("tent", "recommended"),
        ("moetta", "official"),
    ]
    for row in result.rows:
        assert row.error is None
        assert 0 < row.ratio_low <= row.ratio <= row.ratio_high
        assert row.ms > 0
        assert row.wall_ms > 0
        assert row.source_ms > 0
        assert row.cpu_difference is None
    assert result.rows[1].ratio_to_tent == 1
    assert json.loads(json.dumps(result.as_dict()))["rows"][2]["preset"] == "official"


def test_parameters_forwards_and_samples_are_counted(result):
    source, tent, moetta = result.rows
    assert [row.forward_share for row in result.rows] == [1, 1, 1]
    assert (source.trainable_parameters, source.backpropagated_share) == (0, 0)
    # 4 blocks with 2 norms and the last one; 64 weights and 64 biases each.
    assert (tent.trainable_parameters, tent.activated_parameters, tent.backpropagated_share) == (1152, 1152, 1)
    assert tent.layers == {"LayerNorm": {"found": 9, "taken": 9, "left": 0}}
    assert source.layers == {"LayerNorm": {"found": 9, "taken": 0, "left": 9}}
    assert moetta.trainable_parameters >= moetta.activated_parameters > 1152
    assert 0 < moetta.backpropagated_share <= 1
    assert [row.published_ratio for row in result.rows] == [None, 2.29, 2.66]


def test_memory_of_the_source_is_its_weights_and_a_method_needs_more(result):
    source, tent, _ = result.rows
    weights = 4 * result.setting.parameters / 2**20
    assert source.held_memory_mib == pytest.approx(weights, rel=0.1)
    assert weights < result.setting.source_peak_memory_mib <= source.peak_memory_mib * 1.1
    assert tent.held_memory_mib < tent.peak_memory_mib > source.peak_memory_mib


def test_the_table_says_what_was_measured_and_leaves_out_empty_columns(result):
    text = as_text(result)
    assert "batches of 4 random images of 32 x 32, 3 repeats" in text
    assert "CPU time of the process" in text
    lines = [line.split() for line in text.splitlines()]
    tent = next(line for line in lines if line[:1] == ["tent"])
    assert tent[1:4] == ["recommended", "1,152", "1,152"]
    assert "  tent:recommended: LayerNorm 9 of 9\n" in text
    assert "  source:recommended: LayerNorm 0 of 9 (9 left)\n" in text
    assert "off CPU by" not in text
    assert "failed" not in text


def test_settings_of_ones_own_are_marked():
    asked = BenchRequest(**{**dict(request("tent")), "methods": read_choices(["tent"], ["tent.lr=0.5"])})
    found = run_bench(asked)
    assert found.rows[0].settings == {"lr": 0.5}
    assert "tent.lr=0.5" in as_text(found)
    assert "recommended*" in as_text(found)


@pytest.mark.parametrize("one_at_a_time", [False, True])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_method_that_fails_is_a_row_with_its_reason(steps, one_at_a_time, monkeypatch):
    healthy, calls = Tent.step, []

    def step(self, images):
        calls.append(1)
        if len(calls) > steps:
            raise RuntimeError("out of luck\nand more")
        return healthy(self, images)

    monkeypatch.setattr(Tent, "step", step)
    found = run_bench(request("tent,source", one_at_a_time=one_at_a_time))
    assert found.rows[0].error == "RuntimeError: out of luck"
    assert found.rows[0].ratio is None
    assert found.rows[1].ratio > 0
    assert found.rows[1].ratio_to_tent is None
    assert "failed: tent:recommended: RuntimeError: out of luck" in as_text(found)


def test_methods_go_back_to_the_start_every_few_rounds(monkeypatch):
    resets = []
    reset = Tent.reset
    monkeypatch.setattr(Tent, "reset", lambda self: (resets.append(1), reset(self)))
    run_bench(request("tent", repeats=2 * ROUNDS_BETWEEN_RESETS + 1))
    assert len(resets) == 3


def test_every_timed_step_starts_from_the_source_parameters(monkeypatch):
    healthy, at_source = Tent.step, []

    def step(self, images):
        own, source = self.trainable_parameters(), self.source_parameters
        at_source.append(all(torch.equal(own[name], source[name]) for name in own))
        return healthy(self, images)

    monkeypatch.setattr(Tent, "step", step)
    run_bench(request("tent", repeats=3))
    # Three steps in preparation, one after the reset, three timed ones.
    assert at_source == [True, False, False, True, True, True, True]


@pytest.mark.parametrize("backbone", ["digits-vit-mae", "vit_tiny_patch16_224"])
def test_the_head_is_scaled_so_that_half_of_the_images_pass(backbone):
    subject = make_subject(request("source", backbone=backbone, image_size=32), CPU)
    with torch.no_grad():
        entropy = softmax_entropy(torch.cat([subject.network(images) for images in subject.batches]))
    assert float((entropy < 0.4 * math.log(subject.num_classes)).float().mean()) == pytest.approx(0.5, abs=0.07)
    assert subject.head_scale > 0
    assert subject.weights.startswith("random" if backbone == "vit_tiny_patch16_224" else "weights digits-vit-mae@")


def test_a_head_of_another_kind_stays_as_it_is():
    found = run_bench(request("tent", backbone="digits-vit-text-prototype", repeats=1))
    assert found.setting.head_scale is None
    assert "head as it is" in as_text(found)
    assert found.rows[0].forward_share == 1


@pytest.fixture
def instant_compile(monkeypatch):
    """Real compilations take half a minute."""

    def compile_at_once(self):
        self._compiled_call_impl = self._call_impl

    monkeypatch.setattr(nn.Module, "compile", compile_at_once)


def test_rows_say_whether_the_compiled_trunk_was_run(instant_compile, monkeypatch):
    found = run_bench(request("tent", compiled=True, repeats=1))
    assert found.rows[0].compiled
    assert [line.split()[8] for line in as_text(found).splitlines() if line.startswith("tent")] == ["yes"]

    def around(self, images):
        for block in self.network.blocks:
            block(self.network.patch_embed(images))
        self.record = {"selected": torch.tensor(0)}
        return torch.zeros(len(images), 10)

    monkeypatch.setattr(Tent, "step", around)
    assert run_bench(request("tent", compiled=True, repeats=1)).rows[0].compiled is False


def test_all_networks_of_a_method_are_compiled(instant_compile, tiny_vit):
    method = build_method("cotta", tiny_vit(), num_classes=10)
    trunks = compile_method(method)
    assert len(trunks) == 2
    method.teacher(torch.zeros(1, 3, 32, 32))
    assert [trunk.calls for trunk in trunks] == [0, 1]


def test_images_are_counted_through_copies_of_the_classifier_only():
    head, other = nn.Linear(3, 2), nn.Linear(3, 2)
    mark_for_counting(head)
    teacher = copy.deepcopy(head)
    with counted_images() as count:
        head(torch.zeros(4, 3))
        teacher(torch.zeros(5, 3))
        other(torch.zeros(7, 3))
    head(torch.zeros(4, 3))
    assert count.images == 9


def test_tensor_memory_is_exact_on_the_cpu():
    with TensorMemory(CPU) as memory:
        kept = [torch.empty(MIB), torch.empty(MIB)]
        with memory.step():
            kept.pop()
            torch.empty(MIB)
            kept.append(torch.empty(2 * MIB.numel()))
        kept.append(torch.empty(9 * MIB.numel()))
    assert (memory.held_mib, memory.peak_mib) == (2, 3)


def test_one_thread_is_timed_by_the_cpu_and_several_by_the_wall():
    alone, many = (Clock(CPU, threads).time(lambda: time.sleep(0.05)) for threads in (1, 2))
    assert alone.seconds < alone.wall >= 0.05
    assert many.seconds == many.wall >= 0.05


def test_the_same_steps_on_the_same_device_agree():
    asked = request("moetta")
    assert differences_to_cpu(make_subject(asked, CPU), asked.methods[0], seed=0) == [0, 0, 0]


def test_without_names_methods_that_do_not_take_the_network_are_left_out(monkeypatch):
    monkeypatch.setattr(MethodSpec, "takes", lambda self, kinds: self.name != "moetta" and "transformer" in kinds)
    few = {name: method_spec(name) for name in ("source", "moetta")}
    monkeypatch.setattr("tta_core.bench.request.methods", lambda task: few)
    left_out = run_bench(request(methods=read_choices([])))
    assert [row.method for row in left_out.rows] == ["source"]
    assert "left out: moetta, which takes any network" in as_text(left_out)
    asked_for = run_bench(request("source,moetta"))
    assert [row.method for row in asked_for.rows] == ["source", "moetta"]
    assert asked_for.left_out == []


def test_choices_are_read_once_each_with_presets_and_settings():
    choices = read_choices(["tent,moetta:official", "tent"], ["moetta.num_experts=3", "moetta.threshold_mode=paper"])
    assert [(choice.name, choice.preset) for choice in choices] == [("tent", "recommended"), ("moetta", "official")]
    assert choices[1].settings == {"num_experts": 3, "threshold_mode": "paper"}
    assert {"source", "tent", "moetta"} <= {choice.name for choice in read_choices([])}


@pytest.mark.parametrize(
    ("words", "overrides", "message"),
    [
        (["tennt"], [], "Did you mean 'tent'"),
        (["tent:offical"], [], "Did you mean 'official'"),
        ([""], [], "unknown method ''"),
        (["tent:"], [], "unknown preset of tent ''"),
        (["tent"], ["tent.betas=[0.9]"], "'betas.1' is missing"),
        (["tent"], ["tent.lr=-1"], "lr = -1 is not allowed"),
        (["tent"], ["tent.rl=1"], "unknown key 'rl'"),
        (["tent"], ["lr=1"], "give method.setting=value"),
        (["tent"], ["moetta.lr=1"], "unknown method to set something of 'moetta'"),
    ],
)
def test_wrong_choices_are_refused(words, overrides, message):
    with pytest.raises(InputError, match=message):
        read_choices(words, overrides)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vit_tinny_patch16_224"}, "Did you mean 'vit_tiny_patch16_224'"),
        ({"backbone": "vit_tiny_patch16_224.nope"}, "unknown tag 'nope' of vit_tiny_patch16_224"),
        ({"batch_size": 2**31 - 1}, "a smaller --batch-size"),
        ({"image_size": 64}, "whose images have 32 pixels"),
        ({"device": "meta"}, "'meta' cannot be used"),
        ({"device": "cuda:99"}, "cannot be used"),
        ({"check_cpu": True}, "give --device cuda"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        run_bench(request("source", **changes))
