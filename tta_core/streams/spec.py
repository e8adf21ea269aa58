"""What describes a stream. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.frozen import Frozen


class StreamSpec(Frozen):
    """An order in which the samples of a benchmark arrive.

    Attributes:
        reset: when the loop calls `reset()`: never, or at the start of each domain.
        severities: strengths at which each domain is visited one after the other; empty: once, at the cell's own.
        rounds: whether the domains come back round after round: `once`, no; `split`, with other images in each round;
            `same`, with the same images.
        needs: what the order is made from beyond the number of images, for people; empty if nothing.
        labels: whether that is the images' labels.
        settings: fields of the cell that only such streams have -> their defaults.
    """

    name: str
    title: str
    reset: Literal["never", "domain", "as the file says"]
    severities: tuple[int, ...] = ()
    rounds: Literal["once", "split", "same"] = "once"
    needs: str = ""
    labels: bool = False
    settings: dict[str, float | int | str] = Field(default_factory=dict)
