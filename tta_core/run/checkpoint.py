"""Saves a run in mid-stream, so that a killed one goes on where it was, bit for bit.

The file holds tensors, plain values and the few record types that are named here: it is read with
`torch.load(weights_only=True)`, which executes nothing that is in it.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LAYOUT = 3
"""What is where in a checkpoint; raise it with every change of what `state_dict` of anything in it gives."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often a run saves itself.

    Attributes:
        file: the file that each checkpoint replaces, by one rename.
        every: batches from one checkpoint to the next; 0 for none.
        identity: what must be the same in the run that goes on, such as the cell's id; another run's file is left alone
            and not read.
        saved: called after each save.
    """

    file: Path
    every: int
    identity: str
    saved: Callable[[], object] | None = None

    def due(self, step: int) -> bool:
        """Whether the run saves itself after this batch, counted from 0."""
        return self.every > 0 and (step + 1) % self.every == 0

    def save(self, state: Mapping[str, Any]) -> None:
        """Replaces the file; whoever is killed meanwhile leaves the one before it.

        Raises:
            OSError: if it cannot be written, such as to a full disk.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name(f".{self.file.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as opened:
                torch.save({"identity": self.identity, "layout": LAYOUT, **state}, opened)
                opened.flush()
                os.fsync(opened.fileno())
            partial.replace(self.file)
            if self.saved:
                self.saved()
        except RuntimeError as error:
            # So torch.save ends where the system takes no more bytes.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        finally:
            partial.unlink(missing_ok=True)

    def load(self, types: Iterable[type]) -> dict[str, Any] | None:
        """Reads the last checkpoint.

        Args:
            types: record types that may be in it beside tensors and plain values.

        Returns:
            What `save` was given; None if there is no file, or it is damaged, of another run or of another layout.
        """
        try:
            with torch.serialization.safe_globals([slice, *types]):
                state: dict[str, Any] = torch.load(self.file, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        if state.get("identity") != self.identity:
            return None
        if state.get("layout") != LAYOUT:
            log.warning("%s was written by another version of this program: the run starts at the beginning", self.file)
            return None
        return state


def discard(file: Path) -> None:
    """Removes a checkpoint, and what runs that were killed while they wrote it left behind."""
    file.unlink(missing_ok=True)
    for left in file.parent.glob(f".{file.name}.*.partial"):
        left.unlink(missing_ok=True)
