"""Pruners whose decisions are about the mean over seeds, not about one lucky evaluation."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

SEED_VALUES = "seed_values"
"""User attribute of a trial: the value of each seed that is finished."""


class LatestValue(BasePruner):
    """Shows a pruner a trial's latest value only. Optuna's pruners otherwise judge a trial by its best value so far.

    The values are means over the seeds so far, so one lucky evaluation of the first seed does not protect a trial.
    """

    def __init__(self, pruner: BasePruner) -> None:
        self._pruner = pruner

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether the trial should end."""
        step = trial.last_step
        if step is None:
            return False
        latest = copy.copy(trial)
        latest.intermediate_values = {step: trial.intermediate_values[step]}
        return self._pruner.prune(study, latest)


class SeedWilcoxon(BasePruner):
    """Ends a trial whose seeds are worse than the same seeds of the best trial.

    After each seed but the last, it takes a one-sided Wilcoxon signed-rank test of the paired differences, as
    `optuna.pruners.WilcoxonPruner` does over its steps. The steps of a study are evaluations, of which several belong
    to one seed and are not independent.
    """

    def __init__(self, n_seeds: int, p_threshold: float = 0.1) -> None:
        self._n_seeds, self._p_threshold = n_seeds, p_threshold

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether the trial should end."""
        complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        values: Sequence[float] = trial.user_attrs.get(SEED_VALUES, ())
        if not complete or not 1 < len(values) < self._n_seeds:
            return False
        best = study.best_trial.user_attrs[SEED_VALUES][: len(values)]
        return self._is_worse(np.subtract(values, best), study.direction)

    def _is_worse(self, differences: np.ndarray, direction: StudyDirection) -> bool:
        from scipy.stats import wilcoxon

        worse = "less" if direction == StudyDirection.MAXIMIZE else "greater"
        return bool(wilcoxon(differences, alternative=worse, zero_method="zsplit").pvalue < self._p_threshold)
