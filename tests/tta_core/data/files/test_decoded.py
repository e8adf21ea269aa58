"""Decode once: the same pixels, built once, resumed after a kill, refused where there is no room."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import tta_core
from tests.tta_core.opening import stored_images, trial_images
from tta_core import machine
from tta_core.data.benchmarks import CLEAN
from tta_core.data.files import decoded
from tta_core.data.files.decoded import DecodedImages, decoded_domain
from tta_core.data.files.encoded import ImageFiles
from tta_core.data.opened import ImageRequest
from tta_core.errors import InputError
from tta_core.run.config import RunConfig
from tta_core.run.images import load_domains

ROOT = Path(tta_core.__file__).parents[1]

PROGRAM = """
import sys, time
from pathlib import Path
from tta_core.data.files import decoded
from tta_core.data.files.encoded import ImageFiles
from tta_core.data.spec import BenchmarkSpec

folder, slow_after, log = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
decoded.BLOCK_BYTES = 2 * 32 * 32 * 3
read = ImageFiles.read
def noted(self, numbers):
    with log.open("a") as opened:
        opened.write(f"{numbers[0]}\\n")
    if numbers[0] >= slow_after:
        time.sleep(60)
    return read(self, numbers)
ImageFiles.read = noted
names = [f"n0{c}/image_{i}.JPEG" for c in (1, 2, 3) for i in range(4)]
spec = BenchmarkSpec(name="photos-c", title="", version=1, domains=(), held_out_domains=(), images_per_domain=12,
    num_classes=3, classes="colours", severities=(5,), source="", licence="")
