"""The queue of a launch: order, retries, batches of a source that looks at results."""

import pytest

from grid.launch.queue import CellQueue


class Batches:
    """A source that gives one batch after the other, each when the one before has ended."""

    def __init__(self, *batches):
        self.batches = [{cell: f"config of {cell}" for cell in batch} for batch in batches]
        self.asked = []

    def next(self, states):
        self.asked.append(dict(states))
        return next((batch for batch in self.batches if not batch.keys() <= states.keys()), {})


def take_all(queue):
    taken = []
    while (found := queue.take()) is not None:
        taken.append(found[0])
    return taken


def test_cells_come_in_order_each_once():
    queue = CellQueue(Batches("abc"), {})
    assert queue.take() == ("a", "config of a")
    assert not queue.done
    assert take_all(queue) == ["b", "c"]
    for cell in "abc":
        assert not queue.done
        queue.end(cell, "done")
        assert queue.take() is None
    assert queue.done


def test_finished_cells_are_left_out_and_those_that_failed_before_are_not():
    queue = CellQueue(Batches("abc"), {"a": "done", "b": "failed", "x": "done"})
    assert take_all(queue) == ["b", "c"]


def test_a_source_that_has_nothing_is_done():
    queue = CellQueue(Batches("a"), {"a": "done"})
    assert queue.take() is None
    assert queue.done


def test_the_next_batch_waits_for_the_results_of_this_one():
    source = Batches("ab", "cd")
    queue = CellQueue(source, {"x": "done"})
    assert take_all(queue) == ["a", "b"]
    queue.end("a", "done")
    assert queue.take() is None
    assert not queue.done
    queue.end("b", "failed")
    assert take_all(queue) == ["c", "d"]
    assert {"x": "done", "a": "done", "b": "failed"} in source.asked
    queue.end("c", "done")
    queue.end("d", "done")
    assert queue.take() is None
    assert queue.done


def test_a_source_is_not_asked_again_before_a_cell_ended():
    source = Batches("a")
    queue = CellQueue(source, {})
    for _ in range(4):
        queue.take()
    assert len(source.asked) == 2


def test_cells_that_died_come_back_behind_the_others_so_many_times():
    queue = CellQueue(Batches("abc"), {}, max_retries=2)
    assert [queue.take()[0], queue.take()[0]] == ["a", "b"]
    assert queue.retry("a")
    assert take_all(queue) == ["c", "a"]
    assert queue.retry("a")
    assert queue.take()[0] == "a"
    assert not queue.retry("a")
    queue.end("a", "failed")
    assert queue.retry("b")
    assert not queue.done
    assert queue.take()[0] == "b"


@pytest.mark.parametrize("ends", [lambda queue: queue.end("a", "done"), lambda queue: queue.retry("a")])
def test_no_more_cells_run_at_once_than_may(ends):
    queue = CellQueue(Batches("abc"), {}, max_retries=1, max_concurrent=2)
    assert take_all(queue) == ["a", "b"]
    ends(queue)
    assert take_all(queue) == ["c"]
