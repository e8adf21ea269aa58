"""The same photographs as files, in tar archives, in Parquet and in Arrow files: the same benchmark, bit for bit."""

import io
import json
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.tta_core.opening import check_domain, stored_images, trial_images
from tta_core.data.benchmarks import BENCHMARKS, CLEAN
from tta_core.data.files import tar_images
from tta_core.data.files.tar_images import tar_index
from tta_core.data.opened import ImageRequest
from tta_core.data.spec import BenchmarkSpec
from tta_core.errors import InputError

CLASSES = ("n01", "n02", "n03")
FILES = [f"{name}/photo_{number:02}.JPEG" for name in CLASSES for number in range(3)]


@pytest.fixture
def real(tmp_path, monkeypatch) -> BenchmarkSpec:
    """`real-c`, in the layout of ImageNet-C: crops of two real photographs, noisy in `fog`."""
    row = BenchmarkSpec(
        name="real-c",
        title="crops of photographs",
        version=1,
        domains=("fog",),
        held_out_domains=(),
        images_per_domain=len(FILES),
        num_classes=3,
        classes="colours",
        class_names=CLASSES,
        severities=(1, 5),
        crops=("center", "resize-center"),
        storage="class-folders",
        folder="real-c",
        clean_folder="real/val",
        training_folder="real/train",
        files="real-c/<corruption>/<severity>/<wnid>/*.JPEG",
        source="https://example.org/real",
        licence="none",
    )
    china, flower = load_sample_images().images
    generator = np.random.default_rng(0)
    for number, name in enumerate(FILES):
        source, left, top = (china, flower)[number % 2], 40 * number, 20 * number
        crop = source[top : top + 90, left : left + 70]
        for folder, image in (
            ("real-c/fog/5", np.clip(crop[:64, :64] + generator.normal(0, 30, (64, 64, 3)), 0, 255).astype(np.uint8)),
            ("real-c/fog/1", crop[:64, :64]),
            ("real/val", crop),
            ("real/train", crop[::-1]),
        ):
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file, format="JPEG", quality=85)
    monkeypatch.setenv("TTA_GRID_DATA", str(tmp_path))
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(BENCHMARKS, row.name, row)
    return row


def everything(spec, domain="fog", severity=5):
    images, labels = stored_images(spec, domain, severity, "center", 32)
    return images[:], labels, list(images.names)


def pack(target, source, names, prefix=""):
    """Writes an archive in an order of its own, with folders and a file that is no image."""
    with tarfile.open(target, "w") as archive:
        archive.add(source, arcname=prefix or ".", recursive=False)
        for name in reversed(names):
            archive.add(source / name, arcname=f"{prefix}{name}")
        archive.addfile(tarfile.TarInfo("README"), io.BytesIO())


def as_one_tar(root):
    folder = root / "real-c/fog/5"
    pack(root / "real-c/fog/5.tar", folder, FILES)
    shutil.rmtree(folder)


def as_tar_with_dots(root):
    folder = root / "real-c/fog/5"
    pack(root / "real-c/fog/5.tar", folder, FILES, prefix="./")
    shutil.rmtree(folder)


def as_tar_of_the_domain(root):
    names = [f"{severity}/{name}" for severity in (1, 5) for name in FILES]
    pack(root / "real-c/fog.tar", root / "real-c/fog", names, prefix="fog/")
    shutil.rmtree(root / "real-c/fog")


def as_tar_of_the_benchmark(root):
    names = [f"fog/{severity}/{name}" for severity in (1, 5) for name in FILES]
    pack(root / "real-c.tar", root / "real-c", names)
    shutil.rmtree(root / "real-c")


def as_tar_of_several_domains(root):
    names = [f"fog/{severity}/{name}" for severity in (1, 5) for name in FILES]
    pack(root / "real-c/weather.tar", root / "real-c", names)
    shutil.rmtree(root / "real-c/fog")


def as_webdataset(root):
    _webdataset(root, lambda name: str(CLASSES.index(name.partition("/")[0])))


