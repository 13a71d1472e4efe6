"""One training of a study: evaluated at intervals, stopped if it diverges, resumed from its last evaluation."""

from __future__ import annotations

import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.errors import DivergenceError, EnvironmentFailure, MachineError, describe, machine_fault
from pgzoo.files import atomic_write
from pgzoo.model_file.normalizer import Normalizer
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import ExperimentConfig
from pgzoo.training.environments import make_env
from pgzoo.training.evaluation import Evaluation, evaluate, sync_normalization
from pgzoo.training.experiment import EVAL_SEED_OFFSET, TrainConfig, make_model
from pgzoo.training.saved_model import run_normalizer
from pgzoo.tuning.metrics import Point

MAX_EVAL_ENVS = 10
"""Parallel environments of an evaluation, which share the episodes."""


class Diverged(DivergenceError):
    """Parameters or returns are not finite.

    Attributes:
        steps: environment steps until then.
    """

    def __init__(self, steps: int) -> None:
        super().__init__(f"the parameters or returns are not finite after {steps:,} steps")
        self.steps = steps


@dataclass(frozen=True)
class TrialRun:
    """How one training of a study is carried out.

    Attributes:
        seed: the seed of the training, from which the seeds of its evaluations are derived.
        n_evaluations: the maximum number of evaluations, evenly spaced. The last one evaluates the final model.
        eval_episodes: episodes per evaluation.
        folder: where the checkpoint is saved during training.
        vec_env: the vector environment of the training. Evaluations use SB3's.
        device: where to train.
    """

    seed: int
    n_evaluations: int
    eval_episodes: int
    folder: Path
    vec_env: str = "dummy"
    device: str = "cpu"


def evaluations_due(steps: int, n_timesteps: int, n_evaluations: int) -> int:
    """Return how many evaluations are due after `steps` steps. A long rollout can make several evaluations due."""
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
    """Train, and return the evaluations.

    Each evaluation plays its own episodes, the same ones in every trial. It is saved with a checkpoint before
    `on_evaluation` is called, so a training whose process died continues from there. A resumed training draws other
    random numbers than an uninterrupted one.

    Args:
        config: what to train.
        registry: the plugins.
        run: seed, evaluations and folder.
        on_evaluation: called with all evaluations so far; what it raises ends the training.
        on_step: called after every step; what it raises ends the training.

    Raises:
        Diverged: parameters or returns became infinite or NaN.
        MachineError: a checkpoint cannot be read or written.
        PgzooError: the configuration does not fit the environment, or a plugin violates the interface.
    """
    n_eval_envs = min(run.eval_episodes, MAX_EVAL_ENVS)
    eval_env = make_env(config, n_envs=n_eval_envs, seed=run.seed + EVAL_SEED_OFFSET, training=False)
    with _closed_on_failure(eval_env):
        model, checkpoint = _load_or_make(config, registry, run)
    try:
        callback = EvalCheckpointCallback(run, config, eval_env, on_evaluation, on_step, checkpoint)
        callback.replay()
        if model.num_timesteps >= config.run.n_timesteps:  # the worker died after the last evaluation
            return callback.points
        try:
            model.learn(
                config.run.n_timesteps - model.num_timesteps, callback=callback, reset_num_timesteps=checkpoint is None
            )
            callback.evaluate()
        except MachineError:
            raise
        except Exception as error:
            if isinstance(error, DivergenceError) or not _finite(model):
                raise Diverged(model.num_timesteps) from error
            raise
        return callback.points
    finally:
        env = model.get_env()
        assert env is not None
        env.close()
        eval_env.close()


def _load_or_make(
    config: ExperimentConfig, registry: Registry, run: TrialRun
) -> tuple[PolicyGradient, _Checkpoint | None]:
    """Return the model of the last checkpoint, or a new one and None.

    A damaged checkpoint, for example after a power failure, is deleted with a warning.
    """

    def make(statistics: Normalizer | None = None) -> VecEnv:
        return make_env(config, n_envs=config.run.n_envs, seed=run.seed, vec_env=run.vec_env, statistics=statistics)

    while (path := _Checkpoint.latest(run.folder)) is not None:
        try:
            checkpoint, file = _Checkpoint.read(path), path / "model.zip"
            with _closed_on_failure(make(run_normalizer(config, file))) as env:
                new = make_model(config, registry, env, TrainConfig(seed=run.seed, device=run.device))
                custom = {"policy_class": new.policy_class, "policy_kwargs": new.policy_kwargs}  # need no unpickling
                return PolicyGradient.load(file, env, run.device, registry=registry, custom_objects=custom), checkpoint
        except Exception as error:  # loading damaged files may raise anything
            if isinstance(error, EnvironmentFailure) or machine_fault(error) is not None:
                raise
            warnings.warn(f"the checkpoint {path} is damaged and ignored: {describe(error)}", stacklevel=2)
            shutil.rmtree(path)
    with _closed_on_failure(make()) as env:
        return make_model(config, registry, env, TrainConfig(seed=run.seed, device=run.device)), None


