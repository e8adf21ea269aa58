"""`tta-grid data corrupt`: output, exit statuses, messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from grid.commands.main import main


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (48, 40), (40 * number, 90, 200)).save(folder / f"{number}.jpg")
    return folder


def corrupted(*options: object) -> Result:
    return CliRunner().invoke(main, ["data", "corrupt", *map(str, options)])


def test_it_says_what_it_makes_and_makes_it(photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "made"
    options = ("--images", photos, "--to", target, "--corruptions", "fog,held-out", "--severity", 2, "--size", 32)
    only_said = corrupted(*options, "--plan")
    assert only_said.exit_code == 0
    assert not target.exists()
    done = corrupted(*options)
    assert done.exit_code == 0
    for text in ("2 images of", ", 32x32 pixels", "5 corruptions at severities 2;", "seed 0; cpu", "2 of 2 images"):
        assert text in done.output, text
    made = {path.name for path in target.iterdir()}
    assert made == {"fog", "speckle_noise", "spatter", "gaussian_blur", "saturate", "generated.json"}
    assert Image.open(target / "fog/2/0.jpg").size == (32, 32)


def test_a_damaged_image_is_named_with_status_1(photos: Path, tmp_path: Path) -> None:
    (photos / "1.jpg").write_bytes(b"no image")
    done = corrupted("--images", photos, "--to", tmp_path / "made", "--corruptions", "fog")
    assert done.exit_code == 1
    assert "1 images cannot be used, nothing was made of them: 1.jpg (not a known kind of image)" in done.output
    assert (tmp_path / "made/fog/5/0.jpg").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give BENCHMARK, such as imagenet-c-gen; or --images and --to"),
        (("imagenet-c-gen", "--images", "x", "--to", "y"), "give BENCHMARK"),
        (("--images", "x"), "--images and --to"),
        (("imagenet-c-gen", "--size", 64), "--size is for --images"),
        (("imagenet-c",), "the images of imagenet-c are not made here: give one of imagenet-c-gen"),
        (("imagenet-c-gne",), "Did you mean 'imagenet-c-gen'?"),
        (("imagenet-c-gen", "--strengths", "cifar"), "imagenet-c-gen has the strengths 'imagenet'"),
        (("imagenet-c-gen", "--corruptions", "fogg"), "Did you mean 'fog'?"),
    ],
)
def test_wrong_input_is_said_with_status_2(
    options: tuple[object, ...], message: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wnid = photos / "imagenet/val/n01440764"
    wnid.mkdir(parents=True)
    Image.new("RGB", (256, 256)).save(wnid / "1.JPEG")
    monkeypatch.setenv("TTA_GRID_DATA", str(photos))
    done = corrupted(*options)
    assert done.exit_code == 2
    assert message in done.output
