"""A critic that sees more than the actor: who sees what, policies without the critic's keys, and better values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from command import pgzoo
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import explained_variance

from pgzoo import ConfigError, PolicyGradient


class Coin(gym.Env[Any, Any]):
    """The reward is what a hidden coin shows in the state that the action is taken in; the action does not matter."""

    observation_space = spaces.Dict({"hidden": spaces.Box(-1, 1, (2,), np.float32), "seen": spaces.Box(-1, 1, (3,))})
    action_space = spaces.Discrete(2)

    def _observe(self) -> dict[str, Any]:
        self.coin = float(self.np_random.integers(2))
        hidden = np.array([self.coin, 1 - self.coin], np.float32)
        return {"hidden": hidden, "seen": self.np_random.uniform(-1, 1, 3).astype(np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        reward, self.t = self.coin, self.t + 1
        return self._observe(), reward, self.t == 8, False, {}


def model(recipe: str = "a2c", critic_keys: Any = ("hidden",), **arguments: Any) -> PolicyGradient:
    env = make_vec_env(Coin, n_envs=4, seed=0)
    options: dict[str, Any] = {"policy_kwargs": {"critic_keys": critic_keys}, "seed": 0, "device": "cpu", **arguments}
    return PolicyGradient("AsymmetricPolicy", env, recipe, **options)


def observations(n: int = 6) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "hidden": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "seen": rng.uniform(-1, 1, (n, 3)).astype(np.float32),
    }


def test_only_the_critic_sees_its_keys() -> None:
    """Gradients of both with respect to the observation."""
    policy: Any = model().policy
    tensors = {key: torch.as_tensor(x).requires_grad_() for key, x in observations().items()}
    logits = policy.get_distribution(tensors).distribution.logits
    seen, hidden = torch.autograd.grad(logits.square().sum(), [tensors["seen"], tensors["hidden"]], allow_unused=True)
    assert seen.abs().sum() > 0
    assert hidden is None
    values = policy.predict_values(tensors)
    seen, hidden = torch.autograd.grad(values.sum(), [tensors["seen"], tensors["hidden"]])
    assert seen.abs().sum() > 0
    assert hidden.abs().sum() > 0


def test_a_trained_policy_acts_without_them(tmp_path: Path) -> None:
    trained = model().learn(64)
    batch = observations()
    expected = trained.predict(batch, deterministic=True)[0]
    alone = {"seen": batch["seen"]}
    np.testing.assert_array_equal(trained.predict(alone, deterministic=True)[0], expected)
    assert trained.predict({"seen": batch["seen"][0]}, deterministic=True)[0] == expected[0]
    trained.save(tmp_path / "model.zip")
    loaded = PolicyGradient.load(tmp_path / "model.zip", device="cpu")
    np.testing.assert_array_equal(loaded.predict(alone, deterministic=True)[0], expected)
    loaded.set_env(make_vec_env(Coin, n_envs=4))
    loaded.learn(32)


def test_the_critic_explains_what_the_actor_cannot_see() -> None:
    """V of the next reward: the coin explains it, and what the actor sees explains nothing."""
    settings: dict[str, Any] = {"gamma": 0.0, "learning_rate": 1e-2, "n_steps": 16}
    informed = model(**settings).learn(4000)
    assert explained(informed) > 0.95
    env = make_vec_env(lambda: gym.wrappers.FilterObservation(Coin(), ["seen"]), n_envs=4, seed=0)
    symmetric = PolicyGradient("MultiInputPolicy", env, "a2c", seed=0, device="cpu", **settings).learn(4000)
    assert explained(symmetric) < 0.3


def explained(trained: PolicyGradient) -> float:
    return float(explained_variance(trained.rollout.values.flatten(), trained.rollout.rewards.flatten()))


@pytest.mark.parametrize("recipe", ["ppo", "rtg_value", "grpo", "trpo", "reinforce"])
def test_every_kind_of_recipe_trains(recipe: str) -> None:
    settings = {"n_steps": 32} if recipe in ("ppo", "trpo") else {}
    model(recipe, **settings).learn(200)


@pytest.mark.parametrize(
    ("critic_keys", "message"),
    [
        (["hiden"], "critic_keys: unknown key of the observation 'hiden'; did you mean 'hidden'"),
        (["hidden", "seen"], "critic_keys must be some of hidden, seen, and the actor needs the others"),
        ([], "critic_keys must be some of"),
    ],
)
def test_wrong_keys_are_refused(critic_keys: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model(critic_keys=critic_keys)


def test_other_observations_are_refused() -> None:
    with pytest.raises(ConfigError, match="critic_keys needs a Dict observation"):
        PolicyGradient("AsymmetricPolicy", "CartPole-v1", "a2c", policy_kwargs={"critic_keys": ["x"]}, device="cpu")


def test_the_command(tmp_path: Path) -> None:
    gym.register("Coin-v0", lambda **_: Coin())
    try:
        (tmp_path / "conf.yml").write_text(
            "default: {policy: AsymmetricPolicy, policy_kwargs: {critic_keys: [hidden]}, n_envs: 2}\n"
        )
        pgzoo("train", "--plugin", "a2c", "--env", "Coin-v0", "--conf-file", "conf.yml", "-n", "100", "--no-progress",
              cwd=tmp_path)  # fmt: skip
        (config,) = (tmp_path / "logs").rglob("config.yml")
        assert "critic_keys" in config.read_text()
    finally:
        del gym.registry["Coin-v0"]