@contextmanager
def _closed_on_failure(env: VecEnv) -> Iterator[VecEnv]:
    try:
        yield env
    except BaseException:
        env.close()
        raise


def _finite(model: PolicyGradient) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in model.policy.parameters())


class EvalCheckpointCallback(BaseCallback):
    """Evaluates and saves the model at intervals, always between two updates."""

    def __init__(
        self,
        run: TrialRun,
        config: ExperimentConfig,
        eval_env: VecEnv,
        on_evaluation: OnEvaluation,
        on_step: Callable[[], None],
        checkpoint: _Checkpoint | None,
    ) -> None:
        super().__init__()
        self._run, self._n_timesteps, self._eval_env = run, config.run.n_timesteps, eval_env
        self._deterministic, self._episode_bound = config.deterministic(), config.combination.episode_bound
        self._on_evaluation, self._each_step = on_evaluation, on_step
        self.points = list(checkpoint.points) if checkpoint else []
        self._evaluations = list(checkpoint.evaluations) if checkpoint else []
        self._seconds = self.points[-1].seconds if self.points else 0.0

    def replay(self) -> None:
        """Report the evaluations that were made before the training was interrupted."""
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
        n_timesteps, n_evaluations = self._n_timesteps, self._run.n_evaluations
        if evaluations_due(self.num_timesteps, n_timesteps, n_evaluations) > evaluations_due(
            evaluated, n_timesteps, n_evaluations
        ):
            self.evaluate()

    def evaluate(self) -> None:
        """Evaluate the model, save a checkpoint and report the evaluation.

        Raises:
            Diverged: parameters or returns are not finite.
        """
        self._seconds += time.perf_counter() - self._began
        if not _finite(self.model):  # type: ignore[arg-type]
            raise Diverged(self.num_timesteps)
        sync_normalization(self.training_env, self._eval_env)
        # Each evaluation plays other episodes, and the same ones whether or not the training was resumed.
        first = np.random.SeedSequence((self._run.seed, EVAL_SEED_OFFSET, len(self.points))).generate_state(1)[0]
        self._eval_env.seed(int(first) % 2**31)
        assert isinstance(self.model, PolicyGradient)
        evaluation = evaluate(
            self.model,
            self._eval_env,
            self._run.eval_episodes,
            deterministic=self._deterministic,
            episode_bound=self._episode_bound,
        )
        if not math.isfinite(evaluation.mean):
            raise Diverged(self.num_timesteps)
        self.points.append(Point(self.num_timesteps, self._seconds, evaluation.mean))
        self._evaluations.append(evaluation)
        _Checkpoint(self._run.folder, self.points, self._evaluations).write(self.model)
        self._on_evaluation(self.points, self._evaluations)
        self._began = time.perf_counter()


@dataclass(frozen=True)
class _Checkpoint:
    """A training at its last evaluation: the model and all evaluations."""

    folder: Path
    points: list[Point]
    evaluations: list[Evaluation]

    @property
    def path(self) -> Path:
        return self.folder / f"evaluation_{len(self.points)}"

    def write(self, model: PolicyGradient) -> None:
        """Write the checkpoint in one step, then delete the previous one.

        Raises:
            MachineError: it cannot be written.
        """
        partial = self.path
        try:
            with atomic_write(self.path) as partial:
                partial.mkdir(parents=True)
                model.save(partial / "model.zip")
                with atomic_write(partial / "evaluations.json") as evaluations:
                    evaluations.write_text(json.dumps(as_data(self.points, self.evaluations)), encoding="utf-8")
        except MachineError:
            if not self.path.is_dir():
                raise
            # Another worker considered this one dead, repeated the trial, and was faster.
        finally:
            if partial != self.path:
                shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(self.folder / f"evaluation_{len(self.points) - 1}", ignore_errors=True)

    @staticmethod
    def latest(folder: Path) -> Path | None:
        """Return the folder of the last complete checkpoint, or None."""
        numbers = [int(name) for path in folder.glob("evaluation_*") if (name := path.name[11:]).isdecimal()]
        return folder / f"evaluation_{max(numbers)}" if numbers else None

    @classmethod
    def read(cls, path: Path) -> _Checkpoint:
        """Return the checkpoint in a folder."""
        data = json.loads((path / "evaluations.json").read_text(encoding="utf-8"))
        points = [Point(d["steps"], d["seconds"], d["mean"]) for d in data]
        return cls(path.parent, points, [Evaluation(tuple(d["returns"]), tuple(d["lengths"])) for d in data])


def as_data(points: list[Point], evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    """Return evaluations as the plain data that a study stores."""
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
