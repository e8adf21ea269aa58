"""The benchmark on networks that segment."""

import pytest

from tta_core.bench.command import bench_command
from tta_core.bench.measure import run_bench
from tta_core.bench.request import BenchRequest, read_choices, task_of
from tta_core.errors import InputError
from tta_core.methods.registry import methods

ONE = {"batch_size": 1, "repeats": 1, "warmup": 0, "device": "cpu"}


def request(words, backbone="segformer-scenes", **changes):
    return BenchRequest(methods=read_choices([words], task=task_of(backbone)), backbone=backbone, **(ONE | changes))


def test_steps_are_measured_in_forwards_of_the_same_network():
    found = run_bench(request("source:digit-scenes-views,tent:digit-scenes,imse:digit-scenes,vida:digit-scenes"))
    views, tent, imse, vida = found.rows
    assert not [row.error for row in found.rows if row.error]
    assert (views.forward_share, tent.forward_share, imse.forward_share) == (6, 1, 2)
    assert vida.forward_share == 8
    assert tent.trainable_parameters == 1984
    assert all(row.ratio > 0 and row.peak_memory_mib > 0 for row in found.rows)
    assert found.setting.image_size == 64


def test_a_segformer_has_random_weights_and_images_of_any_size():
    found = run_bench(request("source,tent", backbone="segformer-b0", image_size=96))
    assert found.setting.weights == "random weights (seed 0)"
    assert (found.setting.image_size, found.setting.num_classes) == (96, 19)
    assert found.setting.head_scale is not None
    assert [row.trainable_parameters for row in found.rows] == [0, 7680]


def test_without_names_all_that_segment_are_measured_the_cheapest_first():
    names = [choice.name for choice in read_choices([], task="segmentation")]
    assert set(names) == set(methods("segmentation"))
    assert names[0] == "source"


def test_others_are_refused():
    with pytest.raises(InputError, match="foa does not do segmentation"):
        bench_command(["--backbone", "segformer-scenes", "--methods", "foa"], program="bench", tell=print)
