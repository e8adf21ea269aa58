"""Pictures of segmentation: kept by option, in the cell's folder and in the page."""

import io

import numpy as np
import pytest
from PIL import Image

from analysis.report.report import render
from analysis.results.checks import check_results
from analysis.results.load import open_results
from analysis.schema import TILES
from grid.store.store import ResultStore
from tests.tta_core.run.conftest import SMALL_SCENES
from tta_core.diagnostics.pictures import BETTER, EACH, GAP, HIDDEN, RIGHT, WORSE, WRONG, _tiles, colours
from tta_core.errors import InputError
from tta_core.run import cell as runner
from tta_core.run.config import RunConfig

SMALL = SMALL_SCENES | {"samples_per_domain": 4, "method": "tent"}


pytestmark = pytest.mark.usefixtures("tiny_scenes")


def test_by_option_a_handful_of_each_domain_stands_in_the_cell_and_the_page(tmp_path):
    store = ResultStore(tmp_path)
    store.create()
    plain = runner.run(SMALL)
    shown = runner.run(SMALL | {"diagnostics": ["pictures"]})
    assert plain.pictures == ()
    np.testing.assert_array_equal(plain.samples["intersection"], shown.samples["intersection"])
    assert [(one.domain, one.index) for one in shown.pictures] == [(d, n) for d in ("fog", "night") for n in (0, 2, 3)]
    assert len(shown.pictures) == 2 * EACH
    store.write_result(shown, sweep="scenes", git_commit="")
    files = sorted(store.cell_folder(shown.cell).glob("*.png"))
    assert [file.name for file in files] == [f"picture-{d}-00000{n}.png" for d in ("fog", "night") for n in (0, 2, 3)]
    with Image.open(files[0]) as opened:
        assert opened.size == (len(TILES) * 64 + (len(TILES) - 1) * GAP, 64)
    con = open_results(tmp_path)
    assert not check_results(con)
    page = render(con, "scenes")
    assert page.count("data:image/png;base64,") >= len(files)
    assert "input, label, source, adapted, difference" in page
    assert "night, image 3" in page


def test_a_picture_is_of_the_last_visit(monkeypatch):
    pictures = {}
    for rounds in (1, 2):
        result = runner.run(SMALL | {"rounds": rounds, "diagnostics": "pictures", "settings": {"lr": 0.05}})
        pictures[rounds] = np.asarray(Image.open(io.BytesIO(result.pictures[0].png)))
    starts = [(64 + GAP) * number for number in range(1, len(TILES))]
    tiles = {rounds: np.split(picture, starts, axis=1) for rounds, picture in pictures.items()}
    for number in range(3):  # What is there, and what the source says, do not change.
        assert np.array_equal(tiles[1][number], tiles[2][number])
    assert not np.array_equal(tiles[1][3], tiles[2][3])


def test_tiles_by_hand():
    label = np.array([[0, 1, 2, 1, 255]], np.uint8)
    source, adapted = np.array([[0, 2, 2, 2, 0]], np.uint8), np.array([[0, 1, 0, 0, 0]], np.uint8)
    image = np.zeros((2, 10, 3), np.uint8)
    tiles = _tiles(image, label, source, adapted, 3)
    assert [tile.shape for tile in tiles] == [(1, 5, 3)] * 5
    assert tiles[4][0].tolist() == [list(c) for c in (RIGHT, BETTER, WORSE, WRONG, HIDDEN)]
    assert len({tuple(c) for c in colours(19)[:19].tolist()}) == 19


def test_large_images_are_shown_small():
    label = np.zeros((540, 960), np.uint8)
    tiles = _tiles(np.zeros((540, 960, 3), np.uint8), label, label, label, 19)
    assert tiles[0].shape == (135, 240, 3)


def test_they_are_of_segmentation_alone():
    assert "pictures" not in RunConfig.from_values(SMALL | {"diagnostics": "all"}).diagnostics
    with pytest.raises(InputError, match="pictures does not measure classification"):
        RunConfig.from_values({"method": "tent", "diagnostics": ["pictures"]})
