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
            each of the nearest neighbours of a sample and 0 for the others and itself; `rbf`, a Gaussian of their
            distance; `linear`, their inner product. With these two a sample agrees with itself too, as released.
        neighbours: of `knn`, how many; of `rbf`, the width of the Gaussian is the mean distance to that neighbour, the
            sample itself counted as the first.
        symmetric: whether the affinities of two samples to each other are averaged. Those of `rbf` and `linear` are
            equal anyway.
        lambda_laplacian: weight of the agreement among neighbours.
        max_steps: iterations at most.
        tolerance: change of the objective, as a share of it, at which the iteration has converged.
    """

    affinity: Literal["knn", "rbf", "linear"] = "knn"
    neighbours: int = Field(default=5, ge=1)
    symmetric: bool = True
    lambda_laplacian: float = Field(default=1.0, ge=0)
    max_steps: int = Field(default=100, ge=1)
    tolerance: float = Field(default=1e-8, ge=0)


_RELEASED = {"affinity": "rbf", "neighbours": 5, "symmetric": False}

SPEC = MethodSpec(
    name="lame",
    title="predictions of a batch made to agree among neighbours, nothing trained",
    paper="Boudiaf et al., Parameter-free Online Test-time Adaptation, CVPR 2022",
    changes="nothing: it corrects the predicted probabilities of a batch",
    not_for_pixels="it clusters the images of a batch, each with one class",
    implementation="LAME",
    version=2,
    traces=("fiveai/LAME d2e5f63", "mr-eggplant/FOA 004b02d"),
    tables={
        "official": "LAME's and mariodoebler's tables",
        "foa": "FOA's table (54.1)",
        "benchmark-tta": "Benchmark-TTA, ViT on ImageNet-C",
    },
    settings=LAMESettings,
    presets={
        # The release's default and its best configuration. On batches with all classes it collapses.
        "official": _RELEASED,
        # The text was not at hand; its tables come from the release.
        "paper": _RELEASED,
        # FOA's and MoETTA's tables; the default.
        "foa": {"affinity": "knn", "neighbours": 5, "symmetric": True},
        "benchmark-tta": {"affinity": "knn", "neighbours": 1, "symmetric": False},
        # Chosen on the held-out corruptions: tta_core.run with method lame, domains held-out, severity 4,
        # samples_per_domain 256, streams mixed and single, over neighbours 1 to 10 and lambda_laplacian 0.03 to 1 (seed
        # 0) and four pairs of them (seeds 0 to 2). Neighbours in a shuffled batch say little: these leave the source's
        # accuracy as it is, the defaults lose two points.
        "digits-c": {"neighbours": 1, "symmetric": False, "lambda_laplacian": 0.1},
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
