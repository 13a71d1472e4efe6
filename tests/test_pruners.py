"""Which trials are pruned: by the mean over seeds, never after the last seed, and not by one lucky evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from scipy.stats import wilcoxon
from tuning import REGISTRY, small

from pgzoo import ConfigError
from pgzoo.tuning.metrics import Metric, Point
from pgzoo.tuning.objective import Objective
from pgzoo.tuning.pruners import SEED_VALUES, SeedWilcoxon
from pgzoo.tuning.trial import OnEvaluation
from pgzoo.tuning.trial_queue import claim


def curves(monkeypatch: pytest.MonkeyPatch, values: Sequence[Sequence[Sequence[float]]]) -> None:
    """Let the trainings of a study have these values, by trial, seed and evaluation, instead of learning."""
    trainings = iter([curve for trial in values for curve in trial])

    def train(self: Any, trial: Any, config: Any, seed: int, on_evaluation: OnEvaluation) -> list[Point]:
        curve = next(trainings)
        points = [Point(100 * (i + 1), float(i), value) for i, value in enumerate(curve)]
        for n in range(1, len(points) + 1):
            on_evaluation(points[:n], [])
        return points

    monkeypatch.setattr("pgzoo.tuning.objective.as_data", lambda points, evaluations: len(points))
    monkeypatch.setattr(Objective, "_train", train)


def states(values: Sequence[Sequence[Sequence[float]]], tmp_path: Path, monkeypatch: Any, **changes: Any) -> list[str]:
    """Return how the trials of a study with these values end, and after how many evaluations."""
    curves(monkeypatch, values)
    study_config = small(
        plugins=("a2c",), n_timesteps=400, n_evaluations=4, n_startup_trials=2, defaults=False, **changes
    )
    study = optuna.create_study(direction="maximize", pruner=study_config.make_pruner())
    planned = study_config.planned_trials(len(values), REGISTRY)
    ends = []
    for _ in values:
        trial = claim(study, planned, study_config.make_sampler)
        assert trial is not None
        try:
            value = Objective(study_config, planned, REGISTRY, tmp_path, "cpu", lambda: None)(trial)
            study.tell(trial, value)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
            ends.append(f"pruned after {len(study.trials[-1].intermediate_values)}")
        else:
            ends.append("complete")
    return ends


def test_one_lucky_evaluation_does_not_protect_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """450 once, then 10. Optuna's median pruner compares the best value so far, and keeps it."""
    steady = [[100.0, 150.0, 200.0, 250.0]]
    lucky = [[450.0, 10.0, 10.0, 10.0]]
    assert states([steady, steady, steady, lucky], tmp_path, monkeypatch, pruner="median") == [
        "complete", "complete", "complete", "pruned after 2",
    ]  # fmt: skip


def test_the_median_is_that_of_the_mean_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first seed of 450 makes a mean of 230 with a second one of 10, which is above 200: the trial is complete."""
    steady = [[200.0] * 4] * 2
    assert states([steady, steady, [[450.0] * 4, [10.0] * 4]], tmp_path, monkeypatch, pruner="median", n_seeds=2) == (
        ["complete"] * 3
    )


@pytest.mark.parametrize("pruner", ["median", "hyperband", "halving"])
def test_nothing_is_pruned_after_its_last_evaluation(pruner: str, tmp_path: Path, monkeypatch: Any) -> None:
    good, late = [[100.0] * 4], [[100.0, 100.0, 100.0, 0.0]]
    assert states([good, good, good, late], tmp_path, monkeypatch, pruner=pruner)[-1] == "complete"


def test_five_seeds_are_pruned_after_four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With four pairs that are all worse, p = 1/16 < 0.1; with three it is 1/8."""
    good, bad = [[100.0 + i] * 4 for i in range(5)], [[10.0 + i] * 4 for i in range(4)]
    ends = states([good, bad], tmp_path, monkeypatch, pruner="wilcoxon", n_seeds=5)
    assert ends == ["complete", "pruned after 16"]


def wilcoxon_says(values: Any, best: Any, direction: Any) -> bool:
    study = optuna.create_study(direction=direction)
    study.add_trial(create_trial(value=float(np.mean(best)), user_attrs={SEED_VALUES: list(best)}))
    trial = create_trial(state=TrialState.RUNNING, user_attrs={SEED_VALUES: list(values)})
    return SeedWilcoxon(n_seeds=8).prune(study, trial)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_test_of_seeds_is_scipys(direction: str) -> None:
    rng, sign = np.random.default_rng(0), 1 if direction == "maximize" else -1
    decisions = set()
    for _ in range(40):
        best, values = sign * rng.normal(1.0, 1.0, 8), sign * rng.normal(0.3, 1.0, 6)
        expected = wilcoxon(best[:6], values, alternative="greater" if sign > 0 else "less").pvalue < 0.1
        assert wilcoxon_says(values, best, direction) == expected
        decisions.add(bool(expected))
    assert decisions == {True, False}
    assert not wilcoxon_says([-9.0 * sign] * 8, [1.0 * sign] * 8, direction)  # after its last seed


@pytest.mark.parametrize("n_seeds", [1, 3, 4])
def test_too_few_seeds_for_wilcoxon_are_refused(n_seeds: int) -> None:
    with pytest.raises(ConfigError, match="the Wilcoxon pruner needs 5 or more seeds per trial"):
        small(pruner="wilcoxon", n_seeds=n_seeds).check()


def test_a_metric_in_progress_is_charged_for_the_whole_training() -> None:
    """Finds a report of `steps_to` that falls as long as the target is not reached."""
    metric = Metric("steps_to", 100.0)
    points = [Point(100 * (i + 1), 0.0, value) for i, value in enumerate([0.0, 25.0, 50.0, 75.0])]
    charges = [metric(points[: n + 1], (n + 1) / 4) for n in range(4)]
    assert charges == [800, 700, 600, 500]
