"""Retrainings and budgets of whole studies, with trainings that only have a value: the logarithm of the step size."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from tuning import REGISTRY, InProcessExecutor, small

from pgzoo import ConfigError
from pgzoo.cli.tune import command, definition_words
from pgzoo.tuning.config import StudyConfig, TuneConfig
from pgzoo.tuning.metrics import Point
from pgzoo.tuning.objective import Objective
from pgzoo.tuning.retrained import find_retrained, result, row
from pgzoo.tuning.run import tune
from pgzoo.tuning.studies import TuneArguments
from pgzoo.tuning.study import retrained_name
from pgzoo.tuning.trial_queue import KEY


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let a training return −|log₁₀ α + 2|, with noise by seed. "n" counts them, and each takes "seconds".

    In the search, later trials are better, so a study that continues has other best trials.
    """
    counter: dict[str, Any] = {"n": 0, "seconds": 0.0}

    def train(self: Any, trial: Any, config: Any, seed: int, on_evaluation: Any) -> list[Point]:
        counter["n"] += 1
        end = time.monotonic() + counter["seconds"]
        while time.monotonic() < end:
            self.check_stop()
            time.sleep(0.01)
        rate = config.combination.algorithm.learning_rate
        noise = np.random.default_rng(seed).normal(0, 0.01)
        bonus = 10 * trial.number if trial.user_attrs[KEY].isdecimal() else 0
        return [Point(400, 0.0, -abs(math.log10(rate) + 2) + noise + bonus)]

    monkeypatch.setattr(Objective, "_train", train)
    return counter


def run(tmp_path: Path, n: int, **changes: Any) -> tuple[optuna.Study, StudyConfig]:
    study_config = small(plugins=("a2c",), pruner="none")
    options = {"n_best": 2, "n_fresh": 3, **changes}
    tune_config = TuneConfig(storage=f"{tmp_path}/a.db", n_total=n, folder=tmp_path, **options)
    return tune(study_config, REGISTRY, tune_config, InProcessExecutor()), study_config


def test_a_continued_study_keeps_every_retraining(tmp_path: Path, trainings: dict[str, Any]) -> None:
    """Six trials, then ten. Finds candidates that are forgotten, trained twice, or left out of the count."""
    study, study_config = run(tmp_path, 6)
    before = find_retrained(study)
    assert len(before) == 3  # two trials and the default
    assert trainings["n"] == 6 + 3 * 3 + 2 * 3
    study, study_config = run(tmp_path, 10)
    after = find_retrained(study)
    assert [candidate.name for candidate in after] == [
        "trial 5", "trial 4", "default a2c", "trial 9", "trial 8",
    ]  # fmt: skip
    assert all(candidate.values == {c.name: c.values for c in after}[candidate.name] for candidate in before)
    found = result(after, study_config.parsed_metrics)
    assert found is not None
    assert found.n_candidates == len(after)
    assert len([row(candidate, after) for candidate in after]) == len(after)
    retrained = optuna.load_study(study_name=retrained_name(study.study_name), storage=f"sqlite:///{tmp_path}/a.db")
    pairs = [(trial.user_attrs["candidate"], trial.user_attrs["seed"]) for trial in retrained.trials]
    assert len(pairs) == len(set(pairs)) == trainings["n"] - 10


def test_more_fresh_seeds_are_added_to_those_of_before(tmp_path: Path, trainings: dict[str, Any]) -> None:
    run(tmp_path, 4, n_fresh=2)
    n = trainings["n"]
    study, _ = run(tmp_path, 4, n_fresh=3)
    assert trainings["n"] == n + 3 + 2  # a seed for each of three candidates, and for the winner and its default
    assert all(len(candidate.values) == 3 for candidate in find_retrained(study))


def test_a_deadline_holds_and_leaves_time_for_the_retrainings(tmp_path: Path, trainings: dict[str, Any]) -> None:
    trainings["seconds"] = 0.2
    began = time.monotonic()
    study, study_config = run(tmp_path, 10_000, n_fresh=2, n_best=1, timeout=8.0)
    assert time.monotonic() - began < 10
    found = result(find_retrained(study), study_config.parsed_metrics)
    assert found is not None
    assert 3 <= len(study.trials) < 40


def test_a_training_is_stopped_at_the_deadline(tmp_path: Path, trainings: dict[str, Any]) -> None:
    """The first trial alone would take a minute. It is queued again, and a command with more time trains it."""
    trainings["seconds"] = 60.0
    began = time.monotonic()
    run(tmp_path, 2, timeout=1.0)
    assert time.monotonic() - began < 20
    trainings["seconds"] = 0.0
    study, _ = run(tmp_path, 2)
    assert len(find_retrained(study)) >= 2


def test_the_options_that_define_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds an option that a continued study forgets, a limit that it keeps, and a path that only one folder has."""
    monkeypatch.chdir(tmp_path)
    given = (
        "--plugin gae --no-defaults --metric final --metric wall --conf-file a.yml -j 4 --n-trials 3 --seed 7 --fix a:1"
    )
    context = command.make_context("tune", [*given.split(), "--study-name", "mine"])
    expected = (
        f"--plugin gae --metric final --metric wall --seed 7 --no-defaults --conf-file {tmp_path}/a.yml --fix a:1"
    )
    words = definition_words(context)
    assert sorted(words) == sorted(expected.split())
    assert definition_words(command.make_context("tune", list(words))) == words


def arguments(**changes: Any) -> Any:
    """Return how a study of 400 steps per training is carried out."""
    return TuneArguments(plugin="a2c", n_timesteps=400, **changes).configs(REGISTRY, {}, {})[1]


def test_a_budget_includes_the_retrainings() -> None:
    """One recipe, the three best, five seeds: (3 + 1 + 2) · 5 = 30 retrainings."""
    assert arguments(max_trainings=100).n_total == 70
    assert arguments(max_trainings=100, seeds=2).n_total == 35
    assert arguments(max_steps=400 * 50).n_total == 20
    assert arguments(max_steps=400 * 50, best=0).n_total == 50
    assert arguments(max_trainings=100, n_trials=10).n_total == 10
    assert arguments().n_total == 50
    with pytest.raises(
        ConfigError, match=r"the budget allows 30 trainings, and a trial with the retrainings needs 1 \+ 30"
    ):
        arguments(max_trainings=30)
