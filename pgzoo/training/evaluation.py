"""Evaluation of a policy: returns over episodes, with a confidence interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.interface.types import Array

BOOTSTRAP_RESAMPLES = 10_000
BOOTSTRAP_BATCH_SIZE = 1_000_000
"""Numbers that are resampled together, which bounds the memory."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted, unnormalised returns of whole episodes.

    Attributes:
        returns: one per episode.
        lengths: steps per episode.
        successes: `is_success` of each episode's last info; empty if the environment does not report it.
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
        """The 95 % bootstrap interval of the mean return over episodes."""
        return bootstrap_interval(np.array(self.returns))

    @property
    def success_rate(self) -> float | None:
        """The fraction of successes; None if the environment does not report them."""
        return float(np.mean(self.successes)) if self.successes else None

    def summary(self) -> dict[str, Any]:
        """Return the statistics as plain data for JSON and YAML."""
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


def bootstrap_interval(x: Array) -> tuple[float, float]:
    """Return the 95 % interval of the mean of x (n,), by percentile bootstrap with a fixed seed.

    Equal values, or a single one, give that value as both ends.
    """
    if np.ptp(x) == 0:
        return float(x[0]), float(x[0])
    from scipy import stats

    interval = stats.bootstrap(
        (x,),
        np.mean,
        vectorized=True,
        n_resamples=BOOTSTRAP_RESAMPLES,
        batch=max(1, BOOTSTRAP_BATCH_SIZE // len(x)),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def evaluate(
    model: BaseAlgorithm, env: VecEnv, n_episodes: int, *, deterministic: bool = True, render: bool = False
) -> Evaluation:
    """Run n_episodes with the model, distributed evenly over the environments, and return their results."""
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
