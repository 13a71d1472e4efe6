"""The callbacks of a run: evaluations, checkpoints, and the border to the user's own callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.errors import converted
from pgzoo.files import atomic_write
from pgzoo.interface.hyperparameters import shown
from pgzoo.training.evaluation import Evaluation, evaluate, sync_normalization
from pgzoo.training.run_folder import RunFolder
from pgzoo.training.saved_model import save

RESULTS = (
    "evaluations_timesteps", "evaluations_results", "evaluations_length", "evaluations_successes",
    "last_mean_reward", "best_mean_reward", "evaluations_seconds",
)  # fmt: skip
"""Attributes of SB3's EvalCallback, and the seconds of training before each evaluation."""


class StepInterval:
    """Divides the environment steps of a training into intervals.

    SB3's callbacks count calls, each of which is one step of every environment. Here, some environments may rest. Where
    none does, the intervals are those of RL Zoo: a multiple of the number of environments, at most `freq` steps if that
    is possible.

    Args:
        freq: environment steps of an interval.

    Attributes:
        start: the step at which the interval began; None before the first step.
    """

    def __init__(self, freq: int) -> None:
        self._freq = freq
        self.start: int | None = None

    def continue_from(self, start: int | None) -> None:
        """Continue the interval that began at a step."""
        self.start = None if start is None else int(start)

    def is_over(self, num_timesteps: int, n_envs: int) -> bool:
        """Return whether the interval has ended, and begin the next one if it has.

        Args:
            num_timesteps: the environment steps so far. It is called after every step of the environments.
            n_envs: the number of environments.
        """
        interval = n_envs * max(self._freq // n_envs, 1)
        if self.start is None:
            self.start = num_timesteps - n_envs
        n_over = (num_timesteps - self.start) // interval
        self.start += n_over * interval
        return n_over > 0


class EvaluationCallback(EvalCallback):
    """Evaluates the model at intervals, and saves evaluations.npz and the best model in RL Zoo's layout.

    SB3's callback counts the episodes that a Monitor saw, requires the same VecEnv classes for training and
    evaluation, writes in place, and saves no statistics of VecNormalize with the best model. evaluations.npz also has
    the wall time of training without evaluations: `seconds` until each evaluation, and `training_seconds` in total.

    Args:
        eval_env: the environments to evaluate in.
        folder: the run's folder.
        n_episodes: episodes per evaluation.
        freq: environment steps between two evaluations.
        deterministic: whether to take the most likely actions.
        episode_bound: a longer episode is an error.
        verbose: 1: print the results.
    """

    def __init__(
        self,
        eval_env: VecEnv,
        folder: RunFolder,
        *,
        n_episodes: int,
        freq: int,
        deterministic: bool,
        episode_bound: int,
        verbose: int,
    ) -> None:
        super().__init__(
            eval_env,
            n_eval_episodes=n_episodes,
            eval_freq=freq,
            deterministic=deterministic,
            verbose=verbose,
            warn=False,
        )
        self._folder, self._episode_bound, self._interval = folder, episode_bound, StepInterval(freq)
        self.evaluations_seconds: list[float] = []
        self._seconds_before, self._zero = 0.0, 0.0

    @property
    def seconds(self) -> float:
        """The wall time of training so far, without evaluations, and without the time between two resumed runs."""
        return time.perf_counter() - self._zero

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._zero = time.perf_counter() - seconds

    @property
    def progress(self) -> dict[str, Any]:
        """The results so far, which a resumed run sets."""
        own = {"start": self._interval.start, "seconds": self.seconds}
        return {**own, **{name: getattr(self, name) for name in RESULTS}}

    @progress.setter
    def progress(self, progress: Mapping[str, Any]) -> None:
        self._interval.continue_from(progress["start"])
        self._seconds_before = float(progress["seconds"])
        for name in RESULTS:
            if type(progress[name]) is not type(getattr(self, name)):
                raise TypeError(f"{name} cannot be {shown(progress[name])}")
            setattr(self, name, progress[name])
        file = self._folder.path / "evaluations.npz"
        if self.evaluations_timesteps:
            self._write_results(file)
        else:
            file.unlink(missing_ok=True)

    def _init_callback(self) -> None:
        """Skip SB3's comparison of the two VecEnvs: `sync_normalization` does not need equal classes."""

    def _on_training_start(self) -> None:
        self.seconds = self._seconds_before

    def _on_training_end(self) -> None:
        if self.evaluations_timesteps:
            self._write_results(self._folder.path / "evaluations.npz", training_seconds=self.seconds)

    def _on_step(self) -> bool:
        if self._interval.is_over(self.num_timesteps, self.training_env.num_envs):
            self.evaluations_seconds.append(self.seconds)
            sync_normalization(self.training_env, self.eval_env)
            evaluation = evaluate(
                self.model,
                self.eval_env,
                self.n_eval_episodes,
                deterministic=self.deterministic,
                episode_bound=self._episode_bound,
            )
            self._write(evaluation)
            self._log(evaluation)
            self.last_mean_reward = evaluation.mean
            if evaluation.mean > self.best_mean_reward:
                self._save(self._folder.best_model)
                self.best_mean_reward = evaluation.mean
            self.seconds = self.evaluations_seconds[-1]
        return True

    def _save(self, file: Path) -> None:
        assert isinstance(self.model, PolicyGradient)
        save(self.model, file)

    def _write(self, evaluation: Evaluation) -> None:
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(list(evaluation.returns))
        self.evaluations_length.append(list(evaluation.lengths))
        if evaluation.successes:
            self.evaluations_successes.append(list(evaluation.successes))
        self._write_results(self._folder.path / "evaluations.npz")

    def _write_results(self, file: Path, **more: Any) -> None:
        arrays: dict[str, Any] = {
            "timesteps": self.evaluations_timesteps,
            "results": self.evaluations_results,
            "ep_lengths": self.evaluations_length,
            "seconds": self.evaluations_seconds,
            **more,
        }
        if self.evaluations_successes:
            arrays["successes"] = self.evaluations_successes
        with atomic_write(file) as partial:
            np.savez(partial, **arrays)

    def _log(self, evaluation: Evaluation) -> None:
        mean_length = float(np.mean(evaluation.lengths))
        if self.verbose >= 1:
            print(f"Eval num_timesteps={self.num_timesteps}, return={evaluation.mean:.2f} +/- {evaluation.std:.2f}")
            print(f"Episode length: {mean_length:.2f}")
        self.logger.record("eval/mean_reward", evaluation.mean)
        self.logger.record("eval/mean_ep_length", mean_length)
        if evaluation.success_rate is not None:
            self.logger.record("eval/success_rate", evaluation.success_rate)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)


