"""Settings of `source`: none."""

from __future__ import annotations

from tta_core.frozen import Frozen
from tta_core.methods.spec import MethodSpec


class SourceSettings(Frozen):
    """The source network has nothing to set."""


SPEC = MethodSpec(
    name="source",
    title="the pre-trained network as it is, no adaptation",
    paper="the reference of every table, also called NoAdapt",
    changes="nothing",
    implementation="Source",
    settings=SourceSettings,
    presets={"digits-c": {}, "official": {}, "paper": {}},
    relative_cost=1.0,
    trains=False,
)
