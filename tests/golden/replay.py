"""Replays golden cases with our methods: `python -m tests.golden.replay PATH...`.

A PATH is a folder of cases or a file of one. For each case and precision it prints the largest absolute difference of
the logits at every step and at the end, the tolerance that applies, and PASS or FAIL; exit status 1 if any fails.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.golden.case import Case
from tests.golden.follower import Comparison, Follower
from tta_core.errors import InputError


def find_followers() -> dict[str, type[Follower]]:
    """The `method` of a manifest -> who follows its cases: the FOLLOWERS of each module in `tests/golden/methods`."""
    found: dict[str, type[Follower]] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).with_name("methods"))]):
        found |= importlib.import_module(f"tests.golden.methods.{module.name}").FOLLOWERS
    return found


FOLLOWERS = find_followers()

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@dataclass
class Outcome:
    """How a replay of one case in one precision went.

    Attributes:
        logits: the logits of every step, or what the follower says is scored, beside the published ones.
        failed: the first failed comparison of each other quantity, with its step.
    """

    logits: list[Comparison] = field(default_factory=list)
    failed: dict[str, tuple[int, Comparison]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether everything is within its tolerance."""
        return not self.failed and all(comparison.holds for comparison in self.logits)


def replay(case: Case, dtype: torch.dtype) -> Outcome:
    """Takes all steps of a case and compares each.

    Raises:
        InputError: if the case's options cannot be translated.
    """
    follower = FOLLOWERS[case.followed_as](case, dtype)
    published = case.expected(follower.scored, dtype)
    assert published is not None, "the case has no run in this precision"
    outcome = Outcome()
    for step in range(len(published)):
        scored = follower.step(step)
        outcome.logits.append(Comparison(follower.scored, scored, published[step], follower.tolerance))
        for comparison in follower.internals(step):
            if not comparison.holds:
                outcome.failed.setdefault(comparison.quantity, (step, comparison))
    return outcome


def precisions(case: Case) -> list[str]:
    """The precisions that a case has a run in."""
    scored = FOLLOWERS[case.followed_as].scored
    return [precision for precision, dtype in PRECISIONS.items() if case.expected(scored, dtype) is not None]


def find_cases(paths: Iterable[str]) -> Iterator[Path]:
    """The manifests that the paths name: each a folder, a `.json` or a `.npz`.

    Raises:
        InputError: for a path that holds no case.
    """
    for text in paths:
        path = Path(text)
        found = sorted(path.glob("*.json")) if path.is_dir() else [path.with_suffix(".json")]
        found = [manifest for manifest in found if manifest.is_file() and manifest.with_suffix(".npz").is_file()]
        if not found:
            raise InputError(f"no golden case at {text}: give a folder with NAME.json and NAME.npz, or one such file")
        yield from found


def describe(case: Case, precision: str, outcome: Outcome) -> str:
    """The lines that are printed for one replay."""
    differences = [comparison.difference for comparison in outcome.logits]
    lines = [
        f"{'PASS' if outcome.passed else 'FAIL'}  {case.name}  {precision}  tolerance {outcome.logits[0].tolerance:.1e}"
        f"  largest {max(differences):.1e}  at the end {differences[-1]:.1e}",
        f"      per step: {' '.join(f'{difference:.1e}' for difference in differences)}",
    ]
    for quantity, (step, comparison) in outcome.failed.items():
        lines.append(
            f"      {quantity} differs by {comparison.difference:.1e} at step {step} "
            f"(tolerance {comparison.tolerance:.1e})"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Replays what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.replay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folder of cases, or a file of one")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), help="only this one; by default all that are stored")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    try:
        manifests = list(find_cases(options.paths))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for manifest in manifests:
        case = Case.read(manifest)
        if case.followed_as not in FOLLOWERS:
            counts["skipped"] += 1
            print(f"SKIP  {case.name}  method {case.manifest['method']!r} is not implemented here")
            continue
        if not precisions(case):
            counts["failed"] += 1
            print(f"FAIL  {case.name}  it holds no {FOLLOWERS[case.followed_as].scored}, which our method scores")
        for precision in precisions(case):
            if options.precision not in (None, precision):
                continue
            try:
                outcome = replay(case, PRECISIONS[precision])
            except Exception as error:  # Whatever stops one case must not stop those that come after it.
                counts["failed"] += 1
                kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
                print(f"FAIL  {case.name}  {precision}  {kind}{error}")
                continue
            counts["passed" if outcome.passed else "failed"] += 1
            print(describe(case, precision, outcome), flush=True)
    print(", ".join(f"{number} {word}" for word, number in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
