"""Scores of several environments: 0 is the return of random actions, and 1 that of a solved environment."""

from __future__ import annotations

from collections.abc import Iterable

import gymnasium as gym

from pgzoo.errors import ConfigError
from pgzoo.training.config import ExperimentConfig
from pgzoo.tuning.ranges import parse_range

N_EPISODES = 100
N_ENVS = 10
SEED = 3_000_000
"""The seed of the environments in which random actions are evaluated. No training and no other evaluation uses it."""


def parse_scores(pairs: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Parse `ENV:low..high` pairs: the returns that score 0 and 1.

    Raises:
        ConfigError: a pair has another form, or its range is empty.
    """
    scores = {}
    for pair in pairs:
        env, colon, text = pair.rpartition(":")
        found = parse_range(text, f"--score-range {env}") if colon and env and text else None
        if found is None or found.low is None or found.high is None:
            raise ConfigError(f"--score-range takes ENV:low..high, such as Acrobot-v1:-500..-80, not {pair!r}")
        scores[env] = found.low, found.high
    return scores


def measured_scores(config: ExperimentConfig) -> tuple[float, float]:
    """Return the mean return of random actions, to four digits, and the environment's registered reward threshold.

    Raises:
        ConfigError: no threshold is registered, or it is not above the return of random actions.
    """
    from pgzoo.training.random_policy import evaluate_random

    mean = evaluate_random(config, N_EPISODES, n_envs=N_ENVS, seed=SEED, actions=SEED).mean
    low, high = float(f"{mean:.4g}"), gym.spec(config.env).reward_threshold
    if high is None or high <= low:
        why = "has no reward threshold" if high is None else f"has a reward threshold of {high:g}"
        raise ConfigError(
            f"{config.env} {why}, and random actions earn {low:g}; say which returns score 0 and 1, such as "
            f"--score-range {config.env}:{low:g}..HIGH"
        )
    return low, float(high)
