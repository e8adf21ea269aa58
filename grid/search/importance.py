"""How much of the spread of a study's values each setting explains. Imports optuna."""

from __future__ import annotations

import warnings

import optuna

from grid.search.study import Study

LEAST_TRIALS = 20
"""Complete trials below which a share would be noise."""


def importance(study: Study) -> dict[str, float]:
    """Setting -> its share by PED-ANOVA; empty of few trials, or if there is one setting only."""
    complete = [trial for trial in study.trials if trial.state == "complete"]
    if len(complete) < LEAST_TRIALS or len(study.plan.space) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of what is experimental in Optuna.
        try:
            return optuna.importance.get_param_importances(
                study.mirror,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                target=(lambda trial: trial.values[0]) if len(study.plan.search.objectives) > 1 else None,
            )
        except (ValueError, RuntimeError):
            return {}  # All values are equal.
