"""What one cell does: its configuration, what it reads, its loop and its result.

`tta_core.run` is also the function that runs a cell, see `tta_core.run.cell.run`: this package can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Run(ModuleType):
    """Lets `tta_core.run(config)` mean the function, whichever module of the package was imported before."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Runs one cell, see `tta_core.run.cell.run`."""
        from tta_core.run.cell import run

        return run(*arguments, **options)


sys.modules[__name__].__class__ = _Run