class CheckpointCallback(BaseCallback):
    """Saves the model and its statistics at intervals, under RL Zoo's names.

    Args:
        folder: the run's folder.
        freq: environment steps between two checkpoints.
    """

    def __init__(self, folder: RunFolder, freq: int) -> None:
        super().__init__()
        self._folder, self._interval = folder, StepInterval(freq)

    @property
    def progress(self) -> dict[str, Any]:
        """Where the interval began, which a resumed run sets."""
        return {"start": self._interval.start}

    @progress.setter
    def progress(self, progress: Mapping[str, Any]) -> None:
        self._interval.continue_from(progress["start"])

    def _on_step(self) -> bool:
        if self._interval.is_over(self.num_timesteps, self.training_env.num_envs):
            assert isinstance(self.model, PolicyGradient)
            save(self.model, self._folder.path / f"rl_model_{self.num_timesteps}_steps.zip")
        return True


class UserCallbacks(CallbackList):
    """The callbacks that a configuration names. What they raise is a ConfigError that names the callback.

    Args:
        callbacks: each callback by its import path.
    """

    def __init__(self, callbacks: list[tuple[str, BaseCallback]]) -> None:
        super().__init__([callback for _, callback in callbacks])
        self._paths = [path for path, _ in callbacks]

    def _call_each(self, call: Callable[[BaseCallback], Any]) -> list[Any]:
        results = []
        for path, callback in zip(self._paths, self.callbacks, strict=True):
            with converted(f"the callback {path} raised"):
                results.append(call(callback))
        return results

    def _init_callback(self) -> None:
        self._call_each(lambda callback: callback.init_callback(self.model))

    def _on_training_start(self) -> None:
        self._call_each(lambda callback: callback.on_training_start(self.locals, self.globals))

    def _on_rollout_start(self) -> None:
        self._call_each(lambda callback: callback.on_rollout_start())

    def _on_step(self) -> bool:
        return all(self._call_each(lambda callback: callback.on_step()))

    def _on_rollout_end(self) -> None:
        self._call_each(lambda callback: callback.on_rollout_end())

    def _on_training_end(self) -> None:
        self._call_each(lambda callback: callback.on_training_end())
