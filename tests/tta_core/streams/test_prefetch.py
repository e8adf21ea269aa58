"""Reading ahead: in order, bounded, errors where they belong, and no thread left behind."""

import threading
import time

import numpy as np
import pytest

import tta_core
from tta_core.errors import InputError
from tta_core.run import cell as runner
from tta_core.run.checkpoint import Checkpoints
from tta_core.run.config import RunConfig
from tta_core.streams.prefetch import prefetched


def threads():
    return [each.name for each in threading.enumerate() if each.name.startswith(("prefetch", "decode"))]


@pytest.mark.parametrize("workers", [1, 4])
def test_items_come_in_order_with_few_begun_ahead(workers):
    begun = []

    def load(item):
        begun.append(item)
        time.sleep(0.002 * (item % 3))
        return item * item

    with prefetched(load, range(20), threads=workers) as coming:
        for number, (item, value) in enumerate(coming):
            assert (item, value) == (number, number**2)
            assert len(begun) <= number + 2 + workers
    assert len(begun) == 20
    assert not threads()


def test_an_error_comes_at_its_turn_with_its_message_and_ends_the_threads():
    def load(item):
        if item == 3:
            raise InputError("the image three is damaged")
        return item

    seen = []

    def go_through():
        with prefetched(load, range(10), threads=2) as coming:
            seen.extend(item for item, _ in coming)

    with pytest.raises(InputError, match="the image three is damaged"):
        go_through()
    assert seen == [] or seen == [0, 1, 2]
    assert not threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_ends_the_loop_ends_the_threads(error):
    def leave():
        with prefetched(lambda item: item, range(1000), threads=3) as coming:
            for item, _ in coming:
                if item == 5:
                    raise error

    with pytest.raises(error):
        leave()
    assert not threads()


def config(**values):
    given = {"method": "tent", "backbone": "colour-vit", "benchmark": "photos-c", "diagnostics": "none"}
    return RunConfig.from_values(given | {"batch_size": 5} | values)


def test_a_damaged_image_ends_the_cell_and_its_threads(photographs, colour_vit, tmp_path):
    (tmp_path / "photos-c/snow/5/n03/image_3.JPEG").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InputError, match=r"snow/5/n03/image_3.JPEG cannot be decoded"):
        tta_core.run(config(), device="cpu")
    assert not threads()


@pytest.fixture(params=["files", "cache"])
def stored(request, monkeypatch, tmp_path):
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TTA_GRID_DECODE_CACHE", "1" if request.param == "cache" else "0")


def test_a_skipped_image_moves_no_other(photographs, colour_vit, tmp_path, stored):
    whole = tta_core.run(config(method="source"), device="cpu")
    file = tmp_path / "photos-c/snow/5/n03/image_3.JPEG"
    file.write_bytes(file.read_bytes()[:300])
    found = tta_core.run(config(method="source"), device="cpu", corrupt_images="skip")
    (skipped,) = found.skipped
    assert skipped.startswith(f"snow: {file} (")
    assert found.n_samples == whole.n_samples == 24
    assert found.cell == whole.cell
    assert found.stream_order == whole.stream_order
    gone = (whole.samples["domain"] == "snow") & (whole.samples["index"] == 11)
    assert gone.sum() == 1
    for name, values in whole.samples.items():
        if name in ("confidence", "entropy"):  # Of a smaller batch, to the last digits.
            np.testing.assert_allclose(found.samples[name], values[~gone], rtol=1e-5)
        else:
            np.testing.assert_array_equal(found.samples[name], values[~gone])
    assert found.batches["samples_seen"][-1] == 23
    assert not threads()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batches_without_any_image_left_are_steps_that_do_nothing(batch_size, photographs, colour_vit, tmp_path):
    for number in range(4):
        (tmp_path / f"photos-c/fog/5/n01/image_{number}.JPEG").write_bytes(b"")
    made = config(stream="single", domains=["fog"], batch_size=batch_size, diagnostics="auto", diagnostics_every=2)
    found = tta_core.run(made, device="cpu", corrupt_images="skip")
    assert len(found.skipped) == 4
    assert len(found.samples["position"]) == 8
    assert len(found.batches["step"]) == 12 // batch_size
    assert sorted(set(found.samples["label"])) == [1, 2]


def test_a_stream_of_damaged_images_only_is_an_error(photographs, colour_vit, tmp_path):
    for file in (tmp_path / "photos-c/fog/5").rglob("*.JPEG"):
        file.write_bytes(b"no image")
    with pytest.raises(InputError, match="all 12 images of the stream are damaged"):
        tta_core.run(config(domains=["fog"]), device="cpu", corrupt_images="skip")


class Killed(BaseException):
    """Stands in for a signal."""


def test_a_run_that_skips_is_resumed_with_the_same_bits(photographs, colour_vit, tmp_path, monkeypatch):
    for name in ("fog/5/n01/image_0", "snow/5/n02/image_1", "fog/5/n03/image_2"):
        (tmp_path / f"photos-c/{name}.JPEG").write_bytes(b"\xff\xd8")
    whole = tta_core.run(config(), device="cpu", corrupt_images="skip")
    save, left = Checkpoints.save, [3]

    def and_die(self, state):
        save(self, state)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", and_die)
    options = {"device": "cpu", "corrupt_images": "skip", "checkpoint_file": tmp_path / "c.pt", "checkpoint_every": 1}
    with pytest.raises(Killed):
        runner.run(config(), **options)
    assert not threads()
    resumed = runner.run(config(), **options)
    assert resumed.skipped == whole.skipped
    for name, values in whole.samples.items():
        np.testing.assert_array_equal(resumed.samples[name], values)
    for name, values in whole.batches.items():
        np.testing.assert_array_equal(resumed.batches[name], values)
