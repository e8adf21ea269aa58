"""What `verify` says of whole, incomplete, surplus, unreadable and damaged files; exit statuses of the command."""

import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from grid.commands.main import main
from tests.tta_core.conftest import PER_CLASS, SEVERITIES, WNIDS, write_photograph
from tta_core.data.benchmarks import BENCHMARKS, CLEAN
from tta_core.data.sources.folder_survey import VALIDATION_NAME
from tta_core.data.verify.verify import verify
from tta_core.errors import InputError


@pytest.fixture
def whole(photographs, monkeypatch):
    """`photos-c` with the number of images that each class should have."""
    row = photographs.model_copy(update={"images_per_class": PER_CLASS})
    monkeypatch.setitem(BENCHMARKS, row.name, row)
    return row


@pytest.fixture
def fog(tmp_path):
    return tmp_path / "photos-c/fog/5"


def problems(report):
    """(domain, kind) -> (count, first names), of what is wrong."""
    return {
        (one.name, problem.kind): (problem.count, list(problem.first))
        for one in report.checked
        if not one.ok
        for problem in one.problems
    }


def command(*arguments):
    return CliRunner().invoke(main, ["data", "verify", *map(str, arguments)])


def test_what_is_whole_is_complete(whole, tmp_path):
    report = verify(whole)
    assert report.complete
    names = [one.name for one in report.checked if one.required]
    assert names == [f"{domain}@{severity}" for domain in ("fog", "snow") for severity in SEVERITIES]
    assert all((one.found, one.expected, one.found_classes) == (12, 12, 3) for one in report.checked if one.required)
    assert "complete: 120 of 120 images" in report.text()
    assert "not here, and no table needs them: spatter\n" in report.text()
    done = command(whole.name)
    assert done.exit_code == 0
    assert done.output.splitlines()[0] == f"photos-c in {tmp_path}"


def test_a_missing_image_is_named_by_the_domains_that_have_it(whole, fog):
    (fog / "n02/image_2.JPEG").unlink()
    report = verify(whole)
    assert not report.complete
    assert problems(report) == {("fog@5", "missing images"): (1, ["n02/image_2.JPEG"])}
    (wrong,) = [one for one in report.checked if not one.ok]
    assert (wrong.found, wrong.found_classes, wrong.classes) == (11, 3, {"n02": (4, 3)})
    assert "fog@5        11 of 12 images  3 of 3 classes  WRONG" in report.text()
    assert "missing images: 1 (n02/image_2.JPEG). Get them again." in report.text()
    assert "images by class: n02 3 of 4" in report.text()
    assert "NOT complete, 1 of 16 domains are wrong: 119 of 120 images" in report.text()
    assert "https://example.org/photos" in report.text()


def test_a_missing_class_is_named_with_its_images(whole, fog):
    shutil.rmtree(fog / "n03")
    found = problems(verify(whole))
    assert found == {
        ("fog@5", "missing classes"): (1, ["n03"]),
        ("fog@5", "missing images"): (4, [f"n03/image_{number}.JPEG" for number in range(4)]),
    }
    (fog / "n03").mkdir()
    assert problems(verify(whole)) == found


def test_missing_folders_are_named_and_what_is_here_can_be_looked_at_alone(whole, tmp_path):
    for domain in whole.domains:
        for severity in (1, 2, 3, 4):
            shutil.rmtree(tmp_path / whole.folder / domain / str(severity))
    report = verify(whole)
    assert problems(report)["snow@4", "missing folder"] == (1, [str(tmp_path / "photos-c/snow/4")])
    assert "to look only at what is here: --severity 5" in report.text()
    folder = tmp_path / "photos-c"
    together = f"missing folder: 8 ({folder}/fog/1, {folder}/fog/2, {folder}/fog/3 and 5 more). Put the images"
    assert together in report.text()
    assert "snow@4        0 of 12 images  0 of 3 classes  MISSING" in report.text()
    assert command(whole.name).exit_code == 1
    alone = command(whole.name, "--severity", 5)
    assert alone.exit_code == 0
    assert "complete: 24 of 24 images" in alone.output


def test_the_root_may_be_the_folder_of_the_benchmark_itself(whole, renditions, tmp_path, monkeypatch):
    assert command(whole.name, "--root", tmp_path / "photos-c").exit_code == 0
    # There is no photos-c in photos-c, and so no clean images for what needs them.
    assert command(whole.name, "--root", tmp_path / "photos-c", "--domain", CLEAN).exit_code == 1
    assert command(renditions.name, "--root", tmp_path / "renditions").exit_code == 0
    done = command(whole.name, "--root", tmp_path / "photos-c/fog")
    assert done.exit_code == 1
    assert f"nothing of it is here: {tmp_path}/photos-c/fog holds 1, 2, 3 and 2 more" in done.output


