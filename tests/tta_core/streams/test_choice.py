"""Streams of cells: settings, subsets, order files, domains of different sizes."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

import tta_core
from grid.commands.orders import export_order
from tests.tta_core.opening import trial_images
from tta_core.data.benchmarks import BENCHMARKS
from tta_core.data.opened import ImageRequest
from tta_core.errors import InputError
from tta_core.run.available import check_available
from tta_core.run.config import RunConfig
from tta_core.run.images import load_domains
from tta_core.streams.order_files import write_order

VIT = "vit_base_patch16_224.augreg2_in21k_ft_in1k"


def config(**values):
    return RunConfig.from_values({"method": "source", **values})


def own_file(folder, text, name="own.csv"):
    (folder / name).write_text(text)
    return str(folder / name)


def test_ids_orders_and_fingerprints_of_earlier_streams_stay():
    """Stored results carry these."""
    known = {
        ("mixed", 0): ("tent-e44676143ceb", "1c8922dc8f57", "35c07e60bdd4c8a5"),
        ("continual", 0): ("tent-34d0afcdb713", "634e9aebe90b", "64a283cd4b272aa1"),
        ("recurring", 0): ("tent-af774b6c4d19", "52d709cfaf87", "3d824969b14999f7"),
    }
    for (stream, seed), expected in known.items():
        made = RunConfig.from_values({"method": "tent", "stream": stream, "seed": seed})
        assert (made.cell_id(), made.fingerprint(), made.order().order_hash()) == expected


def test_settings_belong_to_the_streams_that_have_them():
    assert config(dirichlet_alpha=0.3, time_slots=4, imbalance_ratio=5) == config()
    made = config(stream="correlated")
    assert (made.dirichlet_alpha, made.time_slots, made.imbalance_ratio) == (0.1, 10, None)
    assert config(stream="label_shift").imbalance_ratio == 500_000
    for stream, change in [
        ("correlated", {"dirichlet_alpha": 0.2}),
        ("mixed-correlated", {"time_slots": 3}),
        ("label_shift", {"imbalance_ratio": 1000}),
    ]:
        plain, other = config(stream=stream), config(stream=stream, **change)
        assert plain.cell_id() != other.cell_id()
        assert plain.fingerprint() != other.fingerprint()
        assert other.protocol().items() >= change.items()


@pytest.mark.parametrize("values", [{"stream": "label_shift"}, {"stream": "correlated"}, {"first_samples": 7}], ids=str)
def test_a_resolved_configuration_reads_back_as_itself(values):
    made = config(**values)
    again = RunConfig.from_values(json.loads(made.model_dump_json()))
    assert (again, again.cell_id()) == (made, made.cell_id())


def test_a_label_shift_of_the_digits_draws_a_hundred_for_each_class():
    made = config(stream="label_shift", domains=["fog", "snow"], seed=1)
    order = made.order()
    assert (made.samples_per_domain, made.num_samples, len(order)) == (1000, 2000, 2000)
    assert (order.segments, order.reset_at_segments) == ((0, 1000), True)
    assert (order.index[:1000] == order.index[1000:]).all()
    labels = trial_images(BENCHMARKS["digits-c"], "clean", 5, data_seed=0, crop="none", image_size=32)[1]
    blocks = labels[order.index].reshape(20, 100)
    assert sorted(np.bincount(block).argmax() for block in blocks[:10]) == list(range(10))
    shorter = config(stream="label_shift", domains="fog", seed=1, samples_per_domain=30).order()
    assert (shorter.index == order.index[:30]).all()


def test_correlated_digits_come_class_by_class_and_mixed_ones_too():
    def changes(stream):
        made = config(stream=stream, domains=["fog", "snow"], dirichlet_alpha=0.01)
        order = made.order()
        labels = trial_images(BENCHMARKS["digits-c"], "clean", 5, data_seed=0, crop="none", image_size=32)[1]
        pairs = set(zip(order.domain.tolist(), order.index.tolist(), strict=True))
        assert len(pairs) == len(order) == made.num_samples == 2 * 899
        return np.count_nonzero(np.diff(labels[order.index])), np.count_nonzero(np.diff(order.domain))

    labels, domains = changes("correlated")
    assert labels < 60
    assert domains == 1
    labels, domains = changes("mixed-correlated")
    assert labels < 60
    assert domains > 600
    labels, domains = changes("mixed")
    assert labels > 1500
    assert domains > 800


def test_a_stream_from_labels_runs_and_every_method_sees_the_same():
    values = {"preset": "digits-c", "domains": ["fog", "snow"], "samples_per_domain": 12, "batch_size": 5}
    for stream in ("correlated", "mixed-correlated", "label_shift"):
        hashes = {
            tta_core.run({"method": method, "stream": stream} | values).stream_order for method in ("source", "tent")
        }
        assert hashes == {
            config(stream=stream, **{k: v for k, v in values.items() if k != "preset"}).order().order_hash()
        }


def test_the_labels_of_equal_classes_are_known_without_files(monkeypatch):
    monkeypatch.delenv("TTA_GRID_DATA", raising=False)
    order = config(benchmark="imagenet-c", backbone=VIT, stream="label_shift", domains=["fog"], seed=2022).order()
    assert len(order) == 100_000
    assert np.bincount(order.index[:100] // 50).max() >= 98
    mixed = config(benchmark="potpourri", backbone=VIT, stream="correlated")
    assert mixed.num_samples == 838_389
    with pytest.raises(InputError, match="'correlated' is made from the images' labels: TTA_GRID_DATA is not set"):
        mixed.order()


def test_labels_are_read_without_decoding_an_image(photographs, listed_photographs, arrays, monkeypatch):
    monkeypatch.setattr("PIL.Image.open", lambda *_: pytest.fail("decodes an image"))
    for row in (photographs, listed_photographs, arrays, BENCHMARKS["digits-c"]):
        for name in (*row.domains[:2], "clean"):
            found = ImageRequest(row, 2, 0).labels(name)
            _, expected = trial_images(row, name, 2, data_seed=0, crop=row.crops[0], image_size=32)
            assert (found == expected).all()


def test_the_known_labels_are_those_that_the_reader_finds(photographs, monkeypatch):
    row = photographs.model_copy(update={"images_per_class": 4})
    monkeypatch.setitem(BENCHMARKS, row.name, row)
    _, expected = trial_images(row, "fog", 2, data_seed=0, crop="center", image_size=32)
    monkeypatch.delenv("TTA_GRID_DATA")
    assert ImageRequest(row, 2, 0).labels("fog").tolist() == expected.tolist()


def test_domains_of_different_sizes_give_what_they_have():
    made = config(benchmark="potpourri", backbone=VIT)
    order = made.order()
    assert (made.samples_per_domain, made.num_samples, len(order)) == (50_889, 838_389, 838_389)
    counts = dict(zip(order.domains, np.bincount(order.domain).tolist(), strict=True))
    assert [counts[name] for name in ("fog", "imagenet-r", "imagenet-sketch", "imagenet-a")] == [
        *(50_000, 30_000, 50_889, 7_500)
    ]
    fewer = config(benchmark="potpourri+", backbone=VIT, samples_per_domain=8000)
    assert fewer.num_samples == len(fewer.order()) == 18 * 8000 + 7500
    assert config(benchmark="potpourri", backbone=VIT, domains=["imagenet-a"]).samples_per_domain == 7500
    for stream in ("continual", "recurring", "recurring-same"):
        again = config(benchmark="potpourri", backbone=VIT, stream=stream, samples_per_domain=1000)
        assert again.num_samples == len(again.order())


def test_the_first_samples_of_the_stream():
    whole, part = config(stream="continual").order(), config(stream="continual", first_samples=1000)
    assert part.num_samples == len(part.order()) == 1000
    assert part.order().domains == ("gaussian_noise", "shot_noise")
    assert (part.order().index == whole.index[:1000]).all()
    assert part.cell_id() != config(stream="continual").cell_id()
    assert part.fingerprint() != config(stream="continual").fingerprint()


def test_a_subset_by_number(tmp_path):
    path = own_file(tmp_path, "17\n3\n\n898\n0005\n", "subset.txt")
    made = config(subset_file=path, domains=["fog", "snow"])
    assert (made.samples_per_domain, made.num_samples) == (4, 8)
    assert Counter(made.order().index.tolist()) == dict.fromkeys((17, 3, 898, 5), 2)
    again = config(subset_file=own_file(tmp_path, "17 3 898 5", "other.txt"), domains=["fog", "snow"])
    assert again.cell_id() == made.cell_id()
    assert again.fingerprint() == made.fingerprint()
    other = config(subset_file=own_file(tmp_path, "17 3 898 6", "third.txt"), domains=["fog", "snow"])
    assert other.cell_id() != made.cell_id()
    assert other.fingerprint() != made.fingerprint()
    back = json.loads(made.model_dump_json())
    (tmp_path / "subset.txt").write_text("1 2 3 4")
    with pytest.raises(InputError, match=r"has the hash .*, not subset_hash = .*: restore the file"):
        RunConfig.from_values(back).order()
    (tmp_path / "subset.txt").unlink()
    assert RunConfig.from_values(back).cell_id() == made.cell_id()
    with pytest.raises(InputError, match=r"subset_file = .* cannot be read"):
        RunConfig.from_values(back).order()


def test_a_subset_by_name(photographs, colour_vit, tmp_path):
    names = "n02/image_3.JPEG\nn01/image_0.JPEG\n"
    values = {"benchmark": photographs.name, "backbone": colour_vit.name, "stream": "continual"}
    made = config(subset_file=own_file(tmp_path, names, "names.txt"), **values)
    order = made.order()
    assert (order.segments, set(order.index.tolist())) == ((0, 2), {0, 1})
    run = tta_core.run(made)
    assert run.samples["label"].tolist() == (1 - order.index).tolist()
    # The same list in other words is another domain; nothing but the listed images need be there.
    assert config(subset_file=own_file(tmp_path, "n02/image_3.JPEG\nn01/image_1.JPEG\n"), **values).fingerprint() != (
        made.fingerprint()
    )
    for domain in ("fog", "snow"):
        shutil.rmtree(tmp_path / f"photos-c/{domain}/5/n03")
        (tmp_path / f"photos-c/{domain}/5/n01/image_2.JPEG").unlink()
    check_available([made])
    again = tta_core.run(made)
    assert again.stream_order == run.stream_order
    assert (again.samples["confidence"] == run.samples["confidence"]).all()


def test_names_in_a_list_may_have_spaces_and_any_line_ends(photographs, colour_vit, tmp_path):
    names = [f"n02/0.86_digital clock _ digital clock {number}.JPEG" for number in range(2)]
    for name in names:
        shutil.copy(tmp_path / "photos-c/fog/5/n01/image_0.JPEG", tmp_path / "photos-c/fog/5" / name)
    values = {"benchmark": photographs.name, "backbone": colour_vit.name, "domains": ["fog"]}
    hashes = set()
    for number, text in enumerate(("\n".join(names), "\r\n".join(names) + "\r\n", "\ufeff" + "\n \n".join(names))):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
        made = config(subset_file=str(tmp_path / f"{number}.txt"), **values)
        assert len(load_domains(made, ["fog"])[0].labels) == 2
        hashes.add(made.subset_hash)
    assert len(hashes) == 1


@pytest.mark.parametrize("stream", ["gradual", "correlated", "mixed-correlated", "label_shift", "recurring", "mixed"])
def test_a_subset_by_name_is_read_in_every_stream(stream, photographs, colour_vit, tmp_path):
    shutil.rmtree(tmp_path / "photos-c/fog/5/n03")
    listed = ["n02/image_3.JPEG", "n01/image_0.JPEG", "n02/image_0.JPEG"]
    values = {"benchmark": photographs.name, "backbone": colour_vit.name, "stream": stream, "rounds": 3}
    path = own_file(tmp_path, "\n".join(listed), "names.txt")
    if stream != "recurring":
        del values["rounds"]
    samples = tta_core.run(config(subset_file=path, domains=["fog"], **values)).samples
    expected = [(1, 0, 1)[number] for number in samples["index"]]
    assert set(samples["index"].tolist()) == {0, 1, 2}
    assert samples["label"].tolist() == expected


def test_the_order_of_a_subset_by_name_numbers_the_whole_domain(photographs, colour_vit, tmp_path):
    values = {"benchmark": photographs.name, "backbone": colour_vit.name, "stream": "single"}
    path = own_file(tmp_path, "n02/image_3.JPEG\nn01/image_0.JPEG\n", "names.txt")
    made = config(subset_file=path, **values)
    overrides = [f"{key}={value}" for key, value in values.items()] + [f"subset_file={path}"]
    export_order(None, overrides, tmp_path / "order.csv")
    del values["stream"]
    replayed = config(order_file=str(tmp_path / "order.csv"), **values)
    assert set(replayed.order().index.tolist()) == {7, 0}
    for column in ("label", "confidence"):
        assert (tta_core.run(replayed).samples[column] == tta_core.run(made).samples[column]).all()
    shutil.rmtree(tmp_path / "photos-c/snow/5/n03")
    with pytest.raises(InputError, match=r"snow is not here whole: give cells the list itself, subset_file = .* n03"):
        export_order(None, overrides, tmp_path / "order.csv")


def test_what_a_subset_by_name_lacks_is_said_before_anything_runs(photographs, colour_vit, tmp_path):
    values = {"benchmark": photographs.name, "backbone": colour_vit.name, "stream": "gradual"}
    made = config(subset_file=own_file(tmp_path, "n02/image_3.JPEG", "names.txt"), **values)
    check_available([made])
    (tmp_path / "photos-c/snow/2/n02/image_3.JPEG").unlink()
    with pytest.raises(InputError, match=r"lists images that snow@2 lacks: n02/image_3.JPEG; .* as n01/image_0.JPEG"):
        check_available([made])
    foreign = config(subset_file=own_file(tmp_path, "n09/image_3.JPEG", "foreign.txt"), **values)
    with pytest.raises(InputError, match=r"images of no class that fog of photos-c has: n09/image_3.JPEG; .* n01/..."):
        check_available([foreign])
    with pytest.raises(InputError, match="the images of digits-c have no names"):
        check_available([config(subset_file=own_file(tmp_path, "n01/a.png", "names.txt"))])


def test_a_subset_keeps_its_order_where_the_benchmark_has_one(arrays, tmp_path, monkeypatch):
    spec = BENCHMARKS["digits-c"].model_copy(update={"shuffled": False})
    monkeypatch.setitem(BENCHMARKS, spec.name, spec)
    made = config(subset_file=own_file(tmp_path, "5 2 4", "subset.txt"), stream="continual", domains=["fog"])
    assert made.order().index.tolist() == [5, 2, 4]


def test_a_written_order_is_replayed_whatever_the_seed(tmp_path):
    source = config(stream="gradual", domains=["fog", "snow"], samples_per_domain=2, seed=3)
    write_order(source.order(), tmp_path / "order.parquet", {"stream": "gradual"})
    write_order(source.order(), tmp_path / "order.csv", {"stream": "gradual"})
    made = config(order_file=str(tmp_path / "order.parquet"))
    assert (made.stream, made.samples_per_domain, made.num_samples) == ("imported", 4, 36)
    assert made.domains == source.order().domains
    assert made.order().order_hash() == source.order().order_hash() == made.order_hash
    assert config(order_file=str(tmp_path / "order.csv")).cell_id() == made.cell_id()
    assert config(order_file=str(tmp_path / "order.csv"), stream="gradual", domains=made.domains) == config(
        order_file=str(tmp_path / "order.csv")
    )
    other = config(order_file=str(tmp_path / "order.csv"), seed=5)
    assert other.order().order_hash() == made.order_hash
    assert other.fingerprint() == made.fingerprint()
    replayed, original = tta_core.run(made), tta_core.run(source)
    assert (replayed.samples["prediction"] == original.samples["prediction"]).all()
    back = RunConfig.from_values(json.loads(made.model_dump_json()))
    assert (back, back.cell_id()) == (made, made.cell_id())


def test_indices_for_any_domain_are_replayed_with_resets(tmp_path):
    np.save(tmp_path / "sar.npy", np.array([4, 4, 898]))
    made = config(order_file=str(tmp_path / "sar.npy"), domains=["snow", "fog"], stream="label_shift")
    order = made.order()
    assert (order.domains, order.index.tolist()) == (("snow", "fog"), [4, 4, 898] * 2)
    assert made.protocol()["reset"] == "domain"
    assert made.num_samples == 6
    others = config(order_file=str(tmp_path / "sar.npy"), domains=["snow"])
    assert others.cell_id() != made.cell_id()
    result = tta_core.run(made)
    assert result.stream_order == made.order_hash
    assert result.samples["segment"].tolist() == [0, 0, 0, 1, 1, 1]


def test_resets_of_a_file_are_part_of_the_protocol(tmp_path):
    rows = "domain,index,segment,reset\nfog,1,0,{0}\nfog,2,1,{0}\n"
    never, always = (config(order_file=own_file(tmp_path, rows.format(r), f"{r}.csv")) for r in (0, 1))
    assert (never.protocol()["reset"], always.protocol()["reset"]) == ("never", "domain")
    assert never.fingerprint() != always.fingerprint()
    assert never.cell_id() != always.cell_id()


def test_an_order_that_has_changed_or_is_gone_is_missed(tmp_path):
    path = own_file(tmp_path, "domain,index\nfog,1\n")
    made = config(order_file=path)
    (tmp_path / "own.csv").write_text("domain,index\nfog,20\n")
    with pytest.raises(
        InputError, match=r"has the hash .*, not order_hash = .*: restore the file, or leave order_hash"
    ):
        made.order()
    (tmp_path / "own.csv").unlink()
    back = RunConfig.from_values(json.loads(made.model_dump_json()))
    assert back.cell_id() == made.cell_id()
    with pytest.raises(InputError, match="cannot be read"):
        back.order()
    assert back.protocol(with_order=False)["stream_order_at_seed_0"] == "unknown"


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        (
            "fog,1",
            {"stream": "correlatd"},
            "stream = 'correlatd', but order_file = .* says the order: leave stream out",
        ),
        ("fog,1", {"stream": "mixed"}, "stream = 'mixed', but order_file"),
        ("fog,1", {"domains": ["snow"]}, r"domains = \['snow'\], but order_file = .* has \['fog'\]: leave domains out"),
        ("fog,1", {"samples_per_domain": 2}, "has up to 1 of a domain: leave samples_per_domain out; first_samples"),
        ("fog,1", {"subset_file": "x"}, "subset_file does too: leave one out"),
        ("fog,1", {"order_hash": "0"}, "has the hash .*, not order_hash = '0'"),
        ("foggy,1", {}, "unknown domain of digits-c 'foggy'. Did you mean 'fog'"),
        ("fog@6,1", {}, r"has the domain 'fog@6', but fog of digits-c has the severities \[1, 2, 3, 4, 5\]"),
        ("clean@3,1", {}, r"has the domain 'clean@3', but clean of digits-c has the severities \[\]"),
        ("fog,899", {}, "has the image 899 of fog, but that has 899 in digits-c, counted from 0"),
    ],
    ids=str,
)
def test_what_contradicts_a_file_is_said(tmp_path, rows, values, message):
    with pytest.raises(InputError, match=message):
        config(order_file=own_file(tmp_path, f"domain,index\n{rows}\n"), **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stream": "imported"}, "takes its order from a file: give order_file"),
        ({"order_hash": "0"}, "there is no order_file"),
        ({"stream": "correlated", "dirichlet_alpha": 0}, "dirichlet_alpha = 0 is not allowed"),
        ({"stream": "correlated", "time_slots": 0}, "time_slots = 0 is not allowed"),
        ({"stream": "label_shift", "imbalance_ratio": 0}, "imbalance_ratio = 0 is not allowed"),
        ({"first_samples": 0}, "first_samples = 0 is not allowed"),
        ({"first_samples": 13_486}, "first_samples = 13486, but the stream has 13485 samples: give at most that"),
        ({"stream": "label_shift", "samples_per_domain": 1001}, "draws 100 for each of the 10 classes .* at most 1000"),
        (
            {"benchmark": "potpourri", "backbone": VIT, "samples_per_domain": 50_890},
            "the domain 'imagenet-sketch' of potpourri has 50889 images: give at most that",
        ),
        (
            {"benchmark": "potpourri", "backbone": VIT, "stream": "recurring", "rounds": 7501},
            "the domain 'imagenet-a' of potpourri has 7500 images: give at most that",
        ),
    ],
    ids=str,
)
def test_mistakes_are_named_with_what_is_allowed(values, message):
    with pytest.raises(InputError, match=message):
        config(**values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no images"),
        ("1\nn01/a.JPEG", "lists 1 numbers and 1 names"),
        ("1 2 01", "lists 1 twice"),
        ("-1\n2", "lists 1 numbers and 1 names"),
    ],
)
def test_what_is_wrong_with_a_subset_is_said(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        config(subset_file=own_file(tmp_path, text, "subset.txt"))


def test_subsets_that_do_not_fit_are_refused(tmp_path):
    path = own_file(tmp_path, "1 899", "subset.txt")
    with pytest.raises(InputError, match="lists image 899, but gaussian_noise has 899 images, from 0"):
        config(subset_file=path).order()
    with pytest.raises(InputError, match=r"each domain of digits-c has 2 images in .*subset.txt: give at most that"):
        config(subset_file=path, samples_per_domain=3)
    with pytest.raises(InputError, match="the images of digits-c have no names"):
        config(subset_file=own_file(tmp_path, "n01/a.png", "names.txt")).order()
