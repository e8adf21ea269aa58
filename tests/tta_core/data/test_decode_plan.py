"""The command that decodes a benchmark once."""

import os
import shutil
import threading

import filelock
import pytest
from click.testing import CliRunner

from grid.commands.main import main
from tests.tta_core.opening import trial_images
from tta_core import machine
from tta_core.backbones.table import BACKBONES
from tta_core.data.files import decoded
from tta_core.data.files.decoded import DecodedImages
from tta_core.run.config import RunConfig
from tta_core.run.images import load_domains
from tta_core.streams.batches import gather


@pytest.fixture
def command(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "cache"))
    return lambda *words: CliRunner().invoke(main, ["data", "cache", "photos-c", "--image-size", "32", *words])


def cached(tmp_path):
    return sorted(file.name.rpartition("-")[0] for file in (tmp_path / "cache/decoded").glob("*.npy"))


def test_the_size_is_said_and_the_reported_domains_are_decoded(command, photographs, tmp_path):
    planned = command("--plan")
    assert planned.exit_code == 0
    assert "2 domains, 24 images of 32x32 pixels, 0.1 MiB decoded" in planned.output
    assert "0 are there, 2 to decode: 0.1 MiB" in planned.output
    assert not (tmp_path / "cache/decoded").exists()
    built = command()
    assert built.exit_code == 0
    assert "photos-c fog, severity 5: 12 of 12 images" in built.stderr
    assert cached(tmp_path) == ["photos-c-v1-fog-5-center-32", "photos-c-v1-snow-5-center-32"]
    found = trial_images(photographs, "fog", 5, data_seed=0, crop="center", image_size=32)[0]
    assert isinstance(found, DecodedImages)
    assert "2 are there, 0 to decode: 0.0 MiB" in command().output


def test_domains_severities_and_crop_are_chosen(command, tmp_path):
    done = command("--domains", "fog,clean", "--severity", "1", "--severity", "3", "--crop", "resize-center")
    assert done.exit_code == 0, done.output
    assert cached(tmp_path) == [
        "photos-c-v1-clean-0-resize-center-32",
        "photos-c-v1-fog-1-resize-center-32",
        "photos-c-v1-fog-3-resize-center-32",
    ]


def test_the_crop_and_the_size_of_a_backbone(command, tmp_path, colour_vit, monkeypatch):
    monkeypatch.setitem(BACKBONES, colour_vit.name, colour_vit.model_copy(update={"crop_pct": 0.9}))
    done = CliRunner().invoke(
        main, ["data", "cache", "photos-c", "--domains", "clean", "--crop", "backbone", "--backbone", colour_vit.name]
    )
    assert done.exit_code == 0, done.output
    assert cached(tmp_path) == ["photos-c-v1-clean-0-backbone-35-bicubic-32"]


def test_what_is_here_of_a_domain_is_decoded_and_the_rest_is_counted(command, colour_vit, tmp_path):
    shutil.rmtree(tmp_path / "photos-c/fog/5/n03")
    listed = tmp_path / "listed.txt"
    listed.write_text("n02/image_3.JPEG\nn01/image_0.JPEG\n")
    values = {"method": "source", "benchmark": "photos-c", "backbone": colour_vit.name, "subset_file": str(listed)}
    config = RunConfig.from_values(values | {"domains": ["fog"]})
    plain = gather(load_domains(config, ["fog"]), config.order(), 0, 2)
    done = command("--domains", "fog")
    assert done.exit_code == 0
    assert "photos-c fog, severity 5: 8 of 12 images are here\ntta-grid data verify says what" in done.output
    (domain,) = load_domains(config, ["fog"])
    assert isinstance(domain.images.images, DecodedImages)
    for found, expected in zip(gather([domain], config.order(), 0, 2), plain, strict=True):
        assert (found == expected).all()


def test_domains_that_are_here_are_named_where_others_are_missing(command, tmp_path):
    shutil.rmtree(tmp_path / "photos-c/fog")
    done = command()
    assert done.exit_code == 2
    assert "to decode what is here: --domains snow. The folder" in done.output + done.stderr


