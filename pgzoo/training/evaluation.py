"""What a policy is worth: returns over episodes, with an interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.interface.types import Array


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted, unnormalised returns of whole episodes.

    Attributes:
        returns: one a (whole) episode.
        lengths: steps of each.
        successes: the last info's `is_success` of each, where the environment gives it.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    successes: tuple[bool, ...] = ()

    @property
    def mean(self) -> float:
        """The mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """The sample standard deviation of the returns; 0 for one episode."""
        return float(np.std(self.returns, ddof=1)) if len(self.returns) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean return, by bootstrap over episodes."""
        return bootstrap_interval(np.array(self.returns))

    @property
    def success_rate(self) -> float | None:
        """The share of successes; None where the environment does not say."""
        return float(np.mean(self.successes)) if self.successes else None

    def summary(self) -> dict[str, Any]:
        """Return it as plain data, for JSON and YAML."""
        summary: dict[str, Any] = {
            "n_episodes": len(self.returns),
            "mean_return": self.mean,
            "std_return": self.std,
            "interval_95": list(self.interval),
            "mean_length": float(np.mean(self.lengths)),
        }
        if self.success_rate is not None:
            summary["success_rate"] = self.success_rate
        return summary


def bootstrap_interval(x: Array, resamples: int = 10_000) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % percentiles of the mean of x (n,) over resamples, from a fixed seed."""
    rng = np.random.default_rng(0)
    means = [rng.choice(x, len(x)).mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def evaluate(
    model: BaseAlgorithm, env: VecEnv, n_episodes: int, *, deterministic: bool = True, render: bool = False
) -> Evaluation:
    """Return what the model earns over n_episodes, shared evenly among the environments."""
    successes: list[bool] = []

    def note_success(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"] and "is_success" in local["info"]:
            successes.append(bool(local["info"]["is_success"]))

    returns, lengths = evaluate_policy(
        model,
        env,
        n_episodes,
        deterministic=deterministic,
        render=render,
        callback=note_success,
        return_episode_rewards=True,
    )
    assert isinstance(returns, list)
    assert isinstance(lengths, list)
    return Evaluation(tuple(map(float, returns)), tuple(map(int, lengths)), tuple(successes))
