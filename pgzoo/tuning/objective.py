"""The objective of a study: what a planned trial trains, and the numbers that it returns."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna

from pgzoo.registry.plugins import Registry
from pgzoo.training.config import ExperimentConfig, config_from_entry, resolved_entry
from pgzoo.training.evaluation import Evaluation
from pgzoo.training.run_folder import PACKAGES, file_name, package_version, plain
from pgzoo.tuning.config import PlannedTrial, StudyConfig
from pgzoo.tuning.metrics import Point
from pgzoo.tuning.pruners import SEED_VALUES
from pgzoo.tuning.study import DEFAULT, IDENTITY
from pgzoo.tuning.trial import OnEvaluation, TrialRun, as_data, evaluations_due, train_once
from pgzoo.tuning.trial_queue import KEY, PlannedTrials

EVALUATIONS = "evaluations"
"""User attribute of a trial, followed by a seed, or by an environment and a seed: the evaluations of that training."""


@dataclass(frozen=True)
class Objective:
    """Trains a planned trial on every environment with every seed, and averages each metric.

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

    def __call__(self, trial: optuna.Trial) -> list[float]:
        """Return the values of a trial, one per metric.

        Raises:
            optuna.TrialPruned: the pruner ended the trial.
        """
        study_config, planned = self.study_config, self.planned[trial.user_attrs[KEY]]
        configs = self._configs(trial, planned)
        _store(trial, configs)
        seeds = study_config.seeds if planned.candidate is None else [planned.seed]
        n_trainings, values = len(seeds) * len(configs), list[list[float]]()
        for seed in seeds:
            for env, config in configs.items():
                scored = self._on_evaluation(trial, env, seed, [row[0] for row in values], n_trainings)
                points = self._scores(env, self._train(trial, config, seed, scored))
                values.append([metric(points) for metric in study_config.parsed_metrics])
        return [sum(of_metric) / n_trainings for of_metric in zip(*values, strict=True)]

    def checkpoints(self, trial: optuna.Trial) -> Path:
        """Return the folder of a trial's checkpoints. A repeated trial has the same folder as the lost one."""
        return self.folder / str(trial.user_attrs[KEY]).replace("/", "-").replace(":", "-")

    def _configs(self, trial: optuna.Trial, planned: PlannedTrial) -> dict[str, ExperimentConfig]:
        """Return what the trial trains, by environment: a candidate, a default, or a configuration that is drawn."""
        study_config = self.study_config
        if (candidate := planned.candidate) is not None:
            trial.set_user_attr("candidate", candidate.name)
            trial.set_user_attr("seed", planned.seed)
            return {
                env: config_from_entry(self.registry, candidate.plugin, env, entry)
                for env, entry in candidate.configs.items()
            }
        spaces = study_config.spaces(self.registry)
        plugin, drawn = next(iter(spaces.values())).draw(trial)
        if planned.default_of is not None:  # the sampler sees the nearest point of the space
            trial.set_user_attr(DEFAULT, True)
            return {env: space.bases[planned.default_of] for env, space in spaces.items()}
        fixed = {**study_config.fixed, "n_timesteps": study_config.n_timesteps}
        return {
            entries.env: entries.load(self.registry, plugin, {**fixed, **spaces[entries.env].overrides(plugin, drawn)})
            for entries in study_config.entries
        }

    def _train(
        self, trial: optuna.Trial, config: ExperimentConfig, seed: int, on_evaluation: OnEvaluation
    ) -> list[Point]:
        # The path depends on the study's id and the configuration: no other study's checkpoint is ever resumed here.
        identity = [trial.study.user_attrs.get(IDENTITY, ""), trial.user_attrs["configs"]]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        folder, study_config = self.checkpoints(trial) / f"{file_name(config.env)}_{seed}_{digest}", self.study_config
        run = TrialRun(
            seed, study_config.n_evaluations, study_config.eval_episodes, folder, study_config.vec_env, self.device
        )
        return train_once(config, self.registry, run, on_evaluation=on_evaluation, on_step=self.check_stop)

    def _scores(self, env: str, points: Sequence[Point]) -> list[Point]:
        """Return evaluations with scores in place of returns, if the study has several environments."""
        return [replace(point, value=self.study_config.score(env, point.value)) for point in points]

    def _on_evaluation(
        self, trial: optuna.Trial, env: str, seed: int, earlier: Sequence[float], n_trainings: int
    ) -> OnEvaluation:
        """Return a function that stores the evaluations of a training, and reports the mean over those so far.

        Args:
            trial: the trial.
            env: the environment.
            seed: the seed.
            earlier: the values of the trainings before this one.
            n_trainings: the number of trainings of the trial.
        """
        study_config, name = self.study_config, f"{env}:{seed}" if len(self.study_config.envs) > 1 else str(seed)

        def store_and_report(points: list[Point], evaluations: list[Evaluation]) -> None:
            points = self._scores(env, points)
            trial.set_user_attr(f"{EVALUATIONS}:{name}", as_data(points, evaluations))
            metric, *others = study_config.parsed_metrics
            if others or metric.kind == "wall":
                return
            steps, n_timesteps, n_evaluations = points[-1].steps, study_config.n_timesteps, study_config.n_evaluations
            due = evaluations_due(steps, n_timesteps, n_evaluations)
            values = [*earlier, metric(points, min(steps / n_timesteps, 1.0))]
            step = len(earlier) * n_evaluations + due
            if due == n_evaluations:
                trial.set_user_attr(SEED_VALUES, _by_seed(values, len(study_config.envs)))
            trial.report(sum(values) / len(values), step)
            if step < n_trainings * n_evaluations and trial.should_prune():
                raise optuna.TrialPruned

        return store_and_report


def _by_seed(values: Sequence[float], n_envs: int) -> list[float]:
    """Return the mean over environments for each seed that is finished on all of them."""
    n_seeds = len(values) // n_envs
    means: list[float] = np.mean(np.reshape(values[: n_seeds * n_envs], (n_seeds, n_envs)), axis=1).tolist()
    return means


def _store(trial: optuna.Trial, configs: Mapping[str, ExperimentConfig]) -> None:
    """Store with the trial what reproduces it: plugin, full configurations, entries' values, package versions."""
    trial.set_user_attr("plugin", next(iter(configs.values())).combination.plugin)
    trial.set_user_attr("configs", {env: plain(resolved_entry(config)) for env, config in configs.items()})
    trial.set_user_attr("entries", {env: plain(config.entry) for env, config in configs.items()})
    versions = {name: package_version(name) for name in (*PACKAGES, "optuna")}
    trial.set_user_attr("versions", {**versions, "python": platform.python_version()})
