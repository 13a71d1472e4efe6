"""One training run of a study: evaluated on the way, stopped when it diverges, resumed from its last evaluation."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import ExperimentConfig
from pgzoo.training.environments import make_env
from pgzoo.training.evaluation import Evaluation, evaluate
from pgzoo.training.experiment import EVAL_SEED_OFFSET, TrainConfig, make_model
from pgzoo.tuning.metrics import Point

MAX_EVAL_ENVS = 10
"""Environments side by side in an evaluation; each plays its share of the episodes."""


class Diverged(Exception):
    """Parameters or returns are no longer finite.

    Attributes:
        steps: environment steps so far.
    """

    def __init__(self, steps: int) -> None:
        super().__init__(f"the parameters or returns are not finite after {steps:,} steps")
        self.steps = steps


@dataclass(frozen=True)
class TrialRun:
    """How a run of a study is carried out.

    Attributes:
        seed: of the training; its evaluations' seeds are derived from it.
        n_evaluations: at most so many, evenly spaced over training, the last one of the final model.
        eval_episodes: episodes of each.
        folder: where its checkpoint is kept while it runs.
    """

    seed: int
    n_evaluations: int
    eval_episodes: int
    folder: Path


def slot(steps: int, n_timesteps: int, n_evaluations: int) -> int:
    """Return how many evaluations are due after so many steps; a long rollout may pass over several."""
    return min(steps * n_evaluations // n_timesteps, n_evaluations)


OnEvaluation = Callable[[list[Point], list[Evaluation]], None]


def train_once(
    config: ExperimentConfig,
    registry: Registry,
    run: TrialRun,
    *,
    on_evaluation: OnEvaluation = lambda points, evaluations: None,
    on_step: Callable[[], None] = lambda: None,
) -> list[Point]:
    """Train and return the evaluations.

    Each evaluation has its own episodes, the same in every trial; it is written with a checkpoint before
    `on_evaluation` is called, so that a run whose process died goes on from there. A resumed run draws other random
    numbers than one that was not stopped.

    Args:
        config: what to train.
        registry: where its plugins come from.
        run: seed, evaluations, folder.
        on_evaluation: called with all evaluations so far; what it raises ends the run.
        on_step: called after every step; what it raises ends the run.

    Raises:
        Diverged: parameters or returns became infinite or NaN.
        PgzooError: something does not fit, or a plugin broke the interface.
    """
    checkpoint = _Checkpoint.latest(run.folder)
    statistics = checkpoint.path / "vecnormalize.pkl" if checkpoint else None
    env = make_env(config, n_envs=config.run.n_envs, seed=run.seed, statistics=statistics)
    n_eval_envs = min(run.eval_episodes, MAX_EVAL_ENVS)
    eval_env = make_env(config, n_envs=n_eval_envs, seed=run.seed + EVAL_SEED_OFFSET, training=False)
    try:
        if checkpoint:
            model = PolicyGradient.load(checkpoint.path / "model.zip", env, device="cpu", registry=registry)
        else:
            model = make_model(config, registry, env, TrainConfig(seed=run.seed, device="cpu"))
        course = _Course(run, config.run.n_timesteps, eval_env, on_evaluation, on_step, checkpoint)
        course.replay()
        if model.num_timesteps >= config.run.n_timesteps:  # its worker died after the last evaluation
            return course.points
        try:
            model.learn(
                config.run.n_timesteps - model.num_timesteps, callback=course, reset_num_timesteps=checkpoint is None
            )
            course.finish()
        except Exception as error:
            words = "found invalid values", "training diverged"  # so torch's distributions refuse NaN, and so do we
            if not _finite(model) or any(some in str(error) for some in words):
                raise Diverged(model.num_timesteps) from error
            raise
        return course.points
    finally:
        env.close()
        eval_env.close()


def _finite(model: PolicyGradient) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in model.policy.parameters())


class _Course(BaseCallback):
    """Evaluates between two updates, whenever another share of the steps is done."""

    def __init__(
        self,
        run: TrialRun,
        n_timesteps: int,
        eval_env: VecEnv,
        on_evaluation: OnEvaluation,
        on_step: Callable[[], None],
        checkpoint: _Checkpoint | None,
    ) -> None:
        super().__init__()
        self._run, self._n_timesteps, self._eval_env = run, n_timesteps, eval_env
        self._on_evaluation, self._each_step = on_evaluation, on_step
        self.points = list(checkpoint.points) if checkpoint else []
        self._evaluations = list(checkpoint.evaluations) if checkpoint else []
        self._seconds = self.points[-1].seconds if self.points else 0.0

    def replay(self) -> None:
        """Tell the evaluations before the run was resumed."""
        for n in range(1, len(self.points) + 1):
            self._on_evaluation(self.points[:n], self._evaluations[:n])

    def _on_training_start(self) -> None:
        self._began = time.perf_counter()

    def _on_step(self) -> bool:
        self._each_step()
        return True

    def _on_rollout_start(self) -> None:
        if not _finite(self.model):  # type: ignore[arg-type]
            raise Diverged(self.num_timesteps)
        evaluated = self.points[-1].steps if self.points else 0
        due, done = (slot(n, self._n_timesteps, self._run.n_evaluations) for n in (self.num_timesteps, evaluated))
        if due > done:
            self._evaluate()

    def finish(self) -> None:
        """Evaluate the final model."""
        self._evaluate()

    def _evaluate(self) -> None:
        self._seconds += time.perf_counter() - self._began
        if not _finite(self.model):  # type: ignore[arg-type]
            raise Diverged(self.num_timesteps)
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self._eval_env)
        # The same episodes whether or not the run was resumed, and others at the next evaluation.
        first = np.random.SeedSequence((self._run.seed, EVAL_SEED_OFFSET, len(self.points))).generate_state(1)[0]
        self._eval_env.seed(int(first) % 2**31)
        evaluation = evaluate(self.model, self._eval_env, self._run.eval_episodes)
        if not math.isfinite(evaluation.mean):
            raise Diverged(self.num_timesteps)
        self.points.append(Point(self.num_timesteps, self._seconds, evaluation.mean))
        self._evaluations.append(evaluation)
        _Checkpoint(self._run.folder, self.points, self._evaluations).write(self.model)  # type: ignore[arg-type]
        self._on_evaluation(self.points, self._evaluations)
        self._began = time.perf_counter()


@dataclass(frozen=True)
class _Checkpoint:
    """A run as it was at its last evaluation: model, VecNormalize's statistics, evaluations."""

    folder: Path
    points: list[Point]
    evaluations: list[Evaluation]

    @property
    def path(self) -> Path:
        return self.folder / f"evaluation_{len(self.points)}"

    def write(self, model: PolicyGradient) -> None:
        """Write it whole, then forget the one before."""
        partial = self.folder / f"part_{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model.save(partial / "model.zip")
        if (normalized := model.get_vec_normalize_env()) is not None:
            normalized.save(str(partial / "vecnormalize.pkl"))
        (partial / "evaluations.json").write_text(json.dumps(as_data(self.points, self.evaluations)), encoding="utf-8")
        try:
            partial.rename(self.path)
        except OSError:  # another worker took this one for dead, and was as far before it
            shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(self.folder / f"evaluation_{len(self.points) - 1}", ignore_errors=True)

    @classmethod
    def latest(cls, folder: Path) -> _Checkpoint | None:
        """Return the last one that was written whole."""
        numbers = [int(p.name.rpartition("_")[2]) for p in folder.glob("evaluation_*")]
        if not numbers:
            return None
        data = json.loads((folder / f"evaluation_{max(numbers)}" / "evaluations.json").read_text(encoding="utf-8"))
        points = [Point(d["steps"], d["seconds"], d["mean"]) for d in data]
        return cls(folder, points, [Evaluation(tuple(d["returns"]), tuple(d["lengths"])) for d in data])


def as_data(points: list[Point], evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    """Return evaluations as plain data, as a study keeps them."""
    return [
        {
            "steps": point.steps,
            "seconds": round(point.seconds, 3),
            "mean": point.value,
            "returns": list(evaluation.returns),
            "lengths": list(evaluation.lengths),
        }
        for point, evaluation in zip(points, evaluations, strict=True)
    ]
