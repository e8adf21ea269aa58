"""The benchmark table: published sizes, classes, maps, compositions; by hand from continual §5.1 and mixed §5.1."""

from pathlib import Path

import pytest
import timm

from tta_core.data.benchmarks import (
    BENCHMARKS,
    CLEAN,
    IMAGENET_A_CLASSES,
    IMAGENET_R_CLASSES,
    IMAGENET_WNIDS,
    benchmark_tag,
    owner,
)
from tta_core.data.domains import CORRUPTIONS, HELD_OUT_CORRUPTIONS
from tta_core.errors import InputError
from tta_core.run.config import RunConfig

VIT = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
SUPPLEMENT = ("imagenet-r", "imagenet-sketch", "imagenet-a")


def config(**values):
    return RunConfig.from_values({"method": "source", "backbone": VIT, **values})


@pytest.mark.parametrize(
    ("name", "samples", "classes"),
    [
        ("imagenet", 50_000, 1000),
        ("imagenet-c", 750_000, 1000),
        ("imagenet-c-5k", 75_000, 1000),
        ("imagenet-r", 30_000, 200),
        ("imagenet-a", 7_500, 200),
        ("imagenet-sketch", 50_889, 1000),
        ("imagenet-v2", 10_000, 1000),
        ("cifar10-c", 150_000, 10),
        ("cifar100-c", 150_000, 100),
        ("potpourri", 838_389, 1000),
        ("potpourri+", 888_389, 1000),
        ("imagenet-c-val-mix", 200_000, 1000),
    ],
)
def test_sizes_are_the_published_ones(name, samples, classes):
    row = BENCHMARKS[name]
    assert sum(row.count(domain) for domain in row.domains) == samples
    assert row.num_classes == classes
    assert row.source
    assert row.licence
    assert row.files


def test_class_maps_are_those_of_timm():
    lists = Path(timm.__file__).parent / "data" / "_info"
    for name, ours in (("imagenet_r", IMAGENET_R_CLASSES), ("imagenet_a", IMAGENET_A_CLASSES)):
        assert [int(number) for number in (lists / f"{name}_indices.txt").read_text().split()] == list(ours)
        names = (lists / f"{name}_synsets.txt").read_text().split()
        assert names == [IMAGENET_WNIDS[number] for number in ours]
        assert names == sorted(names)
    assert (lists / "imagenet_synsets.txt").read_text().split() == list(IMAGENET_WNIDS)


def test_class_maps_begin_and_end_as_published_and_differ():
    assert IMAGENET_R_CLASSES[:5] == (1, 2, 4, 6, 8)
    assert IMAGENET_R_CLASSES[-3:] == (981, 983, 988)
    assert IMAGENET_A_CLASSES[:5] == (6, 11, 13, 15, 17)
    assert IMAGENET_A_CLASSES[-3:] == (986, 987, 988)
    assert len(set(IMAGENET_R_CLASSES)) == len(set(IMAGENET_A_CLASSES)) == 200


def test_folders_are_wordnet_ids_and_those_of_v2_numbers():
    # Goldfish is class 1, the first of ImageNet-R; 6 (stingray) is the first of ImageNet-A.
    assert BENCHMARKS["imagenet-r"].class_names[0] == "n01443537"
    assert BENCHMARKS["imagenet-a"].class_names[0] == IMAGENET_WNIDS[6]
    assert BENCHMARKS["imagenet-v2"].class_names == tuple(map(str, range(1000)))


def test_compositions_name_their_parts_in_the_published_order():
    potpourri, more = BENCHMARKS["potpourri"], BENCHMARKS["potpourri+"]
    assert potpourri.domains == (*CORRUPTIONS, *SUPPLEMENT)
    assert more.domains == (*potpourri.domains, "imagenet")
    assert BENCHMARKS["imagenet-c-val-mix"].domains == HELD_OUT_CORRUPTIONS
    for row in (potpourri, more, BENCHMARKS["imagenet-c-val-mix"]):
        for domain in row.domains:
            part = owner(row, domain)
            assert domain in (*part.domains, *part.held_out_domains)
            assert row.count(domain) == part.count(domain)
    assert owner(more, CLEAN).name == "imagenet"


