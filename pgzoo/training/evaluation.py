"""Evaluation of a policy: returns over episodes, with a confidence interval."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, unwrap_vec_normalize

from pgzoo.backends.masks import action_masks, mask_arguments, uses_masks
from pgzoo.errors import ConfigError
from pgzoo.interface.types import Array

EPISODE_BOUND = 100_000
"""The default for how many steps an evaluated episode may have."""

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
    model: BaseAlgorithm,
    env: VecEnv,
    n_episodes: int,
    *,
    deterministic: bool = True,
    episode_bound: int = EPISODE_BOUND,
) -> Evaluation:
    """Play n_episodes with the model, distributed evenly over the environments, and return their results.

    An episode ends when the VecEnv says so. Return and length are Monitor's if its episode ends in the same step, and
    are counted here if a wrapper outside Monitor ends the episode. With SB3's EpisodicLifeEnv an episode is a whole
    game, not a life, as in SB3.

    Args:
        model: a model with `predict`.
        env: the environments. Their rewards are taken before VecNormalize scales them.
        n_episodes: the number of episodes.
        deterministic: whether to take the most likely actions. Sampled ones leave torch's random numbers as they were,
            so a training does not depend on its evaluations.
        episode_bound: a longer episode is an error.

    Raises:
        ConfigError: an episode did not end within `episode_bound` steps.
    """
    if deterministic:
        return _evaluate(model, env, n_episodes, deterministic, episode_bound)
    gpus = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        return _evaluate(model, env, n_episodes, deterministic, episode_bound)


def _evaluate(
    model: BaseAlgorithm, env: VecEnv, n_episodes: int, deterministic: bool, episode_bound: int
) -> Evaluation:
    n_envs = env.num_envs
    targets = (n_episodes + np.arange(n_envs)) // n_envs
    counts, returns, lengths = np.zeros(n_envs, dtype=int), np.zeros(n_envs), np.zeros(n_envs, dtype=int)
    ended = _Episodes()
    normalize = unwrap_vec_normalize(env)
    has_lives = np.array(env.env_is_wrapped(EpisodicLifeEnv))
    masked = uses_masks(model, env)
    observations, states, starts = env.reset(), None, np.ones(n_envs, dtype=bool)
    while (running := counts < targets).any():
        masks = mask_arguments(action_masks(env, env.action_space) if masked else None)
        actions, states = model.predict(observations, states, starts, deterministic, **masks)  # type: ignore[arg-type]
        observations, rewards, dones, infos = env.step(actions)
        starts = np.array(dones, dtype=bool).reshape(-1)
        returns += rewards if normalize is None else normalize.get_original_reward()
        lengths += 1
        for n in np.flatnonzero(starts & running).tolist():
            if has_lives[n] and "episode" not in infos[n]:
                continue  # a life was lost, but the game goes on
            ended.add(infos[n], returns[n], lengths[n])
            counts[n] += 1
            returns[n] = lengths[n] = 0
        if (lengths[running] >= episode_bound).any():
            raise ConfigError(
                f"an evaluated episode has not ended after {episode_bound} steps; give the environment a time limit "
                "with -P max_episode_steps:N"
            )
    return ended.evaluation()


class _Episodes:
    """Collects the results of episodes in the order in which they end."""

    def __init__(self) -> None:
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._successes: list[bool] = []
        self._reported = False

    def add(self, info: Mapping[str, Any], total: float, length: int) -> None:
        """Add an episode by its last info. Monitor's return and length have precedence."""
        episode = info.get("episode", {"r": total, "l": length})
        self._returns.append(float(episode["r"]))
        self._lengths.append(int(episode["l"]))
        self._successes.append(bool(info.get("is_success", False)))
        self._reported |= "is_success" in info

    def evaluation(self) -> Evaluation:
        """Return the results. An episode that does not report its success has failed, if others report theirs."""
        successes = tuple(self._successes) if self._reported else ()
        return Evaluation(tuple(self._returns), tuple(self._lengths), successes)


def sync_normalization(source: VecEnv, target: VecEnv) -> None:
    """Copy VecNormalize's statistics from the environments of training to those of evaluation.

    SB3's `sync_envs_normalization` requires that both have the same kinds of VecEnv, at every level.
    """
    for trained, evaluated in zip(_normalizers(source), _normalizers(target), strict=True):
        copy_statistics(trained, evaluated)


def copy_statistics(source: VecNormalize, target: VecNormalize) -> None:
    """Copy the moments of observations and returns from one VecNormalize to another."""
    for name in ("obs_rms", "ret_rms"):
        if hasattr(source, name):
            setattr(target, name, deepcopy(getattr(source, name)))


def _normalizers(env: VecEnv) -> list[VecNormalize]:
    """Return every VecNormalize among the wrappers of a VecEnv, outermost first."""
    normalizers = []
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            normalizers.append(env)
        env = env.venv
    return normalizers