def as_webdataset_with_names(root):
    _webdataset(root, lambda name: f"{name.partition('/')[0]}\n")


def _webdataset(root, label):
    folder = root / "real-c/fog/5"
    shards = [[], []]
    for number, name in enumerate(FILES):
        # Two classes have files of the same name: the keys have a folder.
        key = name.removesuffix(".JPEG")
        shards[number % 2] += [(f"{key}.jpg", (folder / name).read_bytes()), (f"{key}.cls", label(name).encode())]
    shutil.rmtree(folder)
    folder.mkdir()
    for number, members in enumerate(shards):
        with tarfile.open(folder / f"shard-{number:04}.tar", "w") as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def rows(root, folder="real-c/fog/5"):
    return [
        {
            "image": {"bytes": (root / folder / name).read_bytes(), "path": f"somewhere/{name.partition('/')[2]}"},
            "label": n,
        }
        for name in FILES
        for n in [CLASSES.index(name.partition("/")[0])]
    ]


SCHEMA = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])


def as_one_parquet(root):
    pq.write_table(pa.Table.from_pylist(rows(root)[::-1], SCHEMA), root / "real-c/fog/5.parquet", row_group_size=2)
    shutil.rmtree(root / "real-c/fog/5")


def as_parquet_shards_with_class_names(root):
    """As Hugging Face writes it: several files, and the classes' names, in another order, in the metadata."""
    features = {"label": {"names": ["n03", "n01", "n02"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    schema = SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    all_rows = [row | {"label": (row["label"] + 1) % 3} for row in rows(root)]
    folder = root / "real-c/fog/5"
    shutil.rmtree(folder)
    folder.mkdir()
    for number in range(3):
        table = pa.Table.from_pylist(all_rows[number::3], schema)
        pq.write_table(table, folder / f"test-{number:05}-of-00003.parquet", row_group_size=2)


def as_arrow_stream(root):
    table = pa.Table.from_pylist(rows(root), SCHEMA)
    with pa.ipc.new_stream(root / "real-c/fog/5.arrow", SCHEMA) as writer:
        writer.write_table(table, max_chunksize=4)
    shutil.rmtree(root / "real-c/fog/5")


def as_arrow_file(root):
    table = pa.Table.from_pylist(rows(root), SCHEMA)
    with pa.ipc.new_file(root / "real-c/fog/5.arrow", SCHEMA) as writer:
        writer.write_table(table, max_chunksize=4)
    shutil.rmtree(root / "real-c/fog/5")


FORMS = [
    as_one_tar,
    as_tar_with_dots,
    as_tar_of_the_domain,
    as_tar_of_the_benchmark,
    as_tar_of_several_domains,
    as_webdataset,
    as_webdataset_with_names,
    as_one_parquet,
    as_parquet_shards_with_class_names,
    as_arrow_stream,
    as_arrow_file,
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_benchmark_bit_for_bit(form, real, tmp_path):
    images, labels, names = everything(real)
    assert images.std() > 20
    form(tmp_path)
    check_domain(real, "fog", 5)
    found, found_labels, found_names = everything(real)
    assert (found == images).all()
    assert (found_labels == labels).all()
    # WebDataset's own suffix is another.
    assert [name.rpartition(".")[0] for name in found_names] == [name.rpartition(".")[0] for name in names]
    lazily, _ = stored_images(real, "fog", 5, "center", 32)
    assert (lazily[np.array([7, 0, 7, 3])] == images[[7, 0, 7, 3]]).all()
    with pytest.raises(IndexError):
        lazily[np.array([9])]


@pytest.mark.parametrize("form", FORMS[:3])
def test_clean_and_training_images_may_be_in_an_archive_too(form, real, tmp_path):
    training = ImageRequest(real, crop="resize-center", image_size=32)
    expected = everything(real, CLEAN), training.open_training().images[:]
    for name in ("val", "train"):
        pack(tmp_path / f"real/{name}.tar", tmp_path / f"real/{name}", FILES, prefix=f"{name}/")
        shutil.rmtree(tmp_path / f"real/{name}")
    assert (everything(real, CLEAN)[0] == expected[0][0]).all()
    assert (training.open_training().images[:] == expected[1]).all()


def test_some_severities_in_files_and_others_in_an_archive(real, tmp_path):
    mild = everything(real, severity=1)[0]
    as_one_tar(tmp_path)
    assert (everything(real, severity=1)[0] == mild).all()
    assert stored_images(real, "fog", 5, "center", 32)[0].kind == "tar"
    assert stored_images(real, "fog", 1, "center", 32)[0].kind == "folders"


def test_rows_without_file_names_keep_their_order_in_a_class(real, tmp_path):
    expected = everything(real)[0]
    flat = [{"image": row["image"]["bytes"], "label": row["label"]} for row in rows(tmp_path)]
    # Classes interleaved, the order within each kept.
    shuffled = [flat[3 * c + n] for n in range(3) for c in (2, 0, 1)]
    pq.write_table(pa.Table.from_pylist(shuffled), tmp_path / "real-c/fog/5.parquet")
    shutil.rmtree(tmp_path / "real-c/fog/5")
    images, labels, _ = everything(real)
    assert (images == expected).all()
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_benchmark_of_some_classes_may_be_labelled_among_all(real, tmp_path, monkeypatch):
    some = real.model_copy(update={"class_numbers": (10, 20, 30)})
    labelled = [row | {"label": (10, 20, 30)[row["label"]]} for row in rows(tmp_path)]
    pq.write_table(pa.Table.from_pylist(labelled, SCHEMA), tmp_path / "real-c/fog/5.parquet")
    shutil.rmtree(tmp_path / "real-c/fog/5")
    assert stored_images(some, "fog", 5, "center", 32)[1].tolist() == [10] * 3 + [20] * 3 + [30] * 3


@pytest.mark.parametrize("form", [as_one_tar, as_one_parquet, as_arrow_stream])
def test_a_list_chooses_from_any_form(form, real, tmp_path):
    (tmp_path / "list.txt").write_text("n03/photo_01.JPEG n01/photo_00.JPEG")
    listed = real.model_copy(update={"image_list": "list.txt", "images_per_domain": 2, "shuffled": False})
    expected = everything(listed)[0]
    form(tmp_path)
    assert (everything(listed)[0] == expected).all()
    (tmp_path / "list.txt").write_text("n03/photo_01.JPEG n01/photo_77.JPEG")
    with pytest.raises(InputError, match=r"lacks 1 listed images: n01/photo_77.JPEG"):
        everything(listed)


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_image_is_named_in_any_form(form, real, tmp_path):
    file = tmp_path / "real-c/fog/5" / FILES[4]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    form(tmp_path)
    images, _ = trial_images(real, "fog", 5, data_seed=0, crop="center", image_size=32)
    assert images[[3, 5]].shape == (2, 32, 32, 3)
    with pytest.raises(InputError, match=r"photo_01.* cannot be decoded \(.*trunc"):
        images[3:6]
    found, damaged = images.read(np.arange(3, 6))
    assert list(damaged) == [1]
    assert not found[1].any()
    assert found[[0, 2]].any(axis=(1, 2, 3)).all()


def test_hidden_files_in_and_beside_archives_are_no_images(real, tmp_path):
    expected = everything(real)[0]
    (tmp_path / "real-c/fog/5/n01/._photo_00.JPEG").write_bytes(b"of macOS")
    with tarfile.open(tmp_path / "real-c/fog/5.tar", "w") as archive:
        archive.add(tmp_path / "real-c/fog/5", arcname="5")
    shutil.rmtree(tmp_path / "real-c/fog/5")
    assert (everything(real)[0] == expected).all()
    (tmp_path / "real-c/fog/5").mkdir()
    (tmp_path / "real-c/fog/5/._0.parquet").write_bytes(b"of macOS")
    assert (everything(real)[0] == expected).all()


def test_where_nothing_is_one_message_says_where_was_looked(real, tmp_path):
    shutil.rmtree(tmp_path / "real-c")
    with pytest.raises(InputError, match=r"fog/5 cannot be read .* no .*fog/5.tar, .parquet or .arrow, .*example.org"):
        check_domain(real, "fog", 5)


def test_missing_classes_and_images_in_an_archive(real, tmp_path):
    shutil.rmtree(tmp_path / "real-c/fog/5/n02")
    pack(tmp_path / "real-c/fog/5.tar", tmp_path / "real-c/fog/5", [name for name in FILES if "n02" not in name])
    shutil.rmtree(tmp_path / "real-c/fog/5")
    with pytest.raises(InputError, match=r"5.tar has 2 of 3 classes, without n02"):
        check_domain(real, "fog", 5)


def test_a_missing_image_in_parquet_is_counted(real, tmp_path):
    pq.write_table(pa.Table.from_pylist(rows(tmp_path)[:-1], SCHEMA), tmp_path / "real-c/fog/5.parquet")
    shutil.rmtree(tmp_path / "real-c/fog/5")
    check_domain(real, "fog", 5)
    with pytest.raises(InputError, match=r"5.parquet has 8 images, not 9; fewest in n03: 2"):
        everything(real)


def test_labels_that_are_no_class_are_refused(real, tmp_path):
    wrong = [row | {"label": 7} for row in rows(tmp_path)]
    pq.write_table(pa.Table.from_pylist(wrong, SCHEMA), tmp_path / "real-c/fog/5.parquet")
    shutil.rmtree(tmp_path / "real-c/fog/5")
    with pytest.raises(InputError, match=r"1 labels that are no class of real-c: 7; allowed are the numbers 0 to 2"):
        check_domain(real, "fog", 5)


def test_columns_that_are_not_there_are_named(real, tmp_path):
    pq.write_table(pa.table({"picture": [b""], "label": [0]}), tmp_path / "real-c/fog/5.parquet")
    shutil.rmtree(tmp_path / "real-c/fog/5")
    with pytest.raises(InputError, match=r"has the columns picture, label, none for the images: name it image"):
        check_domain(real, "fog", 5)


@pytest.mark.parametrize("share", [0.2, 0.3, 0.7, 0.95])
def test_an_archive_that_is_cut_short_is_refused(share, real, tmp_path):
    as_one_tar(tmp_path)
    file = tmp_path / "real-c/fog/5.tar"
    content = file.read_bytes()
    file.write_bytes(
        content[: int(len(content) * share)] if share < 0.9 else content[: content.rindex(b"\xff\xd9") - 99]
    )
    with pytest.raises(InputError, match=r"5.tar (is cut short|cannot be read)"):
        check_domain(real, "fog", 5)


def test_a_compressed_archive_is_refused_with_what_to_do(real, tmp_path):
    with tarfile.open(tmp_path / "real-c/fog/5.tar", "w:gz") as archive:
        archive.add(tmp_path / "real-c/fog/5", arcname=".")
    shutil.rmtree(tmp_path / "real-c/fog/5")
    with pytest.raises(InputError, match=r"not compressed; unpack a .tar.gz with gunzip"):
        check_domain(real, "fog", 5)


def test_a_compressed_archive_of_another_name_is_pointed_to(real, tmp_path):
    shutil.rmtree(tmp_path / "real-c/fog")
    (tmp_path / "real-c/weather.tar.gz").write_bytes(b"packed")
    with pytest.raises(InputError, match=r"above that holds it; unpack .*real-c/weather.tar.gz first: only .tar"):
        check_domain(real, "fog", 5)


def test_of_a_file_that_was_added_to_an_archive_again_the_last_counts(real, tmp_path):
    expected = everything(real)[0]
    file = tmp_path / "real-c/fog/5" / FILES[4]
    good = file.read_bytes()
    file.write_bytes(b"damaged")
    as_one_tar(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_bytes(good)
    with tarfile.open(tmp_path / "real-c/fog/5.tar", "a") as archive:
        (first,) = [name for name in archive.getnames() if name.endswith(FILES[4])]
        archive.add(file, arcname=first)
    shutil.rmtree(tmp_path / "real-c/fog/5")
    assert (everything(real)[0] == expected).all()


def test_rows_of_one_file_name_are_images_of_their_own(real, tmp_path):
    expected = everything(real)[0]
    alike = [row | {"image": row["image"] | {"path": "image.jpg"}} for row in rows(tmp_path)]
    pq.write_table(pa.Table.from_pylist(alike, SCHEMA), tmp_path / "real-c/fog/5.parquet")
    shutil.rmtree(tmp_path / "real-c/fog/5")
    images, _, names = everything(real)
    assert (images == expected).all()
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_damaged_table_is_refused(suffix, real, tmp_path):
    shutil.rmtree(tmp_path / "real-c/fog/5")
    (tmp_path / f"real-c/fog/5.{suffix}").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=rf"5.{suffix} cannot be read"):
        check_domain(real, "fog", 5)


def test_an_archive_is_gone_through_once_and_anew_when_it_changes(real, tmp_path, monkeypatch):
    as_one_tar(tmp_path)
    scans = []
    scanned = tar_images._scanned
    monkeypatch.setattr(tar_images, "_scanned", lambda *given: scans.append(1) or scanned(*given))
    file = tmp_path / "real-c/fog/5.tar"
    first = tar_index(file)
    tar_images._index.cache_clear()  # As another process would find it.
    assert tar_index(file) == first
    assert len(scans) == 1
    pack(file, tmp_path / "real/val", FILES[:2])
    assert len(tar_index(file).names) < len(first.names)
    assert len(scans) == 2


def test_an_archive_is_read_without_a_cache(real, tmp_path, monkeypatch):
    expected = everything(real)[0]
    as_one_tar(tmp_path)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "file/inner"))
    assert (everything(real)[0] == expected).all()


def table(root, labels, *, names=None, columns=None, paths=None, file="real-c/fog/5.parquet"):
    """Writes the images of `FILES` as Parquet with labels of its own; `names` as Hugging Face's ClassLabel has them."""
    made = [row | {"label": label} for row, label in zip(rows(root, "real-c/fog/1"), labels, strict=True)]
    for number, row in enumerate(made):
        row["image"] = row["image"] | {"path": paths[number] if paths else f"{number:02}.JPEG"}
        row |= {name: values[number] for name, values in (columns or {}).items()}
    found = pa.Table.from_pylist(made)
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        found = found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(found, root / file)
    shutil.rmtree(root / "real-c/fog/5", ignore_errors=True)


TRUE = [0, 0, 0, 1, 1, 1, 2, 2, 2]
WNIDS = [CLASSES[number] for number in TRUE]


def labelled(spec, **changes):
    found = ImageRequest(spec.model_copy(update=changes), 5, crop="center", image_size=32).open("fog")
    return found.labels.tolist(), found.proven


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        ([2 - n for n in TRUE], {"names": ["n03", "n02", "n01"]}),
        ([2 - n for n in TRUE], {"columns": {"wnid": WNIDS}}),
        ([7 + n for n in TRUE], {"columns": {"synset": WNIDS}}),
        (TRUE, {"columns": {"anything": WNIDS}}),
        (TRUE, {"paths": [f"{name}_{number}.JPEG" for number, name in enumerate(WNIDS)]}),
        (TRUE, {"paths": [f"/data/val/{name}/x{number}.JPEG" for number, name in enumerate(WNIDS)]}),
        (WNIDS, {"columns": {"caption": ["a photograph"] * 9}}),
    ],
)
def test_labels_follow_names(labels, options, real, tmp_path):
    table(tmp_path, labels, **options)
    assert labelled(real) == (TRUE, True)


