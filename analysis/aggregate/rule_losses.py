"""What rules without labels lose against the best of the settings that ran: over any results with several settings."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb
import numpy as np
from scipy.stats import spearmanr

from analysis import schema
from analysis.aggregate.estimates import Estimate, estimate
from analysis.aggregate.rules import RULES, Unlabelled, ensv, vote
from analysis.aggregate.unlabelled import read_unlabelled
from analysis.results.load import FINISHED, folder_of, rows
from analysis.results.protocols import domains_of, mapping, read_protocols, up_to_scoring
from analysis.vocabulary import CLEAN, DEFAULT, SOURCE

LEAST_SETTINGS = 5
"""Settings of a method on one stream below which there is little to choose from."""

NO_ADAPTATION = "no adaptation"
ANY = "a random setting"
PRESET = "the sweep's settings"
REFERENCES = (PRESET, ANY, NO_ADAPTATION)
"""What stands beside the rules in the table: no rules."""


_Judged = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cell among which a rule chooses; its accuracy is its score, of segmentation mean IoU."""

    cell: str
    settings: str
    accuracy: float
    samples: int


@dataclass(slots=True)
class Pool:
    """Settings of one method on one stream under one seed.

    Attributes:
        fingerprint, method, backbone, seed: what they share.
        candidates: by settings.
        scores: rule -> what it makes of each candidate; NaN of one that it cannot judge.
        source: accuracy without adaptation; None if it was not run.
        preset: number of the candidate with the sweep's own settings; None if there is none.
    """

    fingerprint: str
    method: str
    backbone: str
    seed: int
    candidates: list[Candidate]
    scores: dict[str, list[float]] = field(default_factory=dict)
    source: float | None = None
    preset: int | None = None

    @property
    def accuracies(self) -> list[float]:
        """Of the candidates, in [0, 1]."""
        return [each.accuracy for each in self.candidates]

    def losses(self) -> dict[str, float]:
        """Rule, or reference -> accuracy of the best candidate minus that of the chosen one; of equals the first."""
        best, found = max(self.accuracies), dict[str, float]()
        for rule, scores in self.scores.items():
            if not any(map(math.isnan, scores)):
                found[rule] = best - self.accuracies[int(np.argmax(scores))]
        found[ANY] = best - statistics.fmean(self.accuracies)
        if self.preset is not None:
            found[PRESET] = best - self.accuracies[self.preset]
        if self.source is not None:
            found[NO_ADAPTATION] = best - self.source
        return found


@dataclass(frozen=True, slots=True)
class RuleLoss:
    """What a rule loses.

    Attributes:
        rule: its name, or one of `REFERENCES`.
        mean: mean accuracy lost, over methods and streams, in [0, 1]; within each the mean over seeds.
        worst: the most that it lost under any seed.
        worst_choices: share of choices that were the worst of their pool; None of references.
        correlation: mean of Spearman's correlation of its scores with accuracy; None where it is not defined.
        pools: choices that it made.
    """

    rule: str
    mean: Estimate
    worst: float
    worst_choices: float | None
    correlation: float | None
    pools: int


def rule_losses(con: duckdb.DuckDBPyConnection) -> list[RuleLoss]:
    """What each rule loses, the best first; empty if no method ran with five settings on one stream.

    Args:
        con: connection from `open_results`.
    """
    pools = read_pools(con)
    names = [*dict.fromkeys(name for pool in pools for name in pool.losses())]
    found = [_rule_loss(name, pools) for name in names]
    return sorted(found, key=lambda each: (each.mean.mean, each.rule))


def _rule_loss(rule: str, pools: Sequence[Pool]) -> RuleLoss:
    lost: dict[tuple[str, str, str], list[float]] = {}
    worst_choices, correlations = list[bool](), list[float]()
    for pool in pools:
        losses = pool.losses()
        if rule not in losses:
            continue
        lost.setdefault((pool.fingerprint, pool.method, pool.backbone), []).append(losses[rule])
        if rule in pool.scores:
            worst_choices.append(pool.accuracies[int(np.argmax(pool.scores[rule]))] == min(pool.accuracies))
            if len(set(pool.scores[rule])) > 1 and len(set(pool.accuracies)) > 1:
                correlations.append(float(spearmanr(pool.scores[rule], pool.accuracies).statistic))
    return RuleLoss(
        rule=rule,
        mean=estimate([statistics.fmean(values) for values in lost.values()]),
        worst=max(max(values) for values in lost.values()),
        worst_choices=statistics.fmean(worst_choices) if worst_choices else None,
        correlation=statistics.fmean(correlations) if correlations else None,
        pools=sum(map(len, lost.values())),
    )


def read_pools(con: duckdb.DuckDBPyConnection) -> list[Pool]:
    """The pools of at least five settings, with the scores of all rules that can be applied."""
    found: dict[tuple[str, str, str, int], dict[str, Candidate]] = {}
    for fingerprint, method, backbone, seed, settings, *values in rows(
        con,
        f"""
        select fingerprint, method, backbone, seed, settings, cell, score, n_samples from cells
        where {FINISHED} and role in ('{schema.REPORTED}', '{schema.CANDIDATE}') and method <> '{SOURCE}'
            and isfinite(score)
        order by started_at, cell
        """,
    ):
        words = json.dumps(mapping(settings), sort_keys=True)
        key = (fingerprint, method, backbone, seed)
        found.setdefault(key, {})[words] = Candidate(values[0], words, values[1], values[2])
    pools = [
        Pool(*key, [candidates[words] for words in sorted(candidates)])
        for key, candidates in found.items()
        if len(candidates) >= LEAST_SETTINGS
    ]
    if not pools:
        return []
    sources, defaults, held_out = _Sources(con), _defaults(con), _held_out(con)
    for pool in pools:
        _score(pool, sources, held_out)
        own = [number for number, each in enumerate(pool.candidates) if each.cell in defaults]
        pool.preset = own[0] if own else None
    return pools