def test_domains_that_are_here_can_be_looked_at_alone(whole, tmp_path):
    shutil.rmtree(tmp_path / "photos-c/fog")
    assert "to look only at what is here: --domain snow\n" in verify(whole).text()
    shutil.rmtree(tmp_path / "photos-c/snow/1")
    told = "to look only at what is here: --domain snow --severity 2 --severity 3 --severity 4 --severity 5\n"
    assert told in verify(whole).text()
    assert command(whole.name, *told.partition(": ")[2].split()).exit_code == 0


def test_surplus_images_are_named_and_other_files_are_not_counted(whole, fog):
    shutil.copy(fog / "n01/image_0.JPEG", fog / "n01/copy.JPEG")
    (fog / "n01/Thumbs.db").write_bytes(b"x")
    (fog / "n01/folder.JPEG").mkdir()
    assert problems(verify(whole)) == {("fog@5", "too many images"): (1, ["n01/copy.JPEG"])}


def test_a_swapped_image_counts_as_neither(whole, fog):
    (fog / "n01/image_0.JPEG").rename(fog / "n02/image_9.JPEG")
    found = problems(verify(whole))
    assert found["fog@5", "missing images"] == (1, ["n01/image_0.JPEG"])
    assert found["fog@5", "too many images"] == (1, ["n02/image_9.JPEG"])


def test_links_count_as_what_they_lead_to(whole, fog, tmp_path):
    file = fog / "n01/image_0.JPEG"
    kept = file.rename(tmp_path / "kept.JPEG")
    file.symlink_to(kept)
    assert verify(whole).complete
    kept.unlink()
    assert problems(verify(whole)) == {("fog@5", "missing images"): (1, ["n01/image_0.JPEG"])}


def test_clean_and_held_out_images_may_be_left_out_but_not_in_part(whole, tmp_path):
    (tmp_path / "photos/val/n01/image_3.JPEG").unlink()
    assert problems(verify(whole)) == {(CLEAN, "missing images"): (1, ["n01/image_3.JPEG"])}
    shutil.rmtree(tmp_path / "photos")
    assert verify(whole).complete
    assert not verify(whole, domains=[CLEAN]).complete
    assert command(whole.name, "--domain", "spatter").exit_code == 1


def test_numbered_validation_images_are_named_even_if_all_lack_them(whole, fog, monkeypatch):
    monkeypatch.setattr("tta_core.data.sources.folder_survey.VALIDATION_IMAGES", 12)
    for severity in SEVERITIES:
        for domain in whole.domains:
            folder = fog.parents[1] / domain / str(severity)
            for number, name in enumerate(WNIDS):
                for place in range(PER_CLASS):
                    file = folder / name / f"image_{place}.JPEG"
                    file.rename(file.with_name(VALIDATION_NAME.format(1 + 4 * number + place)))
            (folder / "n02" / VALIDATION_NAME.format(7)).unlink()
    shutil.rmtree(fog.parents[2] / "photos")
    found = problems(verify(whole))
    assert found["snow@2", "missing images"] == (1, ["ILSVRC2012_val_00000007.JPEG"])


def test_where_no_number_by_class_is_published_the_sum_is_compared(renditions, tmp_path):
    assert verify(renditions).complete
    (tmp_path / "renditions/n03/art_1.jpg").unlink()
    report = verify(renditions)
    assert problems(report) == {("renditions", "missing images"): (1, [])}
    assert "which ones cannot be told from what is here" in report.text()
    shutil.rmtree(tmp_path / "renditions/n01")
    assert problems(verify(renditions))["renditions", "missing classes"] == (1, ["n01"])
    for number in range(4):
        write_photograph(tmp_path / f"renditions/n01/new_{number}.jpg", "n01", number, 0, (64, 48))
    assert problems(verify(renditions)) == {("renditions", "too many images"): (1, [])}


def test_a_list_says_which_images_there_must_be(listed_photographs, fog, tmp_path):
    for name in ("n01/image_1.JPEG", "n01/image_2.JPEG"):
        (fog / name).unlink()
    assert verify(listed_photographs).complete
    (fog / "n02/image_0.JPEG").unlink()
    assert problems(verify(listed_photographs)) == {("fog@5", "missing images"): (1, ["n02/image_0.JPEG"])}
    list_file = tmp_path / listed_photographs.image_list
    list_file.write_text("n01/image_0.JPEG\n")
    assert problems(verify(listed_photographs)) == {("list", "wrong file"): (1, [str(list_file)])}
    list_file.unlink()
    assert problems(verify(listed_photographs)) == {("list", "missing file"): (1, [str(list_file)])}


