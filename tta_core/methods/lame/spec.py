"""Settings, presets and search ranges of LAME."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.frozen import Frozen
from tta_core.methods.spec import Integer, MethodSpec, Real, ScalarSpec


class LAMESettings(Frozen):
    """Settings of LAME.

    Attributes:
        affinity: how alike two samples of a batch are, by their features, which are scaled to length 1: `knn`, 1 for
            each of the nearest neighbours of a sample and 0 for the others; `rbf`, a Gaussian of their distance;
            `linear`, their inner product.
        neighbours: of `knn`, how many; of `rbf`, the width of the Gaussian is the mean distance to that neighbour.
        symmetric: whether the affinities of two samples to each other are averaged. Those of `rbf` and `linear` are
            equal anyway.
        lambda_laplacian: weight of the agreement among neighbours.
        max_steps: iterations at most.
        tolerance: largest change of a probability at which the iteration has converged.
    """

    affinity: Literal["knn", "rbf", "linear"] = "knn"
    neighbours: int = Field(default=5, ge=1)
    symmetric: bool = False
    lambda_laplacian: float = Field(default=1.0, ge=0)
    max_steps: int = Field(default=100, ge=1)
    tolerance: float = Field(default=1e-6, ge=0)


SPEC = MethodSpec(
    name="lame",
    title="predictions of a batch made to agree among neighbours, nothing trained",
    paper="Boudiaf et al., Parameter-free Online Test-time Adaptation, CVPR 2022",
    changes="nothing: it corrects the predicted probabilities of a batch",
    implementation="LAME",
    settings=LAMESettings,
    presets={
        "official": {},
        "paper": {},
        # Chosen on the held-out corruptions: tta_core.run with method lame, domains held-out, severity 4,
        # samples_per_domain 256, streams mixed and single, over neighbours 1 to 10 and lambda_laplacian 0.03 to 1 (seed
        # 0) and four pairs of them (seeds 0 to 2). Neighbours in a shuffled batch say little: these leave the source's
        # accuracy as it is, the defaults lose two points.
        "digits-c": {"neighbours": 1, "lambda_laplacian": 0.1},
    },
    search={
        "neighbours": Integer(low=1, high=32),
        "lambda_laplacian": Real(low=0.01, high=10.0, log=True),
    },
    scalars={
        "iterations": ScalarSpec(description="iterations until the assignments converged"),
        "changed": ScalarSpec(description="samples that got another class than from the source network"),
    },
    # The assignment of a sample depends on the others of its batch.
    scores="post-update",
    relative_cost=1.05,
    trains=False,
    starts_at_source=False,
)