def test_numbers_alone_prove_no_order(real, tmp_path):
    table(tmp_path, TRUE)
    assert labelled(real) == (TRUE, False)
    # Names that are numbers say which number is meant, and no more.
    table(tmp_path, [2 - n for n in TRUE], names=["2", "1", "0"])
    assert labelled(real) == (TRUE, False)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (TRUE, {"names": list(CLASSES), "columns": {"wnid": WNIDS[::-1]}}, "contradicts itself: .* wnid = n0"),
        (TRUE, {"columns": {"guess": WNIDS[::-1]}}, "contradicts itself: .* the label 0 and guess = n03"),
        (TRUE, {"paths": [f"{name}_x.JPEG" for name in WNIDS[::-1]]}, "contradicts itself: .* the name n03_x.JPEG"),
        (TRUE, {"names": ["n03", "cat", "n01"]}, "order of its own, and some names are of no class of real-c: cat"),
        (TRUE, {"columns": {"wnid": [*WNIDS[:-1], "n09"]}}, "no class of real-c in 'wnid': n09"),
    ],
)
def test_names_that_contradict_are_refused(labels, options, message, real, tmp_path):
    table(tmp_path, labels, **options)
    with pytest.raises(InputError, match=message):
        labelled(real)


def test_words_of_wordnet_are_names(real, tmp_path):
    changes = {"class_names": ("n01440764", "n01443537", "n02012849"), "images_per_domain": 9}
    words = ["tench, Tinca tinca", "goldfish, Carassius auratus", "crane"]
    table(tmp_path, TRUE, names=words)
    assert labelled(real, **changes) == (TRUE, True)
    table(tmp_path, [1 - n if n < 2 else 2 for n in TRUE], names=[words[1], words[0], words[2]])
    assert labelled(real, **changes) == (TRUE, True)


