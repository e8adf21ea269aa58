"""A run that was killed in mid-stream goes on and ends with the same bits."""

import numpy as np
import pytest
import torch

from tests.states import equal
from tta_core.backbones.table import backbone_spec
from tta_core.methods.registry import methods
from tta_core.run import cell as runner
from tta_core.run.checkpoint import Checkpoints, discard
from tta_core.run.config import RunConfig

SMALL = {
    "preset": "digits-c",
    "severity": 4,
    "samples_per_domain": 8,
    "domains": ["fog", "contrast"],
    "batch_size": 2,
    "diagnostics_every": 2,
}
BACKBONES = {"batch-norm": "digits-resnet-supervised"}


class Killed(BaseException):
    """Stands in for a signal that no process can catch."""


@pytest.fixture
def kill_after(monkeypatch):
    """Lets a run die right after it has saved itself a number of times."""
    save = Checkpoints.save

    def arrange(saves):
        left = [saves]

        def and_die(self, state):
            save(self, state)
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        monkeypatch.setattr(Checkpoints, "save", and_die)

    return arrange


@pytest.fixture
def final_states(monkeypatch):
    """Collects the state of each method at the end of its stream."""
    found = []
    run_stream = runner.run_stream

    def watched(method, *arguments, **options):
        record = run_stream(method, *arguments, **options)
        found.append(method.state_dict())
        return record

    monkeypatch.setattr(runner, "run_stream", watched)
    return found


def values(method, **changes):
    backbone = BACKBONES.get(methods()[method].network, "digits-vit-supervised")
    return {"method": method, "backbone": backbone, "settings": methods()[method].quick, **SMALL, **changes}


def assert_same_result(one, other):
    for name in ("samples", "batches"):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert ours.keys() == theirs.keys()
        for column in ours:
            assert ours[column].dtype == theirs[column].dtype
            np.testing.assert_array_equal(ours[column], theirs[column])
    assert one.measurements == other.measurements
    assert one.diagnostics == other.diagnostics
    assert (one.accuracy, one.stream_order) == (other.accuracy, other.stream_order)


@pytest.mark.parametrize(
    ("method", "stream", "diagnostics"),
    [
        *((method, "single", "none") for method in methods()),
        *(("moetta", "mixed", "all"), ("imse", "continual", "all"), ("moase", "single", "all")),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(method, stream, diagnostics, kill_after, final_states, tmp_path):
    given = values(method, stream=stream, diagnostics=diagnostics)
    uninterrupted = runner.run(given, device="cpu")
    file = tmp_path / "cell.pt"
    # In the second domain, of four batches each.
    kill_after(2)
    with pytest.raises(Killed):
        runner.run(given, device="cpu", checkpoint_file=file, checkpoint_every=3)
    assert file.exists()
    resumed = runner.run(given, device="cpu", checkpoint_file=file, checkpoint_every=3)
    assert_same_result(resumed, uninterrupted)
    assert equal(final_states[0], final_states[1])
    discard(file)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("deaths", [1, 3])
def test_it_may_be_killed_again_and_again(deaths, kill_after, tmp_path):
    given = values("moetta", stream="continual")
    uninterrupted = runner.run(given, device="cpu")
    for _ in range(deaths):
        kill_after(1)
        with pytest.raises(Killed):
            runner.run(given, device="cpu", checkpoint_file=tmp_path / "cell.pt", checkpoint_every=1)
    kill_after(0)
    resumed = runner.run(given, device="cpu", checkpoint_file=tmp_path / "cell.pt", checkpoint_every=1)
    assert_same_result(resumed, uninterrupted)


def test_a_resumed_run_does_only_the_steps_that_are_left(kill_after, tmp_path, monkeypatch):
    from tta_core.methods.tent.method import Tent

    steps = []
    step = Tent.step
    monkeypatch.setattr(Tent, "step", lambda self, images: steps.append(len(images)) or step(self, images))
    kill_after(1)
    with pytest.raises(Killed):
        runner.run(values("tent"), device="cpu", checkpoint_file=tmp_path / "cell.pt", checkpoint_every=6)
    assert len(steps) == 6
    result = runner.run(values("tent"), device="cpu", checkpoint_file=tmp_path / "cell.pt", checkpoint_every=6)
    assert len(steps) == 8
    assert len(result.batches["step"]) == 8


@pytest.mark.parametrize("damage", ["torn", "another cell", "pickle", "older layout"])
def test_a_file_that_is_no_checkpoint_of_this_cell_is_not_used(damage, kill_after, tmp_path, caplog):
    file = tmp_path / "cell.pt"
    kill_after(1)
    with pytest.raises(Killed):
        runner.run(values("tent", seed=int(damage == "another cell")), checkpoint_file=file, checkpoint_every=2)
    if damage == "torn":
        file.write_bytes(file.read_bytes()[:1000])
    if damage == "pickle":
        torch.save({"identity": RunConfig.from_values(values("tent")).cell_id(), "x": backbone_spec}, file)
    if damage == "older layout":
        saved = torch.load(file, weights_only=True)
        del saved["layout"]
        torch.save(saved | {"method": {"parameters": {}, "buffers": {}, "extra": {}}}, file)
    kill_after(0)
    assert_same_result(
        runner.run(values("tent"), device="cpu", checkpoint_file=file, checkpoint_every=2),
        runner.run(values("tent"), device="cpu"),
    )
    assert ("was written by another version of this program" in caplog.text) == (damage == "older layout")


def test_a_checkpoint_that_cannot_be_written_whole_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "cell.pt", 1, "a")
    checkpoints.save({"step": 1})

    def full(state, opened):
        opened.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OSError, match="no space"):
        checkpoints.save({"step": 2})
    assert checkpoints.load([])["step"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_seconds_and_memory_of_all_attempts_count(kill_after, tmp_path):
    kill_after(3)
    with pytest.raises(Killed):
        runner.run(values("tent"), device="cpu", checkpoint_file=tmp_path / "cell.pt", checkpoint_every=2)
    saved = Checkpoints(tmp_path / "cell.pt", 2, RunConfig.from_values(values("tent")).cell_id()).load([])
    kill_after(0)
    result = runner.run(values("tent"), device="cpu", checkpoint_file=tmp_path / "cell.pt", checkpoint_every=2)
    assert result.seconds > saved["meter"]["seconds"] > 0
    assert result.peak_memory_mib >= saved["meter"]["peak_memory_mib"] > 0
