"""A run's evaluation: fresh seeds, observations normalised as in training, and confidence intervals."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from pgzoo import Registry
from pgzoo.training import experiment
from pgzoo.training.config import load_config
from pgzoo.training.evaluation import bootstrap_interval, evaluate
from pgzoo.training.experiment import TrainConfig, train
from pgzoo.training.run_folder import new_folder


class SeedRecorder(gym.Env[np.ndarray, Any]):
    """Records the seeds of its resets. Episodes have 5 steps and observations around 7."""

    seeds: list[int] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Box(-100, 100, (1,)), spaces.Discrete(2)

    def _observe(self) -> np.ndarray:
        return self.np_random.normal(7, 1, 1).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.seeds.append(seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self._observe(), 1.0, self.t == 5, False, {}


def test_evaluation_has_fresh_seeds_and_the_statistics_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    creator: Any = SeedRecorder  # the type EnvCreator wants a function of any keyword arguments
    gym.register("SeedRecorder-v0", creator)
    registry = Registry.discover()
    config = load_config(
        registry,
        "rtg",
        "SeedRecorder-v0",
        overrides={"n_timesteps": 40, "n_envs": 2, "n_episodes": 2, "normalize": True},
    )
    seen: list[tuple[Any, Any]] = []

    def watched(model: Any, env: VecNormalize, n_episodes: int, **options: Any) -> Any:
        seen.append((model.get_vec_normalize_env(), env))
        return evaluate(model, env, n_episodes, **options)

    monkeypatch.setattr(experiment, "evaluate", watched)
    SeedRecorder.seeds.clear()
    options = TrainConfig(seed=3, device="cpu", eval_freq=-1, eval_episodes=2)
    result = train(config, registry, options, new_folder(tmp_path, "rtg", "SeedRecorder-v0"))
    assert set(SeedRecorder.seeds) == {3, 4, 1_000_003}
    ((training, evaluation),) = seen
    assert evaluation is not training
    assert not evaluation.training
    assert evaluation.obs_rms.mean == training.obs_rms.mean
    # VecNormalize's running mean starts at 0 with weight 1e-4. After 40 steps it is close to 7.
    assert evaluation.obs_rms.mean == pytest.approx([7], abs=0.7)
    assert result.final is not None
    assert result.final.mean == 5.0
    assert result.backend == "numpy on cpu"


def test_the_bootstrap_interval_is_about_the_normal_one() -> None:
    """For n = 400 normal returns: mean ± 1.96 σ / √n, that is 10 ± 0.196. Resampling adds about 1 % of noise."""
    x = np.random.default_rng(0).normal(size=400)
    x = 10 + 2 * (x - x.mean()) / x.std()
    low, high = bootstrap_interval(x)
    assert (low, high) == pytest.approx((10 - 0.196, 10 + 0.196), abs=0.01)
    assert bootstrap_interval(x) == (low, high)


@pytest.mark.parametrize("returns", [[3.5], [7.0, 7.0, 7.0]])
def test_equal_returns_give_a_point_interval(returns: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bootstrap_interval(np.array(returns)) == (returns[0], returns[0])