def test_numbers_that_may_count_some_classes_or_all_are_refused(real, tmp_path):
    table(tmp_path, [1 + n % 2 for n in TRUE])
    with pytest.raises(InputError, match=r"those of the 3 classes of real-c, or of all: 1, 2; give names"):
        labelled(real, class_numbers=(1, 2, 5))


def test_what_datasets_leaves_beside_its_files_is_not_read(real, tmp_path):
    expected = everything(real)[0]
    folder = tmp_path / "real-c/fog/5"
    table = pa.Table.from_pylist(rows(tmp_path), SCHEMA)
    shutil.rmtree(folder)
    folder.mkdir()

    def write(name, table):
        with pa.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table)

    write("data-00000-of-00001.arrow", table)
    write("cache-0a1b.arrow", pa.table({"indices": pa.array([1, 0], pa.uint64())}))
    write("cache-map.arrow", table)
    assert (everything(real)[0] == expected).all()
    write("leftover.arrow", table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    assert (everything(real)[0] == expected).all()
    (folder / "state.json").unlink()
    write("data-00000-of-00002.arrow", table)
    with pytest.raises(InputError, match=r"several sets of images: data-...-of-00001, data-...-of-00002"):
        everything(real)


def test_tables_with_paths_in_place_of_images_say_so(real, tmp_path):
    given = [row | {"image": {"bytes": None, "path": "/home/someone/0.JPEG"}} for row in rows(tmp_path)]
    pq.write_table(pa.Table.from_pylist(given, SCHEMA), tmp_path / "real-c/fog/5.parquet")
    shutil.rmtree(tmp_path / "real-c/fog/5")
    with pytest.raises(InputError, match=r"row 0 holds no image, only the path of one \(/home/someone/0.JPEG\)"):
        everything(real)


def shard(root, members):
    """Writes a tar in place of the images: name -> content, or the name that it links to."""
    folder = root / "real-c/fog/5"
    shutil.rmtree(folder)
    with tarfile.open(root / "real-c/fog/5.tar", "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                content = b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_links_in_an_archive_are_the_files_that_they_name(real, tmp_path):
    photos = {name: (tmp_path / "real-c/fog/5" / name).read_bytes() for name in FILES}
    first, second, third, *rest = FILES
    links = [(second, (tarfile.LNKTYPE, first)), (third, (tarfile.SYMTYPE, "photo_01.JPEG"))]
    shard(tmp_path, [(first, photos[first]), *links, *((name, photos[name]) for name in rest)])
    images = everything(real)[0]
    assert len(images) == 9
    assert (images[1] == images[0]).all()
    assert (images[2] == images[0]).all()


def test_a_link_to_what_an_archive_lacks_is_refused(real, tmp_path):
    shard(tmp_path, [(FILES[0], (tarfile.SYMTYPE, "/elsewhere/photo.JPEG"))])
    with pytest.raises(InputError, match=r"n01/photo_00.JPEG as a link to /elsewhere/photo.JPEG, which it lacks"):
        everything(real)


def samples(root, *parts):
    """Members of a WebDataset: for each image what `parts` make of its number, photograph and class."""
    photos = [(root / "real-c/fog/5" / name).read_bytes() for name in FILES]
    return [
        (f"{number:03}.{end}", content)
        for number, photo in enumerate(photos)
        for end, content in (part(photo, TRUE[number]) for part in parts)
    ]


@pytest.mark.parametrize(
    ("part", "proven"),
    [
        (lambda photo, label: ("target.cls", str(label).encode()), False),
        (lambda photo, label: ("json", json.dumps({"label": label, "width": 64}).encode()), False),
        (lambda photo, label: ("json", json.dumps({"label": 2 - label, "wnid": CLASSES[label]}).encode()), True),
        (lambda photo, label: ("wnid", f"{CLASSES[label]}\n".encode()), True),
    ],
)
def test_samples_of_a_webdataset_end_at_the_first_dot(part, proven, real, tmp_path):
    shard(tmp_path, samples(tmp_path, lambda photo, label: ("input.jpg", photo), part))
    assert labelled(real) == (TRUE, proven)


def test_images_of_a_webdataset_without_a_class_or_with_others_are_named(real, tmp_path):
    image = lambda photo, label: ("jpg", photo)  # noqa: E731
    members = samples(tmp_path, image, lambda photo, label: ("cls", str(label).encode()))
    photo = members[0][1]
    shard(tmp_path, [*members, ("007.other.png", photo)])
    with pytest.raises(InputError, match=r"1 samples with several images, such as 007.jpg, 007.other.png"):
        everything(real)
    (tmp_path / "real-c/fog/5").mkdir()
    shard(tmp_path, [*members, ("100.jpg", photo)])
    with pytest.raises(InputError, match=r"1 images without a class: 100.jpg. Each needs a file .* ending in .cls"):
        everything(real)
    (tmp_path / "real-c/fog/5").mkdir()
    shard(tmp_path, [("100.jpg", photo)])
    with pytest.raises(InputError, match=r"5.tar has no image of a class"):
        everything(real)


@pytest.mark.parametrize(
    ("move", "message"),
    [
        ("real-c/fog/5/5", r"class folders lie in .*real-c/fog/5/5: move them to .*real-c/fog/5"),
        ("Real_C/fog/5", r"class folders lie in .*Real_C/fog/5: move them to .*real-c/fog/5"),
        ("real-c/weather/fog/5", r"class folders lie in .*real-c/weather/fog/5: move them"),
        ("data/real-c/fog/5", r"class folders lie in .*data/real-c/fog/5: move them"),
    ],
)
def test_class_folders_that_lie_elsewhere_are_pointed_to(move, message, real, tmp_path):
    (tmp_path / "real-c/fog/5").rename(tmp_path / "kept")
    shutil.rmtree(tmp_path / "real-c")
    (tmp_path / move).parent.mkdir(parents=True)
    (tmp_path / "kept").rename(tmp_path / move)
    with pytest.raises(InputError, match=message):
        check_domain(real, "fog", 5)


def test_images_without_class_folders_are_told(real, tmp_path):
    folder = tmp_path / "real-c/fog/5"
    for name in FILES[:3]:
        (folder / name).rename(folder / f"ILSVRC_{name.rpartition('/')[2]}")
    for name in CLASSES:
        shutil.rmtree(folder / name)
    with pytest.raises(InputError, match=r"3 images lie in it without class folders \(ILSVRC_photo_00.JPEG, "):
        check_domain(real, "fog", 5)
