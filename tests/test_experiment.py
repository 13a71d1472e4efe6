"""A run's evaluation: fresh seeds, observations normalised as in training, and confidence intervals."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pgzoo import ConfigError, DivergenceError, MachineError, PolicyGradient, Registry
from pgzoo.interface.plans import Seeds
from pgzoo.model_file.normalizer import Normalizer
from pgzoo.training import experiment
from pgzoo.training.config import load_config
from pgzoo.training.environments import make_env
from pgzoo.training.evaluation import bootstrap_interval, evaluate
from pgzoo.training.experiment import TrainConfig, train
from pgzoo.training.run_folder import new_folder
from pgzoo.training.saved_model import load_model, save


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
    assert SeedRecorder.seeds[0] == 3
    assert {3, 4, 1_000_003} <= set(SeedRecorder.seeds)
    stream = Seeds(result.model.group_seed)
    assert set(SeedRecorder.seeds) <= {3, 4, 1_000_003, *(stream.next() for _ in range(40))}
    assert SeedRecorder.seeds.count(1_000_003) == 1
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


class Masked(FlattenExtractor):
    """A features extractor with a causal mask, as attention layers have it."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.register_buffer("mask", torch.triu(torch.full((2, 2), -torch.inf), diagonal=1))


def test_a_policy_with_an_infinite_buffer_is_saved(tmp_path: Path) -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", policy_kwargs={"features_extractor_class": Masked})
    save(model, tmp_path / "model.zip")
    load_model(tmp_path / "model.zip", Registry.discover(), trusted=True)
    with torch.no_grad():
        model.policy.action_net.bias.fill_(torch.nan)  # type: ignore[operator]
    with pytest.raises(DivergenceError, match=r"parameter action_net\.bias is not finite"):
        save(model, tmp_path / "model.zip")


def normalized(tmp_path: Path, arguments: Any = True, statistics: Normalizer | None = None) -> VecNormalize:
    config = load_config(Registry.discover(), "a2c", "CartPole-v1", overrides={"normalize": arguments, "n_envs": 2})
    env = make_env(config, n_envs=2, seed=0, statistics=statistics)
    assert isinstance(env, VecNormalize)
    return env


def test_statistics_are_copied_and_arguments_are_the_runs(tmp_path: Path) -> None:
    """Finds a run that clips at the bounds of the model it begins with, and evaluates at its own."""
    env = normalized(tmp_path)
    env.reset()
    env.step(np.zeros(2, dtype=int))
    statistics = Normalizer.of(env)
    new = normalized(tmp_path, {"clip_obs": 0.2, "gamma": 0.5}, statistics)
    assert (new.clip_obs, new.gamma) == (0.2, 0.5)
    assert isinstance(new.obs_rms, RunningMeanStd)
    assert isinstance(env.obs_rms, RunningMeanStd)
    np.testing.assert_array_equal(new.obs_rms.mean, env.obs_rms.mean)
    assert new.ret_rms.count == env.ret_rms.count
    with pytest.raises(ConfigError, match=r"has statistics for normalize\.norm_obs=True; train with the same value"):
        normalized(tmp_path, {"norm_obs": False}, statistics)


def test_a_model_that_cannot_be_written_keeps_its_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = PolicyGradient("MlpPolicy", normalized(tmp_path), "a2c", device="cpu")
    save(model, tmp_path / "model.zip")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model.learn(100)

    def full(*_: Any) -> None:
        raise MachineError("No space left on device")

    monkeypatch.setattr(PolicyGradient, "save", full)
    with pytest.raises(MachineError):
        save(model, tmp_path / "model.zip")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_wrapper_that_normalizes_is_refused() -> None:
    path = "stable_baselines3.common.vec_env.VecNormalize"
    config = load_config(Registry.discover(), "a2c", "CartPole-v1", overrides={"vec_env_wrapper": path})
    with pytest.raises(ConfigError, match=r"vec_env_wrapper contains VecNormalize.* use normalize"):
        make_env(config, n_envs=1, seed=0)


class ReportsSuccess(gym.Env[np.ndarray, Any]):
    """Every second episode is a success. The others do not mention it, as in many environments."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
        self.number = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.number += 1
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, dtype=np.float32), 0.0, True, False, {"is_success": True} if self.number % 2 else {}


def test_an_episode_that_does_not_report_its_success_has_failed() -> None:
    """SB3 would average over the episodes that report it, which gives 100 %."""
    env = DummyVecEnv([ReportsSuccess])
    model = PolicyGradient("MlpPolicy", env, "a2c", device="cpu")
    assert evaluate(model, env, 10).success_rate == 0.5
