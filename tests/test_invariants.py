"""Ids, fingerprints, orders, keys, columns and options stay what they were, see `tests.invariants`."""

import difflib

from tests.invariants import PINNED, lines


def test_nothing_that_results_hang_on_has_changed():
    found, pinned = list(lines()), PINNED.read_text().splitlines()
    changed = [line for line in difflib.unified_diff(pinned, found, n=0, lineterm="") if line[0] in "+-"]
    assert not changed, "\n".join(changed[:20])