def test_damaged_images_are_named_and_the_rest_is_there(command, tmp_path):
    (tmp_path / "photos-c/fog/5/n02/image_1.JPEG").write_bytes(b"\xff\xd8\xff")
    for _ in range(2):
        done = command()
        assert done.exit_code == 1
        assert "photos-c fog, severity 5: 1 damaged images: " in done.stderr
        assert "n02/image_1.JPEG" in done.stderr
    assert len(cached(tmp_path)) == 2


def test_a_link_that_leads_nowhere_is_named(command, tmp_path):
    file = tmp_path / "photos-c/fog/5/n02/image_1.JPEG"
    file.unlink()
    file.symlink_to(tmp_path / "gone.JPEG")
    done = command()
    assert done.exit_code == 2
    assert f"{file} cannot be read (No such file or directory): restore it" in done.output + done.stderr


def test_a_small_disk_keeps_a_share_free(tmp_path, monkeypatch):
    disk = os.statvfs(tmp_path)
    size = disk.f_blocks * disk.f_frsize
    assert machine.reserved_bytes(tmp_path / "none") == min(machine.RESERVE_BYTES, int(0.05 * size))
    monkeypatch.setattr(machine, "RESERVE_BYTES", size)
    assert machine.reserved_bytes(tmp_path) == int(0.05 * size)


def test_an_interrupted_build_says_that_it_goes_on(command, monkeypatch):
    def interrupted(self, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(decoded.DecodedDomain, "build", interrupted)
        done = command()
    assert done.exit_code == 130
    assert "interrupted; what is decoded is kept. Go on with the same command." in done.stderr
    assert command().exit_code == 0


def test_waiting_for_another_process_is_said(command, tmp_path):
    command("--plan")
    assert command("--domains", "snow").exit_code == 0
    (kept,) = (tmp_path / "cache/decoded").glob("*.npy")
    lock = filelock.FileLock(kept.with_name(f".{kept.name}.lock"), thread_local=False)
    kept.unlink()
    lock.acquire()
    threading.Timer(0.5, lock.release, {"force": True}).start()
    done = command("--domains", "snow")
    assert done.exit_code == 0
    assert "photos-c snow, severity 5: another process decodes it, waiting" in done.stderr


def test_all_domains_must_fit_before_the_first_is_begun(command, tmp_path, monkeypatch):
    one = 12 * 32 * 32 * 3 + 128
    monkeypatch.setattr(decoded, "free_bytes", lambda folder: machine.reserved_bytes(folder) + 2 * one - 1)
    done = command()
    assert done.exit_code == 2
    assert "decoding 2 domains takes 0.1 MiB, but the disk of" in done.output + done.stderr
    assert not (tmp_path / "cache/decoded").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--domains", "fgo"], "fog"),
        (["--severity", "9"], "severity 9 is not one of [1, 2, 3, 4, 5]"),
        (["--crop", "centre"], "center"),
        (["--crop", "backbone"], "--crop backbone is the crop of one backbone: give --backbone NAME too"),
        (["--crop", "backbone", "--backbone", "digits-vit-mae"], "digits-vit-mae has none of its own: give another"),
        (["--crop", "backbone", "--backbone", "resnet50.tv_in1k"], "is for 224 pixels: leave --image-size out"),
        (["--backbone", "resnet50"], "backbone 'resnet50' names an architecture"),
        (["--root", "/nowhere"], "TTA_GRID_DATA = /nowhere is no folder"),
        (["--domains", "held-out"], "cannot be read (No such file or directory), and there is no"),
    ],
)
def test_what_is_wrong_is_one_message(words, message, command):
    done = command(*words)
    assert done.exit_code == 2
    assert message in done.output + done.stderr


def test_benchmarks_without_image_files_have_nothing_to_decode():
    done = CliRunner().invoke(main, ["data", "cache", "digits-c"])
    assert done.exit_code == 2
    assert "gaussian_noise of digits-c has no image files to decode" in done.output + done.stderr
