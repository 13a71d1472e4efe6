"""The objectives of a study's trials: what a trial trains, and the numbers that it returns."""

from __future__ import annotations

import hashlib
import json
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from pgzoo.registry.plugins import Registry
from pgzoo.training.config import ExperimentConfig, config_from_entry, resolved_entry
from pgzoo.training.evaluation import Evaluation
from pgzoo.training.run_folder import PACKAGES, package_version, plain
from pgzoo.tuning.config import PlannedTrial, StudyConfig
from pgzoo.tuning.metrics import Metric, Point
from pgzoo.tuning.pruners import SEED_VALUES
from pgzoo.tuning.study import DEFAULT, IDENTITY
from pgzoo.tuning.trial import OnEvaluation, TrialRun, as_data, evaluations_due, train_once
from pgzoo.tuning.trial_queue import KEY, PlannedTrials

EVALUATIONS = "evaluations"
"""User attribute of a trial, followed by a colon and a seed: the evaluations of that training."""


@dataclass(frozen=True)
class Objective(ABC):
    """Trains a trial and returns its values, one per metric.

    Attributes:
        study_config: the study.
        planned: its planned trials.
        registry: the plugins.
        folder: where checkpoints are saved.
        device: where to train.
        check_stop: called after every step; what it raises ends the training.
    """

    study_config: StudyConfig
    planned: PlannedTrials
    registry: Registry
    folder: Path
    device: str
    check_stop: Callable[[], None]

    @abstractmethod
    def __call__(self, trial: optuna.Trial) -> list[float]:
        """Return the values of a trial."""

    def checkpoints(self, trial: optuna.Trial) -> Path:
        """Return the folder of a trial's checkpoints. A repeated trial has the same folder as the lost one."""
        return self.folder / str(trial.user_attrs[KEY]).replace("/", "-").replace(":", "-")

    def _planned_trial(self, trial: optuna.Trial) -> PlannedTrial:
        return self.planned[trial.user_attrs[KEY]]

    def _train(
        self, trial: optuna.Trial, config: ExperimentConfig, seed: int, on_evaluation: OnEvaluation
    ) -> list[Point]:
        # The path depends on the study's id and the configuration: no other study's checkpoint is ever resumed here.
        identity = [trial.study.user_attrs.get(IDENTITY, ""), trial.user_attrs["config"]]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        folder = self.checkpoints(trial) / f"seed_{seed}_{digest}"
        study_config = self.study_config
        run = TrialRun(
            seed, study_config.n_evaluations, study_config.eval_episodes, folder, study_config.vec_env, self.device
        )
        return train_once(config, self.registry, run, on_evaluation=on_evaluation, on_step=self.check_stop)


@dataclass(frozen=True)
class SearchObjective(Objective):
    """The objective of the search: draw a configuration, train it with every seed, average each metric."""

    def __call__(self, trial: optuna.Trial) -> list[float]:
        """Return the values of a trial.

        Raises:
            optuna.TrialPruned: the pruner ended the trial.
        """
        study_config = self.study_config
        config = self._config(trial)
        _store_config(trial, config)
        metrics = study_config.parsed_metrics
        values: list[list[float]] = []
        for seed in study_config.seeds:
            report = _Report(trial, metrics[0], study_config, seed, [row[0] for row in values])
            points = self._train(trial, config, seed, report)
            values.append([metric(points) for metric in metrics])
        return [sum(metric_values) / len(metric_values) for metric_values in zip(*values, strict=True)]

    def _config(self, trial: optuna.Trial) -> ExperimentConfig:
        """Return the configuration that the trial trains: a plugin's default, or one that the sampler draws."""
        study_config = self.study_config
        space = study_config.space(self.registry)
        default_of = self._planned_trial(trial).default_of
        plugin, drawn = space.suggest(trial)
        if default_of is not None:  # the sampler sees the nearest point of the space
            trial.set_user_attr(DEFAULT, True)
            return space.bases[default_of]
        overrides = {**study_config.fixed, "n_timesteps": study_config.n_timesteps, **drawn}
        return study_config.entries.load(self.registry, plugin, overrides)


@dataclass(frozen=True)
class _Report:
    """Stores each evaluation with the trial, and reports the mean over the seeds so far to Optuna."""

    trial: optuna.Trial
    metric: Metric
    study_config: StudyConfig
    seed: int
    earlier: Sequence[float]
    """The values of the seeds before this one."""

    def __call__(self, points: list[Point], evaluations: list[Evaluation]) -> None:
        self.trial.set_user_attr(f"{EVALUATIONS}:{self.seed}", as_data(points, evaluations))
        study_config = self.study_config
        if len(study_config.metrics) > 1 or self.metric.kind == "wall":
            return
        steps, n_timesteps, n_evaluations = points[-1].steps, study_config.n_timesteps, study_config.n_evaluations
        due = evaluations_due(steps, n_timesteps, n_evaluations)
        step = len(self.earlier) * n_evaluations + due
        values = [*self.earlier, self.metric(points, min(steps / n_timesteps, 1.0))]
        if due == n_evaluations:  # the seed is finished
            self.trial.set_user_attr(SEED_VALUES, values)
        self.trial.report(sum(values) / len(values), step)
        if step < study_config.n_seeds * n_evaluations and self.trial.should_prune():
            raise optuna.TrialPruned


@dataclass(frozen=True)
class RetrainObjective(Objective):
    """The objective of retraining: train a given configuration with a given fresh seed."""

    def __call__(self, trial: optuna.Trial) -> list[float]:
        """Return the values of a trial."""
        planned_trial = self._planned_trial(trial)
        assert planned_trial.candidate is not None
        plugin, entry = planned_trial.candidate.plugin, planned_trial.candidate.config
        config = config_from_entry(self.registry, plugin, self.study_config.env, entry)
        _store_config(trial, config)
        trial.set_user_attr("candidate", planned_trial.candidate.name)
        trial.set_user_attr("seed", planned_trial.seed)

        def store(points: list[Point], evaluations: list[Evaluation]) -> None:
            trial.set_user_attr(f"{EVALUATIONS}:{planned_trial.seed}", as_data(points, evaluations))

        points = self._train(trial, config, planned_trial.seed, store)
        return [metric(points) for metric in self.study_config.parsed_metrics]


def _store_config(trial: optuna.Trial, config: ExperimentConfig) -> None:
    """Store with the trial what reproduces it: plugin, full configuration, the entry's values, package versions."""
    trial.set_user_attr("plugin", config.combination.plugin)
    trial.set_user_attr("config", plain(resolved_entry(config)))
    trial.set_user_attr("entry", plain(config.entry))
    versions = {name: package_version(name) for name in (*PACKAGES, "optuna")}
    trial.set_user_attr("versions", {**versions, "python": platform.python_version()})
