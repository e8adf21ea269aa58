"""Ids, fingerprints, orders, keys, columns and options stay what they were, see `tests.invariants`.

A new method, backbone or sweep has lines of its own, which are none of what was pinned.
"""

import difflib

from tests.invariants import PINNED, lines


def subject(line):
    """What a line is about: the sweep of a cell, the method of an artefact, and so on."""
    return " ".join(line.split()[:2])


def test_nothing_that_results_hang_on_has_changed():
    pinned = PINNED.read_text().splitlines()
    known = set(map(subject, pinned))
    found = [line for line in lines() if subject(line) in known]
    changed = [line for line in difflib.unified_diff(pinned, found, n=0, lineterm="") if line[0] in "+-"]
    assert not changed, "\n".join(changed[:20])