class _Sources:
    """The cells that adapt nothing: on the streams of others, and on clean images."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.folder = folder_of(con) / schema.CELLS_FOLDER
        self._protocols = read_protocols(con)
        self._streams: dict[tuple[str, int], tuple[str, float]] = {}
        self._clean: dict[str, tuple[int, str]] = {}
        for fingerprint, seed, cell, accuracy, samples in rows(
            con, f"select fingerprint, seed, cell, score, n_samples from cells where {FINISHED} "
            f"and method = '{SOURCE}' order by started_at, cell",
        ):  # fmt: skip
            protocol = self._protocols[fingerprint]
            self._streams[up_to_scoring(protocol), seed] = (cell, accuracy)
            if domains_of(protocol) == (CLEAN,):
                weights = self._weights(fingerprint)
                self._clean[weights] = max(self._clean.get(weights, (0, "")), (samples, cell))

    def on_stream(self, pool: Pool) -> tuple[Path | None, float | None]:
        """The source on a pool's stream, and its accuracy."""
        found = self._streams.get((up_to_scoring(self._protocols[pool.fingerprint]), pool.seed))
        return (None, None) if found is None else (self.folder / found[0], found[1])

    def on_clean(self, pool: Pool) -> Path | None:
        """The source on clean images, the longest such cell of the pool's weights."""
        found = self._clean.get(self._weights(pool.fingerprint))
        return None if found is None else self.folder / found[1]

    def stream_of(self, pool: Pool) -> str:
        """The name of a pool's stream."""
        return str(self._protocols[pool.fingerprint].get("stream", ""))

    def _weights(self, fingerprint: str) -> str:
        protocol = self._protocols[fingerprint]
        return json.dumps([protocol.get(name) for name in ("weights", "normalisation", "crop", "label_space")])


def _score(pool: Pool, sources: _Sources, held_out: Mapping[_Judged, float]) -> None:
    source, pool.source = sources.on_stream(pool)
    clean = sources.on_clean(pool)
    seen = [
        read_unlabelled(sources.folder / each.cell, classes=0, samples=each.samples, source=source, clean=clean)
        for each in pool.candidates
    ]
    seen = _with_classes(seen)
    has = {
        "": True,
        "prediction": all(each.prediction is not None for each in seen),
        "source": all(each.source is not None for each in seen),
        "clean": all(each.clean is not None for each in seen),
        "outputs": all(each.outputs is not None for each in seen),
    }
    pool.scores = {name: [rule.score(each) for each in seen] for name, rule in RULES.items() if has[rule.reads]}
    alike = len({each.position.tobytes() for each in seen}) == 1
    predictions = [each.prediction for each in seen if each.prediction is not None]
    if alike and has["prediction"]:
        others = [] if seen[0].source is None else [seen[0].source]
        pool.scores["vote"] = vote([*predictions, *others])[: len(seen)]
    kept = [each.outputs for each in seen if each.outputs is not None]
    if alike and has["outputs"] and len({each.positions.tobytes() for each in kept}) == 1:
        pool.scores["ensv"] = ensv(kept)
    judged = [(pool.method, pool.backbone, sources.stream_of(pool), each.settings) for each in pool.candidates]
    estimates = [held_out.get(key, math.nan) for key in judged]
    if not any(map(math.isnan, estimates)):
        pool.scores["held_out"] = estimates


def _with_classes(seen: Sequence[Unlabelled]) -> list[Unlabelled]:
    """The number of classes: as `outputs` have it, or the largest that any candidate predicts; 0 of segmentation."""
    largest = max((int(each.prediction.max()) + 1 for each in seen if each.prediction is not None), default=0)
    return [replace(each, classes=largest if each.outputs is None else len(each.outputs.mean)) for each in seen]


def _defaults(con: duckdb.DuckDBPyConnection) -> set[str]:
    """Cells with the settings of their sweep, where a search varied them."""
    chosen = rows(con, f"select distinct unnest(cells) from selections where rule = '{DEFAULT}' and current")
    return {cell for (cell,) in chosen}


def _held_out(con: duckdb.DuckDBPyConnection) -> dict[_Judged, float]:
    """Method, backbone, stream and settings -> mean accuracy on the held-out cells of complete trials."""
    found: dict[_Judged, list[float]] = {}
    for method, backbone, stream, settings, accuracy in rows(
        con,
        f"""
        select method, backbone, stream, settings, score from cells where {FINISHED} and cell in (
            select c.cell from trial_cells as c join trials as t using (study, trial) join studies as s using (study)
            where t.state = 'complete' and not s.oracle
        )
        """,
    ):
        key = (method, backbone, stream, json.dumps(mapping(settings), sort_keys=True))
        found.setdefault(key, []).append(accuracy)
    return {key: statistics.fmean(values) for key, values in found.items()}
