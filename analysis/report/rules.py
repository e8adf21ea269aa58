"""The table of what rules without labels lose against the best settings."""

from __future__ import annotations

import duckdb

from analysis.aggregate.rule_losses import LEAST_SETTINGS, REFERENCES, RuleLoss, rule_losses
from analysis.figures.table import Table, interval_text
from analysis.texts import NOT_AVAILABLE, cosine, percent, whole_percent

RULES_TITLE = "Accuracy lost by rules that choose settings"

RULES_NOTE = (
    f"Of each method with at least {LEAST_SETTINGS} settings on one stream a rule chooses one. Lost: accuracy of the "
    "best of these settings minus that of the chosen one, in percentage points. Mean over methods and streams, in each "
    "over seeds, with its 95 % Student-t interval; worst under any seed. No rule reads a label of the stream; held_out "
    "reads those of other corruptions. Of segmentation accuracy is mean IoU, and rules that read classes are left out."
)


def rule_table(con: duckdb.DuckDBPyConnection) -> Table | None:
    """One row a rule, the best first; None if no method ran with enough settings."""
    found = rule_losses(con)
    if not found:
        return None
    return Table(
        headers=("Rule", "Lost", "Its 95 % interval", "Worst", "Worst choices %", "Spearman", "Choices"),
        rows=tuple(_row(each) for each in found),
        numeric=(False, True, True, True, True, True, True),
        kinds=tuple("reference" if each.rule in REFERENCES else "" for each in found),
        notes=(RULES_NOTE,),
    )


def _row(each: RuleLoss) -> tuple[str, ...]:
    return (
        each.rule,
        percent(each.mean.mean),
        interval_text(each.mean, percent),
        percent(each.worst),
        NOT_AVAILABLE if each.worst_choices is None else whole_percent(each.worst_choices),
        cosine(each.correlation),
        str(each.pools),
    )
