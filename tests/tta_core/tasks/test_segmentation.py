"""Counts of pixels, and what they are worth."""

import numpy as np
import pytest
import torch

from tta_core.tasks.segmentation import Segmentation

TASK = Segmentation()


def logits_of(prediction, classes):
    """Logits whose largest is the predicted class, `(batch, classes, height, width)`."""
    return 5.0 * torch.nn.functional.one_hot(torch.tensor(prediction), classes).permute(0, 3, 1, 2).float()


def columns(prediction, labels, classes=4):
    found = TASK.outcomes(logits_of(prediction, classes), torch.tensor(labels, dtype=torch.uint8))
    samples = {name: values.numpy() for name, values in found.items()}
    return samples | {"segment": np.zeros(len(labels), int), "domain": np.full(len(labels), "fog")}


def test_counts_and_scores_of_an_example_by_hand():
    # Class 2 is labelled and never predicted, class 3 is neither; one pixel is not scored.
    samples = columns([[[0, 0, 1], [1, 1, 3]]], [[[0, 1, 1], [1, 2, 255]]])
    assert samples["intersection"].tolist() == [[1, 2, 0, 0]]
    assert samples["predicted"].tolist() == [[2, 3, 0, 0]]
    assert samples["labelled"].tolist() == [[1, 3, 1, 0]]
    assert samples["intersection"].dtype == np.int64
    scores = TASK.scores(samples)
    assert scores.score == pytest.approx((1 / 2 + 2 / 4 + 0) / 3)
    assert scores.accuracy == pytest.approx(3 / 5)
    assert scores.class_accuracy == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_two_images_are_scored_as_one_side_by_side():
    prediction, labels = [[[0, 0]], [[1, 0]]], [[[0, 1]], [[1, 1]]]
    together = TASK.scores(columns(prediction, labels)).score
    beside = TASK.scores(columns([[[0, 0, 1, 0]]], [[[0, 1, 1, 1]]])).score
    alone = [TASK.scores(columns(prediction[i : i + 1], labels[i : i + 1])).score for i in range(2)]
    assert together == pytest.approx(beside)
    assert together != pytest.approx(np.mean(alone))


def test_segments_are_averaged():
    samples = columns([[[0, 0]], [[1, 0]]], [[[0, 1]], [[1, 1]]]) | {"segment": np.array([0, 1])}
    assert TASK.scores(samples).score == pytest.approx((1 / 4 + 1 / 4) / 2)


def test_logits_are_enlarged_to_the_labels():
    logits = torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 8, 12, dtype=torch.uint8)
    found = TASK.outcomes(logits, labels)
    assert found["labelled"].tolist() == [[96, 0, 0]]
    assert int(found["predicted"].sum()) == 96


def test_an_image_without_labels_is_finite():
    found = TASK.outcomes(torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 255, dtype=torch.uint8))
    assert int(found["predicted"].sum()) == 0
    assert torch.isfinite(found["entropy"]).all()