def test_each_part_has_its_own_crop():
    assert BENCHMARKS["potpourri"].crops[0] == BENCHMARKS["imagenet-c"].crops[0] == "center"
    assert {BENCHMARKS[name].crops for name in SUPPLEMENT} == {("resize-center", "backbone")}
    assert BENCHMARKS["imagenet-c-5k"].crops[0] == "resize-center"


def test_every_row_says_where_its_files_come_from_how_large_they_are_and_under_which_licence():
    for row in BENCHMARKS.values():
        assert all((row.files, row.source, row.size, row.licence)), row.name


def test_every_domain_of_every_row_has_a_reader():
    for row in BENCHMARKS.values():
        for domain in (*row.domains, *row.held_out_domains, CLEAN):
            assert owner(row, domain).storage != "composition", (row.name, domain)


def test_a_new_version_of_a_part_is_another_cell(monkeypatch):
    before = config(benchmark="potpourri"), config(benchmark="imagenet-r")
    ids, prints = [one.cell_id() for one in before], [one.fingerprint() for one in before]
    changed = BENCHMARKS["imagenet-c"].model_copy(update={"version": 2})
    monkeypatch.setitem(BENCHMARKS, "imagenet-c", changed)
    after = config(benchmark="potpourri"), config(benchmark="imagenet-r")
    assert after[0].cell_id() != ids[0]
    assert after[0].fingerprint() != prints[0]
    assert after[1].cell_id() == ids[1]
    assert (
        benchmark_tag(BENCHMARKS["potpourri"], ["fog", "imagenet-r"]) == "potpourri v1 + imagenet-c v2 + imagenet-r v1"
    )


def test_the_order_takes_as_many_images_as_each_domain_has():
    order = config(benchmark="potpourri", domains=["fog", *SUPPLEMENT], stream="continual").order()
    counts = [int((order.domain == number).sum()) for number in range(4)]
    assert counts == [50_000, 30_000, 50_889, 7_500]
    assert order.index.max() == 50_888
    fewer = config(benchmark="potpourri", domains=["fog", *SUPPLEMENT], samples_per_domain=10_000)
    assert fewer.num_samples == 3 * 10_000 + 7_500


def test_benchmarks_without_severities_have_none():
    assert config(benchmark="imagenet-r", severity=3).severity == 0
    assert config(benchmark="imagenet-r", severity=3) == config(benchmark="imagenet-r")
    assert config(benchmark="potpourri", severity=3).severity == 3
    with pytest.raises(InputError, match="'gradual' raises the severity of each domain, 'imagenet-r' has none"):
        config(benchmark="potpourri", stream="gradual")
    with pytest.raises(InputError, match="'imagenet-a' has none"):
        config(benchmark="imagenet-a", stream="gradual")
    assert config(benchmark="potpourri", stream="gradual", domains=["fog"]).severity == 5


def test_held_out_corruptions_are_refused_where_they_are_the_stream():
    with pytest.raises(InputError, match=r"mgtta needs .*, and imagenet-c-val-mix holds none out"):
        config(method="mgtta", benchmark="imagenet-c-val-mix")
    config(method="mgtta", benchmark="imagenet-r")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"benchmark": "potpourri"}, "potpourri: its domains have different classes, and masking cannot be defined "),
        ({"benchmark": "imagenet-c"}, "imagenet-c: it has all classes of the backbone.*imagenet-r, imagenet-a"),
        ({"benchmark": "imagenet-v2"}, "imagenet-v2: it has all classes of the backbone"),
        ({"benchmark": "imagenet-r", "domains": ["imagenet-r", "clean"]}, "the domain 'clean' has other classes than"),
    ],
)
def test_masking_is_refused_where_it_means_nothing(values, message):
    with pytest.raises(InputError, match=message):
        config(label_space="masked", **values)
    config(**values)


def test_label_spaces_are_other_cells_and_other_protocols():
    full, masked = config(benchmark="imagenet-r"), config(benchmark="imagenet-r", label_space="masked")
    assert (full.label_space, full.num_classes, full.classes) == ("full", 1000, ())
    assert (masked.num_classes, masked.classes) == (200, IMAGENET_R_CLASSES)
    assert full.cell_id() != masked.cell_id()
    assert full.fingerprint() != masked.fingerprint()
    assert masked.protocol()["label_space"] == "masked"