def test_a_composition_looks_through_its_parts(mixture, tmp_path):
    report = verify(mixture, severities=[3])
    assert report.complete
    assert [one.name for one in report.checked if one.required] == ["fog@3", "snow@3", "renditions"]
    (tmp_path / "renditions/n03/art_1.jpg").unlink()
    assert problems(verify(mixture, severities=[3])) == {("renditions", "missing images"): (1, [])}


def damage(file, how):
    content = file.read_bytes()
    file.write_bytes({"cut short": content[: len(content) // 2], "empty": b"", "text": b"no image"}[how])


@pytest.mark.parametrize("how", ["cut short", "text"])
def test_decoding_names_damaged_images(how, whole, fog):
    damage(fog / "n02/image_1.JPEG", how)
    assert verify(whole).complete
    (((domain, kind), (count, (name,))),) = problems(verify(whole, decode=True)).items()
    assert (domain, kind, count) == ("fog@5", "corrupt", 1)
    assert name.startswith("n02/image_1.JPEG: ")
    done = command(whole.name, "--decode")
    assert done.exit_code == 1
    assert "corrupt: 1 (n02/image_1.JPEG: " in done.output


def test_empty_files_are_named_without_decoding_and_once(whole, fog):
    damage(fog / "n02/image_1.JPEG", "empty")
    for decode in (False, True):
        assert problems(verify(whole, decode=decode)) == {("fog@5", "corrupt"): (1, ["n02/image_1.JPEG"])}


def test_decoding_leaves_images_alone_that_no_list_names(listed_photographs, fog):
    damage(fog / "n01/image_1.JPEG", "cut short")
    damage(fog / "n01/image_2.JPEG", "empty")
    assert verify(listed_photographs, decode=True).complete
    damage(fog / "n02/image_0.JPEG", "cut short")
    assert ("fog@5", "corrupt") in problems(verify(listed_photographs, decode=True))


needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")


@needs_permissions
def test_what_may_not_be_read_is_named(whole, fog):
    (fog / "n01/image_0.JPEG").chmod(0)
    (fog / "n02").chmod(0)
    try:
        found = problems(verify(whole))
    finally:
        (fog / "n02").chmod(0o755)
    assert found["fog@5", "unreadable"] == (2, [str(fog / "n02"), "n01/image_0.JPEG"])


def test_what_may_not_be_read_is_named_even_to_the_superuser(whole, fog, monkeypatch):
    """As above, with the system's answers replaced: the superuser may read everything."""
    opened, access = os.open, os.access

    def refusing(path, *arguments, **options):
        if str(path) == str(fog / "n02"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    (fog / "n01/image_0.JPEG").chmod(0o400)
    monkeypatch.setattr(os, "open", refusing)
    monkeypatch.setattr(os, "access", lambda path, *a, **o: path != "image_0.JPEG" and access(path, *a, **o))
    report = verify(whole)
    assert problems(report) == {("fog@5", "unreadable"): (2, [str(fog / "n02"), "n01/image_0.JPEG"])}
    assert f"Let yourself read them: chmod -R u+rX {fog}" in report.text()


def test_archives_count_as_folders(whole, fog, tmp_path):
    (fog / "n02/image_2.JPEG").unlink()
    with tarfile.open(tmp_path / "photos-c/fog.tar", "w") as archive:
        archive.add(fog.parent, arcname="fog")
    shutil.rmtree(fog.parent)
    assert problems(verify(whole)) == {("fog@5", "missing images"): (1, ["n02/image_2.JPEG"])}


def test_damaged_archives_are_named_also_where_they_might_be_left_out(whole, tmp_path):
    for domain in ("fog", "spatter"):
        (tmp_path / f"photos-c/{domain}.tar").write_bytes(b"no archive")
    shutil.rmtree(tmp_path / "photos-c/fog")
    found = problems(verify(whole))
    assert found["fog@5", "unreadable"][0] == found["spatter@5", "unreadable"][0] == 1


def test_a_folder_without_classes_is_no_domain(whole, fog):
    shutil.rmtree(fog)
    (fog / "deeper").mkdir(parents=True)
    report = verify(whole)
    assert problems(report) == {("fog@5", "missing classes"): (3, list(WNIDS))}
    assert "has 0 of 3 class folders" in report.text()


def test_arrays_are_counted_by_severity(arrays, tmp_path):
    assert verify(arrays).complete
    file = tmp_path / "tiny10-c/fog.npy"
    np.save(file, np.load(file)[:25])
    found = problems(verify(arrays))
    assert found == {("fog@5", "missing images"): (5, [])}
    np.save(file, np.zeros((31, 8, 8, 3), dtype=np.uint8))
    assert problems(verify(arrays)) == {("fog@5", "too many images"): (1, [])}
    np.save(file, np.zeros((30, 8, 8), dtype=np.uint8))
    assert problems(verify(arrays))["fog@1", "wrong file"] == (1, [str(file)])
    for content in (file.read_bytes()[:-100], b"", b"PK\x03\x04 an archive"):
        file.write_bytes(content)
        assert problems(verify(arrays))["fog@1", "corrupt"] == (1, [str(file)])
    file.unlink()
    assert problems(verify(arrays))["fog@3", "missing file"] == (1, [str(file)])


def test_the_root_may_be_the_folder_of_the_arrays(arrays, tmp_path):
    (tmp_path / "tiny10-c/fog.npy").unlink()
    done = command(arrays.name, "--root", tmp_path / "tiny10-c")
    assert "--domain snow" in done.output
    assert command(arrays.name, "--root", tmp_path / "tiny10-c", "--domain", "snow").exit_code == 0


def test_labels_of_arrays_are_looked_at_once(arrays, tmp_path, monkeypatch):
    file = tmp_path / "tiny10-c/labels.npy"
    np.save(file, np.array([0, 1, 2, 0, 1, 3]))
    found = problems(verify(arrays))
    assert list(found) == [("labels", "wrong file")]
    np.save(file, np.array([0, 1, 2, 0, 1, 1]))
    assert verify(arrays).complete
    monkeypatch.setitem(BENCHMARKS, arrays.name, counted := arrays.model_copy(update={"images_per_class": 2}))
    assert problems(verify(counted)) == {("labels", "wrong file"): (2, ["1", "2"])}
    np.save(file, np.arange(5))
    assert "not 6 or 30 integers" in verify(arrays).text()
    file.unlink()
    assert problems(verify(arrays)) == {("labels", "missing file"): (1, [str(file)])}


def test_what_the_system_refuses_is_one_message(whole, monkeypatch):
    def refusing(*arguments, **options):
        raise PermissionError(13, "Permission denied", "/data/secret")

    monkeypatch.setattr("tta_core.data.verify.verify.verify", refusing)
    done = command(whole.name)
    assert done.exit_code == 2
    assert done.output.startswith("Error: /data/secret: Permission denied: mend its permissions")


def test_what_is_made_here_needs_no_files(monkeypatch):
    monkeypatch.delenv("TTA_GRID_DATA", raising=False)
    done = command("digits-c")
    assert done.exit_code == 0
    assert "no files: its images are made here" in done.output


def test_json_has_everything(whole, fog, tmp_path, monkeypatch):
    monkeypatch.delenv("TTA_GRID_DATA")
    shutil.rmtree(fog / "n03")
    done = command(whole.name, "--root", tmp_path, "--json")
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert (found["complete"], found["expected"], found["found"]) == (False, 120, 116)
    (wrong,) = [one for one in found["domains"] if not one["ok"]]
    assert (wrong["domain"], wrong["severity"], wrong["expected"], wrong["found"]) == ("fog", 5, 12, 8)
    assert (wrong["expected_classes"], wrong["found_classes"]) == (3, 2)
    assert wrong["differing_classes"] == {"n03": {"expected": 4, "found": 0}}
    assert [one["kind"] for one in wrong["problems"]] == ["missing classes", "missing images"]
    assert wrong["problems"][0]["first"] == ["n03"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo-c"], "unknown benchmark 'photo-c'. Did you mean 'photos-c'?"),
        (["photos-c", "--domain", "fgo"], "unknown domain of photos-c 'fgo'. Did you mean 'fog'?"),
        (["photos-c", "--severity", "6"], "severity 6 is not one of [1, 2, 3, 4, 5]"),
        (["photos-c", "--root", "nowhere"], "TTA_GRID_DATA = nowhere is no folder"),
    ],
)
def test_wrong_input_has_its_own_status(arguments, message, whole):
    done = command(*arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_without_a_root_nothing_is_looked_at(whole, monkeypatch):
    monkeypatch.delenv("TTA_GRID_DATA")
    with pytest.raises(InputError, match="TTA_GRID_DATA is not set"):
        verify(whole)


def test_grey_and_palette_images_decode(whole, fog):
    Image.new("L", (32, 32), 9).save(fog / "n01/image_0.JPEG")
    assert verify(whole, decode=True).complete
