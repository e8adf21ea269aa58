"""What the report was made to answer, in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Rows = Mapping[str, list[dict[str, Any]]]
"""The rows of every section."""

LARGEST_MOETTA_RATIO = 2.15
LEAST_BUSY = 0.9
LARGEST_BF16_LOSS = 0.1


class Goal(NamedTuple):
    """One question, what was found, and whether it is as it should be; None if it was not measured."""

    question: str
    found: str
    kept: bool | None


def goals(rows: Rows) -> list[Goal]:
    """Answers from the rows of all sections."""
    agree = [row["agrees"] for row in rows["agreement"] if row.get("agrees") is not None]
    waits = [row["waits_as_declared"] for row in rows["agreement"] if "waits_as_declared" in row]
    busy = [row["busy"] for row in rows["feeding"] if "busy" in row]
    lost = [row["bf16_loss_points"] for row in rows["cells"] if "bf16_loss_points" in row]
    return [
        _all("presets that compute what the CPU does", agree),
        _all("presets whose steps wait no more than declared", waits),
        *(_moetta(rows[name], name) for name in ("bf16", "compiled")),
        _extreme(f"least share of time busy, at least {LEAST_BUSY}", busy, min, lambda found: found >= LEAST_BUSY),
        _extreme(
            f"points of accuracy that bf16 costs, at most {LARGEST_BF16_LOSS}",
            *(lost, max, lambda found: found <= LARGEST_BF16_LOSS),
        ),
    ]


def _all(question: str, each: list[bool]) -> Goal:
    return Goal(question, f"{sum(each)} of {len(each)}", all(each) if each else None)


def _moetta(rows: list[dict[str, Any]], section: str) -> Goal:
    ratios = [row["ratio"] for row in rows if row.get("method") == "moetta" and row.get("ratio") is not None]
    question = f"moetta's step in source forwards, {section}, at most {LARGEST_MOETTA_RATIO}"
    return _extreme(question, ratios, max, lambda found: found <= LARGEST_MOETTA_RATIO)


def _extreme(
    question: str,
    values: list[float],
    worst: Callable[[Iterable[float]], float],
    kept: Callable[[float], bool],
) -> Goal:
    return Goal(question, f"{worst(values):.3g}", kept(worst(values))) if values else Goal(question, "", None)
