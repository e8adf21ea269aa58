"""What unlabelled outcomes say of settings: one number a cell, larger for settings that should be chosen.

p_i are the probabilities of sample i of N, of K classes, y_i its prediction, h_i its entropy in nat, c_i its
confidence. No rule reads a label of the stream. Those that read `outputs` need cells that ran that observer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WINDOW = 500
"""Least samples of a window of `infomax_hard_worst`; five for each class if that is more."""

TEMPERATURE = 0.05
"""Of the similarities of `snd`, as in soft neighbourhood density."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the observer `outputs` kept of the probabilities.

    Attributes:
        mean: `(K,)`, the mean of p_i over the stream.
        gram: `(K, K)`, the mean of p_i p_i'.
        positions: places in the stream of the samples whose probabilities were kept, rising.
        probabilities: `(len(positions), K)`.
    """

    mean: Floats
    gram: Floats
    positions: NDArray[np.int64]
    probabilities: Floats


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """The outcome of a stream without its labels: columns `(N,)`, in stream order.

    Attributes:
        position: place in the stream.
        prediction: predicted class; None of segmentation.
        confidence: largest probability.
        entropy: in nat.
        classes: K.
        samples: N of the whole stream, also of images that were skipped.
        outputs: what was kept of the probabilities; None of a cell without the observer.
        source: predictions of the network that nobody adapts, on the same samples; None if it was not run.
        clean: confidence of that network on clean images, and whether it is right there; None if it was not run.
    """

    position: NDArray[np.int64]
    prediction: NDArray[np.int32] | None
    confidence: NDArray[np.float32]
    entropy: NDArray[np.float32]
    classes: int
    samples: int
    outputs: Outputs | None = None
    source: NDArray[np.int32] | None = None
    clean: tuple[NDArray[np.float32], NDArray[np.bool_]] | None = None


def entropy_of(shares: Floats) -> float:
    """Entropy of shares that sum to one, in nat."""
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def _predicted(of: Unlabelled) -> NDArray[np.int32]:
    assert of.prediction is not None
    return of.prediction


def _infomax_hard(prediction: NDArray[np.int32], entropy: NDArray[np.float32], classes: int) -> float:
    shares = np.bincount(prediction, minlength=classes) / len(prediction)
    return entropy_of(shares) - float(entropy.mean(dtype=np.float64))


def _infomax_hard_worst(of: Unlabelled) -> float:
    """The last window takes what is left over."""
    size = max(WINDOW, 5 * of.classes)
    prediction = _predicted(of)
    count = max(1, len(prediction) // size)
    starts = [size * number for number in range(count)]
    stops = [*starts[1:], len(prediction)]
    return min(
        _infomax_hard(prediction[start:stop], of.entropy[start:stop], of.classes)
        for start, stop in zip(starts, stops, strict=True)
    )


def _kept(of: Unlabelled) -> Outputs:
    assert of.outputs is not None
    return of.outputs


def _nuclear(of: Unlabelled) -> float:
    """The nuclear norm of the matrix of all p_i, as a share of the largest that is possible."""
    values = np.linalg.eigvalsh(_kept(of).gram).clip(min=0)
    return float(np.sqrt(values).sum() / np.sqrt(min(of.samples, of.classes)))


def _corr_c(of: Unlabelled) -> float:
    gram = _kept(of).gram
    return float(np.trace(gram) / (np.sqrt(of.classes) * np.linalg.norm(gram)))


def _snd(of: Unlabelled) -> float:
    """Soft neighbourhood density: the mean entropy of the softmax of similarities to all other kept samples."""
    kept = _kept(of).probabilities
    directions = kept / np.linalg.norm(kept, axis=1, keepdims=True)
    similar = directions @ directions.T / TEMPERATURE
    np.fill_diagonal(similar, -np.inf)
    similar -= similar.max(axis=1, keepdims=True)
    weights = np.exp(similar)
    total = weights.sum(axis=1, keepdims=True)
    np.fill_diagonal(similar, 0.0)
    return float((np.log(total[:, 0]) - (weights * similar).sum(axis=1) / total[:, 0]).mean())


def _atc(of: Unlabelled) -> float:
    """The share of samples above the confidence below which the source's error on clean images lies."""
    assert of.clean is not None
    confidence, right = of.clean
    threshold = np.quantile(confidence, 1 - right.mean(dtype=np.float64))
    return float((of.confidence > threshold).mean())


def _agreement_source(of: Unlabelled) -> float:
    assert of.source is not None
    return float((_predicted(of) == of.source).mean())


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that looks at one cell at a time.

    Attributes:
        score: what it makes of the cell.
        chance: what it makes of K classes where the network guesses: what a cell counts that diverged.
        reads: `outputs`, `source`, `clean` or `prediction`, if it needs more than confidence and entropy of samples.
    """

    score: Callable[[Unlabelled], float]
    chance: Callable[[int], float]
    reads: str = ""


RULES: Mapping[str, Rule] = {
    "entropy": Rule(lambda of: -float(of.entropy.mean(dtype=np.float64)), lambda k: -float(np.log(k))),
    "confidence": Rule(lambda of: float(of.confidence.mean(dtype=np.float64)), lambda k: 1 / k),
    "infomax_hard": Rule(
        lambda of: _infomax_hard(_predicted(of), of.entropy, of.classes), lambda k: -float(np.log(k)), "prediction"
    ),
    "infomax_hard_worst": Rule(_infomax_hard_worst, lambda k: -float(np.log(k)), "prediction"),
    "infomax": Rule(
        lambda of: entropy_of(_kept(of).mean) - float(of.entropy.mean(dtype=np.float64)), lambda _: 0.0, "outputs"
    ),
    "corr_c": Rule(_corr_c, lambda k: 1 / float(np.sqrt(k)), "outputs"),
    "nuclear": Rule(_nuclear, lambda k: 1 / float(k), "outputs"),
    "snd": Rule(_snd, lambda _: 0.0, "outputs"),
    "agreement_source": Rule(_agreement_source, lambda k: 1 / k, "source"),
    "atc": Rule(_atc, lambda _: 0.0, "clean"),
}
"""Name -> rule, all maximised. `vote` and `ensv` below look at all settings of a method together."""


def vote(of: Sequence[NDArray[np.int32]]) -> list[float]:
    """For each row of predictions `(N,)`: its share of predictions that are those of most rows; of equals the least."""
    table = np.stack(list(of))
    classes = int(table.max()) + 1
    most = np.zeros(table.shape[1], dtype=table.dtype)
    best = np.zeros(table.shape[1], dtype=np.int64)
    for each in range(classes):
        count = (table == each).sum(axis=0)
        most, best = np.where(count > best, each, most), np.maximum(count, best)
    return [float((row == most).mean()) for row in table]


def ensv(of: Sequence[Outputs]) -> list[float]:
    """For each setting: the share of kept samples whose class is that of the mean of all settings' probabilities."""
    wanted = np.mean([each.probabilities for each in of], axis=0).argmax(axis=1)
    return [float((each.probabilities.argmax(axis=1) == wanted).mean()) for each in of]
