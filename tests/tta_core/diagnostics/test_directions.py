"""Cosines between what domains do."""

import math

import numpy as np
import pytest
import torch

from tta_core.diagnostics.directions import Directions, cosines, entries, pairs


def directions(*given):
    made = Directions()
    for domain, first, second in given:
        made.add(domain, {"a": torch.tensor(first), "b": torch.tensor(second)})
    return made


def test_whole_vectors_are_the_layers_end_to_end():
    made = directions(("fog", [1.0, 0.0], [2.0]), ("snow", [0.0, 1.0], [2.0]), ("frost", [-1.0, 0.0], [-2.0]))
    products = made.products()
    assert made.domains == ["fog", "snow", "frost"]
    assert products["a"].tolist() == [[1, 0, -1], [0, 1, 0], [-1, 0, 1]]
    whole = cosines(products[""])
    # (1, 0, 2), (0, 1, 2) and (-1, 0, -2).
    assert whole == pytest.approx(np.array([[1, 0.8, -1], [0.8, 1, -0.8], [-1, -0.8, 1]]))
    assert pairs(whole).tolist() == pytest.approx([0.8, -1, -0.8])


def test_a_domain_that_comes_back_counts_with_the_mean_of_its_segments():
    made = directions(("fog", [1.0, 0.0], [0.0]), ("snow", [1.0, 1.0], [0.0]), ("fog", [1.0, 2.0], [0.0]))
    assert made.domains == ["fog", "snow"]
    assert cosines(made.products()["a"]) == pytest.approx(np.ones((2, 2)))
    assert np.diag(made.products()["a"]).tolist() == pytest.approx([2, 2])


def test_a_vector_of_length_zero_has_no_cosine():
    made = directions(("fog", [0.0, 0.0], [0.0]), ("snow", [1.0, 1.0], [1.0]), ("frost", [1.0, 1.0], [1.0]))
    matrix = cosines(made.products()["a"])
    assert np.isnan(matrix[0]).all()
    assert matrix[1, 2] == pytest.approx(1)
    assert len(pairs(matrix)) == 1


def test_entries_name_both_domains_and_one_domain_alone_has_none():
    assert list(entries(["fog", "snow"], np.array([[1.0, 0.5], [0.5, 1.0]]))) == [
        ("fog", "fog", 1.0),
        ("fog", "snow", 0.5),
        ("snow", "fog", 0.5),
        ("snow", "snow", 1.0),
    ]
    assert list(entries(["fog"], np.array([[math.nan]]))) == []
