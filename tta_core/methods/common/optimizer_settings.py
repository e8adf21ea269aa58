"""The settings of an online optimizer, for the data models of methods. Imports no torch; `optim.py` makes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tta_core.frozen import Frozen


def _below_one(given: tuple[float, float]) -> tuple[float, float]:
    if not all(0 <= beta < 1 for beta in given):
        raise ValueError(f"{list(given)}: both must be at least 0 and below 1")
    return given


Betas = Annotated[tuple[float, float], AfterValidator(_below_one)]
"""Decay of the running moments of Adam and of what is made like it."""


class OptimizerSettings(Frozen):
    """An optimizer without weight decay, clipping or schedule.

    Attributes:
        optimizer: SGD or Adam.
        lr: learning rate; it is not scaled with the batch size.
        momentum: of SGD.
        nesterov: whether the momentum of SGD is Nesterov's.
        betas: of Adam.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    betas: Betas = (0.9, 0.999)
