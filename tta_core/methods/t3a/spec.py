"""Settings, presets and search ranges of T3A."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from tta_core.frozen import Frozen
from tta_core.methods.spec import Choice, MethodSpec, ScalarSpec


class T3ASettings(Frozen):
    """Settings of T3A.

    Attributes:
        filter_k: supports that a class keeps, those of the lowest entropy; -1 keeps all. Of ImageNet and ViT-B each
            takes 3 MiB.
        drops_last: with -1, whether each class loses its least certain support at every step, the only one too, as the
            release does; what went still takes memory.
        row_class: the class that a row of the classifier supports: its `own`, or the one that the classifier predicts
            for it, as released (`predicted`), which leaves some classes without support at first.
        unit_prototypes: whether the mean of a class's supports is scaled to length 1, as released. The mean itself, as
            in the paper, is shorter the more its supports are scattered, and with it the class's logits.
    """

    filter_k: int = Field(default=20, ge=-1)
    drops_last: bool = False
    row_class: Literal["own", "predicted"] = "own"
    unit_prototypes: bool = True

    @field_validator("filter_k")
    @classmethod
    def _keeps_some(cls, given: int) -> int:
        if given == 0:
            raise ValueError("0 supports make no prototype: give at least 1, or -1 for all")
        return given


_RELEASED = {"row_class": "predicted"}

SPEC = MethodSpec(
    name="t3a",
    title="class prototypes adjusted with samples of low entropy, nothing trained",
    paper="Iwasawa and Matsuo, Test-Time Classifier Adjustment Module for Model-Agnostic Domain Generalization, "
    "NeurIPS 2021",
    changes="puts prototypes in place of the linear classifier; the network is not changed",
    not_for_pixels="it adjusts prototypes in the classifier of whole images",
    implementation="T3A",
    version=2,
    traces=("matsuolab/T3A ff8cde5",),
    tables={
        "foa": "FOA's table (56.9) and Benchmark-TTA, ViT on ImageNet-C",
    },
    settings=T3ASettings,
    presets={
        # The authors choose filter_k for each benchmark, see `search`; there is no one published value.
        "official": _RELEASED,
        "official-unfiltered": _RELEASED | {"filter_k": -1, "drops_last": True},
        "paper": {"unit_prototypes": False},
        "unfiltered": {"filter_k": -1},
        # FOA's and MoETTA's tables, and Benchmark-TTA.
        "foa": _RELEASED | {"filter_k": 20},
        # Chosen on the held-out corruptions: tta_core.run with method t3a, domains held-out, severity 4,
        # samples_per_domain 256, streams mixed and single, over filter_k 1 to 100 and -1 with both kinds of prototypes
        # (seed 0) and from 20 on with unit ones (seeds 0 to 2).
        "digits-c": {"filter_k": 100},
    },
    # Those that the authors choose among.
    search={"filter_k": Choice(values=(1, 5, 20, 50, 100, -1))},
    scalars={
        "supports": ScalarSpec(description="supports of all classes after the step, the classifier's rows among them"),
        "changed": ScalarSpec(description="samples that got another class than from the source network"),
    },
    # A batch goes into the supports before it is predicted.
    scores="post-update",
    relative_cost=1.05,
    trains=False,
    starts_at_source=False,
)