images = ImageFiles(folder, names, "center", 32)
print(decoded.decoded_domain(spec, "fog", 5, images).build(workers=int(sys.argv[4]))[:].sum())
"""


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("TTA_GRID_CACHE", str(folder))
    monkeypatch.delenv("TTA_GRID_DECODE_CACHE", raising=False)
    monkeypatch.setattr(decoded, "BLOCK_BYTES", 2 * 32 * 32 * 3)
    return folder / "decoded"


def domain_of(spec, name="fog", severity=5, crop="center", size=32):
    images, _ = stored_images(spec, name, severity, crop, size)
    return decoded_domain(spec, name, severity, images)


def read(spec, name="fog", severity=5, build=False):
    return trial_images(spec, name, severity, data_seed=0, crop="center", image_size=32, build=build)[0]


def start(data, tmp_path, *, slow_after=99, workers=1):
    log = tmp_path / "reads.log"
    program = textwrap.dedent(PROGRAM)
    command = [sys.executable, "-c", program, str(data), str(slow_after), str(log), str(workers)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)


def reads(tmp_path):
    log = tmp_path / "reads.log"
    return sorted(map(int, log.read_text().split())) if log.exists() else []


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("crop", ["center", "resize-center"])
def test_the_cache_has_the_pixels_of_the_files(workers, crop, photographs):
    domain = domain_of(photographs, crop=crop)
    assert domain.opened() is None
    found = domain.build(workers=workers)
    assert isinstance(found, DecodedImages)
    assert found.shape == domain.images.shape
    assert (found[:] == domain.images[:]).all()
    assert (found[np.array([5, 0, 5])] == domain.images[[5, 0, 5]]).all()
    assert domain.path.stat().st_size == domain.nbytes


def test_progress_ends_with_all_images(photographs):
    told = []
    domain_of(photographs).build(progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 12)
    assert told[-1] == (12, 12)
    assert told == sorted(told)


def test_trials_use_a_complete_cache_and_build_one_only_if_asked(photographs, monkeypatch, cache_folder):
    assert isinstance(read(photographs, build=True), ImageFiles)
    assert not cache_folder.exists()
    monkeypatch.setenv("TTA_GRID_DECODE_CACHE", "1")
    assert isinstance(read(photographs), ImageFiles)
    assert isinstance(read(photographs, build=True), DecodedImages)
    monkeypatch.setenv("TTA_GRID_DECODE_CACHE", "0")
    assert isinstance(read(photographs), DecodedImages)
    assert isinstance(read(photographs, severity=4, build=True), ImageFiles)
    monkeypatch.setenv("TTA_GRID_DECODE_CACHE", "perhaps")
    with pytest.raises(InputError, match="TTA_GRID_DECODE_CACHE = 'perhaps': give 1"):
        read(photographs, build=True)


def test_clean_images_are_cached_once_for_all_severities(photographs, monkeypatch, cache_folder):
    monkeypatch.setenv("TTA_GRID_DECODE_CACHE", "1")
    for severity in (1, 5):
        assert isinstance(read(photographs, CLEAN, severity, build=True), DecodedImages)
    assert len(list(cache_folder.glob("*.npy"))) == 1


def test_training_images_are_read_from_a_cache_that_is_there(photographs, tmp_path):
    row = photographs.model_copy(update={"training_folder": photographs.clean_folder})
    request = ImageRequest(row, image_size=32)
    plain = request.open_training()
    images, labels = plain.images, plain.labels
    decoded_domain(row, "training", 0, images).build()
    cached = request.open_training()
    found, found_labels = cached.images, cached.labels
    assert isinstance(found, DecodedImages)
    assert (found[:] == images[:]).all()
    assert (found_labels == labels).all()


@pytest.mark.parametrize("change", ["severity", "domain", "crop", "size", "version", "an image", "one image more"])
def test_whatever_changes_the_pixels_changes_the_file(change, photographs, tmp_path):
    before = domain_of(photographs).path
    other = {
        "severity": lambda: domain_of(photographs, severity=4),
        "domain": lambda: domain_of(photographs, "snow"),
        "crop": lambda: domain_of(photographs, crop="resize-center"),
        "size": lambda: domain_of(photographs, size=16),
        "version": lambda: domain_of(photographs.model_copy(update={"version": 2})),
    }
    file = tmp_path / "photos-c/fog/5/n01/image_0.JPEG"
    if change == "an image":
        os.utime(file, ns=(1, 1))
    elif change == "one image more":
        photographs = photographs.model_copy(update={"images_per_domain": 13})
        file.with_name("image_9.JPEG").write_bytes(file.read_bytes())
    after = other.get(change, lambda: domain_of(photographs))().path
    assert after != before
    assert before == domain_of(photographs).path or "image" in change


def test_an_image_that_was_replaced_is_seen(photographs, tmp_path):
    old = domain_of(photographs).build()[:1]
    file = tmp_path / "photos-c/fog/5/n01/image_0.JPEG"
    file.write_bytes((tmp_path / "photos-c/fog/1/n02/image_3.JPEG").read_bytes())
    images = read(photographs)
    assert isinstance(images, ImageFiles)
    assert (images[:1] != old).any()


def test_a_damaged_image_is_an_error_named_from_the_cache_too(photographs, tmp_path):
    (tmp_path / "photos-c/fog/5/n02/image_1.JPEG").write_bytes(b"\xff\xd8\xff")
    found = domain_of(photographs).build()
    assert list(found.damaged) == [5]
    again = domain_of(photographs).opened()
    assert again.damaged == found.damaged
    assert again[:5].shape == (5, 32, 32, 3)
    with pytest.raises(InputError, match=r"the image .*n02/image_1.JPEG cannot be decoded"):
        again[4:6]
    assert again.read(np.array([5, 4]))[1].keys() == {0}


def test_an_unreadable_file_ends_the_build_and_keeps_what_is_done(photographs, tmp_path, cache_folder):
    file = tmp_path / "photos-c/fog/5/n03/image_2.JPEG"
    content = file.read_bytes()
    domain = domain_of(photographs)
    file.unlink()
    with pytest.raises(InputError, match=r"n03/image_2.JPEG cannot be read \(No such file"):
        domain.build()
    assert domain.opened() is None
    file.write_bytes(content)
    told = []
    domain.build(progress=lambda done, total: told.append(done))
    assert told[0] > 0


def test_two_processes_at_once_build_once(photographs, tmp_path):
    data = tmp_path / "photos-c/fog/5"
    processes = [start(data, tmp_path) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    expected = ImageFiles(data, stored_images(photographs, "fog", 5, "center", 32)[0].names, "center", 32)[:].sum()
    assert outputs == [f"{expected}\n"] * 3
    assert reads(tmp_path) == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_build_goes_on_with_the_blocks_that_are_left(workers, photographs, tmp_path, cache_folder):
    data = tmp_path / "photos-c/fog/5"
    process = start(data, tmp_path, slow_after=6, workers=workers)
    wait_for(lambda: len(reads(tmp_path)) == 3 + workers)
    (log,) = cache_folder.glob(".*.blocks")
    wait_for(lambda: len(log.read_text().split("\n")) == 4)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not list(cache_folder.glob("*.npy"))
    (tmp_path / "reads.log").unlink()
    assert start(data, tmp_path).wait(60) == 0
    assert reads(tmp_path) == [6, 8, 10]
    found = domain_of(photographs)
    assert (found.opened()[:] == found.images[:]).all()
    left = {file.name for file in cache_folder.iterdir() if not file.name.endswith(".lock")}
    assert left == {found.path.name, found.path.with_suffix(".json").name}


def test_a_kept_block_that_is_damaged_is_decoded_again(photographs, tmp_path, cache_folder):
    data = tmp_path / "photos-c/fog/5"
    process = start(data, tmp_path, slow_after=6)
    wait_for(lambda: len(reads(tmp_path)) == 4)
    (log,) = cache_folder.glob(".*.blocks")
    wait_for(lambda: len(log.read_text().split("\n")) == 4)
    process.kill()
    process.wait(30)
    (partial,) = cache_folder.glob(".*.partial")
    with partial.open("r+b") as file:
        file.seek(128 + 3 * 32 * 32 * 3)
        file.write(b"torn")
    with log.open("a") as file:
        file.write('\n{"start": 6, "ima')
    (tmp_path / "reads.log").unlink()
    assert start(data, tmp_path).wait(60) == 0
    assert reads(tmp_path) == [2, 6, 8, 10]
    found = domain_of(photographs)
    assert (found.opened()[:] == found.images[:]).all()


@pytest.mark.parametrize("damage", ["cut", "no notes", "torn notes"])
def test_a_damaged_cache_is_built_again(damage, photographs):
    domain = domain_of(photographs)
    domain.build()
    notes = domain.path.with_suffix(".json")
    if damage == "cut":
        domain.path.write_bytes(domain.path.read_bytes()[:-1])
    elif damage == "no notes":
        notes.unlink()
    else:
        notes.write_text(notes.read_text()[:-5])
    assert domain.opened() is None
    assert isinstance(read(photographs), ImageFiles)
    assert (domain.build()[:] == domain.images[:]).all()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(photographs, monkeypatch, cache_folder):
    domain = domain_of(photographs)
    monkeypatch.setattr(decoded, "free_bytes", lambda folder: machine.reserved_bytes(folder) + domain.nbytes - 1)
    with pytest.raises(InputError, match=r"photos-c fog, severity 5 takes .* MiB, but the disk .*TTA_GRID_CACHE"):
        domain.build()
    assert not list(cache_folder.glob("*.npy"))
    assert not list(cache_folder.glob(".*.partial"))
    monkeypatch.setattr(decoded, "free_bytes", lambda folder: machine.reserved_bytes(folder) + domain.nbytes)
    domain.build()


def test_free_space_is_that_of_the_disk_of_a_folder_to_come(tmp_path):
    found = os.statvfs(tmp_path)
    free = machine.free_bytes(tmp_path / "not/yet")
    assert free == pytest.approx(found.f_bavail * found.f_frsize, rel=0.2)


def test_a_disk_that_fills_up_is_an_error_and_keeps_what_is_done(photographs, monkeypatch, cache_folder):
    domain = domain_of(photographs)
    pwrite, writes = os.pwrite, []

    def full(descriptor, content, offset):
        writes.append(offset)
        if len(writes) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, content, offset)

    monkeypatch.setattr(decoded.os, "pwrite", full)
    with pytest.raises(InputError, match=r"No space left on device; 6 of 12 images are done and are kept.*TTA_GRID"):
        domain.build()
    assert domain.opened() is None
    monkeypatch.setattr(decoded.os, "pwrite", pwrite)
    told = []
    assert (domain.build(progress=lambda done, total: told.append(done))[:] == domain.images[:]).all()
    assert told[0] == 6


def test_a_write_that_takes_a_part_only_is_continued(photographs, monkeypatch):
    domain = domain_of(photographs)
    pwrite = os.pwrite
    monkeypatch.setattr(decoded.os, "pwrite", lambda fd, content, offset: pwrite(fd, bytes(content)[:1000], offset))
    assert (domain.build()[:] == domain.images[:]).all()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_not_be_written_to_is_an_error_only_if_it_has_to_be(photographs, cache_folder):
    domain_of(photographs).build()
    cache_folder.chmod(0o555)
    try:
        assert isinstance(read(photographs), DecodedImages)
        with pytest.raises(InputError, match="Set TTA_GRID_CACHE"):
            domain_of(photographs, "snow").build()
    finally:
        cache_folder.chmod(0o755)


def test_a_cell_ends_the_same_with_and_without_the_cache(photographs, colour_vit, monkeypatch, cache_folder):
    config = RunConfig.from_values(
        {"method": "tent", "backbone": "colour-vit", "benchmark": "photos-c", "diagnostics": "none", "batch_size": 5}
    )
    plain = tta_core.run(config, device="cpu")
    monkeypatch.setenv("TTA_GRID_DECODE_CACHE", "1")
    cached = tta_core.run(config, device="cpu")
    assert len(list(cache_folder.glob("*.npy"))) == 2
    assert isinstance(load_domains(config, ["fog"])[0].images, DecodedImages)
    assert plain.cell == cached.cell
    for name, values in plain.samples.items():
        np.testing.assert_array_equal(values, cached.samples[name])


def test_notes_name_what_is_in_the_array(photographs, tmp_path):
    (tmp_path / "photos-c/fog/5/n02/image_1.JPEG").write_bytes(b"")
    domain = domain_of(photographs)
    domain.build()
    notes = json.loads(domain.path.with_suffix(".json").read_text())
    assert notes == {"images": 12, "damaged": {"5": "the file is empty"}}
