"""What cells need is looked for before anything runs."""

import shutil

import pytest

from tta_core.data.benchmarks import BENCHMARKS
from tta_core.errors import InputError
from tta_core.methods.spec import HELD_OUT_IMAGES, LABELLED_SOURCE_IMAGES, SOURCE_IMAGES
from tta_core.run.available import check_available
from tta_core.run.config import RunConfig


def config(**values):
    return RunConfig.from_values({"method": "source", "backbone": "colour-vit", "benchmark": "photos-c", **values})


def test_what_is_here_passes(photographs, arrays, colour_vit):
    shipped = RunConfig.from_values({"method": "source"})
    check_available([shipped, config(), config(stream="gradual"), config(benchmark="tiny10-c")])


def test_shipped_benchmarks_need_nothing(monkeypatch):
    monkeypatch.delenv("TTA_GRID_DATA", raising=False)
    monkeypatch.delenv("TTA_GRID_WEIGHTS", raising=False)
    check_available([RunConfig.from_values({"method": "source", "stream": "gradual"})])


def test_each_severity_that_a_stream_visits_is_looked_for(photographs, colour_vit, tmp_path):
    shutil.rmtree(tmp_path / "photos-c/snow/2")
    check_available([config()])
    with pytest.raises(InputError, match="photos-c/snow/2 cannot be read"):
        check_available([config(), config(stream="gradual")])


def test_all_domains_that_are_missing_are_named(photographs, colour_vit, tmp_path):
    for domain in ("snow", "fog"):
        shutil.rmtree(tmp_path / f"photos-c/{domain}/5")
    with pytest.raises(
        InputError, match=r"^2 domains are missing or not whole: fog, snow\. The folder .*fog/5 cannot be read"
    ):
        check_available([config()])


def test_clean_images_are_looked_for_where_something_asks_for_them(photographs, colour_vit, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "photos")
    check_available([config()])
    for observer in ("forgetting", "alignment"):
        with pytest.raises(InputError, match="photos/val cannot be read"):
            check_available([config(diagnostics=[observer])])
    monkeypatch.setattr(RunConfig, "needs", lambda self: (SOURCE_IMAGES,))
    with pytest.raises(InputError, match="photos/val cannot be read"):
        check_available([config()])


@pytest.mark.parametrize(
    ("need", "folder"), [(HELD_OUT_IMAGES, "photos-c/spatter/5"), (LABELLED_SOURCE_IMAGES, "photos/train")]
)
def test_what_a_method_needs_beyond_the_stream_is_looked_for(need, folder, photographs, colour_vit, monkeypatch):
    monkeypatch.setitem(
        BENCHMARKS, photographs.name, photographs.model_copy(update={"training_folder": "photos/train"})
    )
    check_available([config()])
    monkeypatch.setattr(RunConfig, "needs", lambda self: (need,))
    with pytest.raises(InputError, match=f"{folder} cannot be read"):
        check_available([config()])


def test_weights_are_looked_for(photographs, colour_vit, tmp_path):
    (tmp_path / "weights/colour_vit.safetensors").unlink()
    with pytest.raises(InputError, match=r"weights of colour-vit are not here: .*Put colour_vit.safetensors or "):
        check_available([config()])
