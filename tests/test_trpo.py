"""`trpo` follows sb3-contrib's TRPO parameter for parameter, and keeps to the trust region on every backend."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from pgzoo import PolicyGradient, Registry


class TwoActions(gym.Env[Any, Any]):
    """A point in the plane that two actions push, or two switches."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = spaces.Box(-10, 10, (2,)), action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.t = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self.place, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = np.clip(self.place + 0.1 * np.asarray(action, dtype=np.float32), -2, 2).astype(np.float32)
        self.t += 1
        return self.place, -float(np.abs(self.place).sum()), False, self.t == 30, {}


ENVS: dict[str, Any] = {
    "discrete": lambda: gym.make("CartPole-v1"),
    "box": lambda: gym.make("Pendulum-v1"),
    "box_2": lambda: TwoActions(spaces.Box(-1, 1, (2,))),
    "binary": lambda: TwoActions(spaces.MultiBinary(2)),
    "multi": lambda: TwoActions(spaces.MultiDiscrete([3, 2])),
}


def model(cls: Any, env: str, n_envs: int, updates: int, **options: Any) -> Any:
    venv = make_vec_env(ENVS[env], n_envs=n_envs, seed=7)
    made = cls("MlpPolicy", venv, n_steps=128, seed=3, device="cpu", **options)
    return made.learn(updates * 128 * n_envs)


@pytest.mark.parametrize(
    ("env", "n_envs", "options"),
    [
        ("discrete", 4, {}),
        ("box", 1, {}),
        ("box_2", 2, {"batch_size": 48, "n_critic_updates": 2}),
        ("binary", 1, {"normalize_advantage": False, "cg_damping": 0.2, "cg_max_steps": 7}),
        ("discrete", 2, {"sub_sampling_factor": 3, "target_kl": 0.05, "line_search_shrinking_factor": 0.5}),
        ("multi", 2, {}),
        ("box", 1, {"use_sde": True, "sde_sample_freq": 4}),
    ],
)
def test_it_follows_sb3_contrib(env: str, n_envs: int, options: dict[str, Any]) -> None:
    """Finds another order of random numbers, KL, damping, line search, or a critic's step that moves the actor."""
    TRPO = pytest.importorskip("sb3_contrib").TRPO
    updates = 2 if "use_sde" in options else 5  # gSDE amplifies the last bit of a float, as does a small damping
    theirs = model(TRPO, env, n_envs, updates, **options)
    own = {"cg_damping", "cg_max_steps", "sub_sampling_factor", "line_search_shrinking_factor"}
    plugin_kwargs = {name: value for name, value in options.items() if name in own}
    keywords = {name: value for name, value in options.items() if name not in own}
    ours = model(
        PolicyGradient, env, n_envs, updates, plugin="trpo", fast=False, plugin_kwargs=plugin_kwargs, **keywords
    )
    assert (ours.num_timesteps, ours._n_updates) == (theirs.num_timesteps, theirs._n_updates)
    our_state = ours.policy.state_dict()
    for name, value in theirs.policy.state_dict().items():
        torch.testing.assert_close(our_state[name], value, rtol=0, atol=1e-5, msg=name)
    logged = {name: value for name, value in theirs.logger.name_to_value.items() if name.startswith("train/")}
    assert len(logged) >= 7
    for name, value in logged.items():
        assert ours.logger.name_to_value[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("fast", ["auto", False])
@pytest.mark.parametrize("env", ["discrete", "box_2"])
def test_the_kl_of_an_update_is_bounded(env: str, fast: Any) -> None:
    """The KL is computed here in closed form, from probabilities, or from means and standard deviations."""
    trained = model(PolicyGradient, env, 2, 1, plugin="trpo", fast=fast, plugin_kwargs={"average_kl": False})
    observations = torch.tensor(trained.rollout.observations.reshape(-1, trained.rollout.observations.shape[-1]))
    new: Any = trained.policy.get_distribution(observations).distribution
    fresh = PolicyGradient("MlpPolicy", make_vec_env(ENVS[env], 2, seed=7), "trpo", n_steps=128, seed=3, device="cpu")
    old: Any = fresh.policy.get_distribution(observations).distribution  # from the same seed
    if env == "discrete":
        kl = (new.probs * (new.probs.log() - old.probs.log())).sum(dim=1)
    else:
        variance, old_variance = new.scale**2, old.scale**2
        kl = (old.scale / new.scale).log() + (variance + (new.loc - old.loc) ** 2) / (2 * old_variance) - 0.5
        kl = kl.sum(dim=1)
    mean = kl.mean().item()
    assert 0.001 < mean < 0.01
    assert mean == pytest.approx(trained.logger.name_to_value["train/kl_divergence_loss"], rel=1e-3)


def test_without_an_improvement_the_actor_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rewards are 0 and there is no critic, so Ψ = 0 and no step improves the loss."""
    env = make_vec_env(lambda: gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda r: 0.0), 2, seed=0)
    trained = PolicyGradient("MlpPolicy", env, "reward_to_go+none+surrogate", update="trpo", seed=0, device="cpu")
    before = {name: x.clone() for name, x in trained.policy.state_dict().items()}
    trained.learn(100)
    assert trained.logger.name_to_value["train/is_line_search_success"] == 0.0
    assert all(torch.equal(before[name], x) for name, x in trained.policy.state_dict().items())


def test_the_critic_does_not_move_a_shared_extractor() -> None:
    """With images, actor and critic share a network. Its critic's passes may not leave the trust region."""

    class Images(gym.Env[Any, Any]):
        observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return self.observation_space.sample(), float(action), bool(self.np_random.random() < 0.1), False, {}

    def trained(n_critic_updates: int) -> PolicyGradient:
        env = make_vec_env(Images, 1, seed=0)
        env.observation_space.seed(0)
        options: dict[str, Any] = {"n_steps": 16, "batch_size": 8, "seed": 0, "device": "cpu"}
        return PolicyGradient("CnnPolicy", env, "trpo", n_critic_updates=n_critic_updates, **options).learn(16)

    without, critic = trained(0).policy, trained(2).policy
    names = [name for name in dict(without.named_parameters()) if "value_net" not in name]
    assert any("features_extractor" in name for name in names)
    for name in names:
        assert torch.equal(without.state_dict()[name], critic.state_dict()[name]), name
    assert not torch.equal(without.value_net.weight, critic.value_net.weight)


def test_recipes() -> None:
    registry = Registry.discover()
    assert registry.recipe("trpo").update == "trpo"
    assert registry.recipe("npg").update == "natural_gradient"
