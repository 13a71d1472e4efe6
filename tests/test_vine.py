"""Vine sampling: values are the mean returns of continuations from copied environments, and need no critic."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from envs import Clock
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize
from tabular import MDP, TABULAR_POLICY, logits, small_mdp
from test_exact_gradient import FALSE_ALARM, t_squared

from pgzoo import ConfigError, PolicyGradient

ENDS = ((3, "terminated"), (2, "truncated"))


def vine(env: Any, n_episodes: int = 2, n_continuations: int = 2, **options: Any) -> PolicyGradient:
    sizes = {"n_episodes": n_episodes, "n_continuations": n_continuations}
    return PolicyGradient("MlpPolicy", env, "vine", plugin_kwargs=sizes, seed=0, device="cpu", **options)


def test_values_are_discounted_returns_of_continuations() -> None:
    """Clock's reward at step t is t + 1, whatever the actions are. γ = ½.

    An episode of 3 steps: V = 1 + 2/2 + 3/4 = 2.75, 2 + 3/2 = 3.5, 3. One of 2 steps: V = 1 + 2/2 = 2, 2. After the
    last step, no reward follows, also at a time limit. The continuations take 2 · (3 + 2 + 1) + 2 · (2 + 1) = 18 steps.
    """
    model = vine(DummyVecEnv([lambda: Monitor(Clock(ENDS))]), gamma=0.5)
    assert not model.has_critic
    model.learn(1)
    rollout = model.rollout
    np.testing.assert_allclose(rollout.values[:, 0], [2.75, 3.5, 3, 2, 2])
    np.testing.assert_allclose(rollout.next_values[:, 0], [3.5, 3, 0, 2, 0])
    assert model.num_timesteps == 5 + 18
    # Ψ = r + γ V(s') − V(s) = 0: no action makes a difference.
    np.testing.assert_allclose(model.rollout_buffer.advantages, 0, atol=1e-6)
    assert "train/value_loss" not in model.logger.name_to_value


def test_environments_are_not_touched_by_continuations() -> None:
    """The trajectory, its observations and its rewards are those of the same run without continuations."""
    model = vine(DummyVecEnv([lambda: Monitor(Clock(ENDS))] * 2), n_episodes=4).learn(1)
    assert model.rollout.rewards.T.tolist() == [[1, 2, 3, 1, 2]] * 2
    assert model.ep_info_buffer is not None
    assert sorted(e["l"] for e in model.ep_info_buffer) == [2, 2, 3, 3]


class Tabular(gym.Env[np.ndarray, Any]):
    """One copy of an MDP of `tabular.py`. The horizon terminates an episode."""

    def __init__(self, mdp: MDP) -> None:
        self.mdp = mdp
        n_states, n_actions = mdp.rewards.shape
        self.observation_space, self.action_space = spaces.Box(0, 1, (n_states,)), spaces.Discrete(n_actions)
        self.observations = np.eye(n_states, dtype=np.float32)

    def __deepcopy__(self, memo: Any) -> Tabular:
        """Share the tables, which never change."""
        copied = Tabular.__new__(Tabular)
        generator = np.random.Generator(np.random.PCG64())
        generator.bit_generator.state = self.np_random.bit_generator.state
        copied.__dict__.update(self.__dict__, _np_random=generator)
        return copied

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.state = 0, int((self.np_random.random() > self.mdp.start.cumsum()[:-1]).sum())
        return self.observations[self.state], {}

    def step(self, action: Any) -> Any:
        reward = float(self.mdp.rewards[self.state, action])
        chances = self.mdp.transitions[self.state, action].cumsum()[:-1]
        self.t, next_state = self.t + 1, int((self.np_random.random() > chances).sum())
        done = next_state == len(self.observations) or self.t == self.mdp.horizon
        self.state = 0 if done else next_state
        return self.observations[self.state], reward, done, False, {}


def gradients(gamma: float, updates: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (updates, S·A) estimates of the gradient with respect to the logits, and the exact one."""
    mdp = small_mdp()
    model = vine(
        DummyVecEnv([partial(Tabular, mdp)] * 10),
        n_episodes=40,
        objective={"name": "policy_gradient", "aggregate": "episode_sum"},
        gamma=gamma,
        discount_states=True,
        learning_rate=1.0,
        max_grad_norm=None,
        policy_kwargs={**TABULAR_POLICY, "optimizer_class": torch.optim.SGD},
        **options,
    )
    actor: Any = model.policy.action_net
    with torch.no_grad():
        actor.weight.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(2)))
    start = {name: value.clone() for name, value in actor.state_dict().items()}
    estimates = []
    for _ in range(updates):
        actor.load_state_dict(start)
        model.learn(1, reset_num_timesteps=False)
        estimates.append((actor.weight.detach() - start["weight"]).T.numpy().ravel().astype(np.float64))
    actor.load_state_dict(start)
    return np.array(estimates), mdp.gradient(logits(model.policy), gamma).ravel()


@pytest.mark.parametrize("gamma", [0.8])
def test_the_gradient_is_exact(gamma: float) -> None:
    estimates, exact = gradients(gamma, 60)
    assert t_squared(estimates, exact) > FALSE_ALARM
    error = np.linalg.norm(estimates.mean(axis=0) - exact) / np.linalg.norm(exact)
    assert error < 0.15  # about twice its standard error


def test_it_learns_and_goes_on_after_load(tmp_path: Any) -> None:
    model = vine(DummyVecEnv([partial(Tabular, small_mdp())] * 4), n_episodes=8).learn(300)
    model.save(tmp_path / "model")
    loaded = PolicyGradient.load(tmp_path / "model", DummyVecEnv([partial(Tabular, small_mdp())] * 4), device="cpu")
    assert (loaded.sampling, loaded.has_critic) == (model.sampling, False)
    loaded.learn(100, reset_num_timesteps=False)


def test_with_normalised_observations_the_policy_sees_the_same_in_a_copy() -> None:
    """Frozen statistics: Clock's returns do not depend on them, and the wrappers below pass everything through."""
    env = VecNormalize(VecMonitor(DummyVecEnv([partial(Clock, ENDS)])), training=False, norm_reward=False)
    model = vine(env, gamma=0.5).learn(1)
    np.testing.assert_allclose(model.rollout.values[:, 0], [2.75, 3.5, 3, 2, 2])


class Uncopied(Clock):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("it holds a window")


class SharedState(Clock):
    """Copies share their state, as those of a simulator behind a handle do."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class GlobalNoise(Clock):
    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, reward + np.random.random(), *rest


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DummyVecEnv([Uncopied]), "<Uncopied instance> cannot be copied, which vine needs: TypeError: it hold"),
        (lambda: DummyVecEnv([SharedState]), "<SharedState instance> cannot be copied: two copies gave different"),
        (lambda: DummyVecEnv([GlobalNoise]), "<GlobalNoise instance> cannot be copied: two copies gave different"),
        pytest.param(
            lambda: SubprocVecEnv([Clock]), "SubprocVecEnv does not allow; use a DummyVecEnv", marks=pytest.mark.slow
        ),
        (lambda: VecFrameStack(DummyVecEnv([Clock]), 2), "vine samples without VecFrameStack"),
    ],
)
def test_what_cannot_be_copied_is_refused(make: Any, message: str) -> None:
    env = make()
    try:
        with pytest.raises(ConfigError, match=message):
            vine(env).learn(1)
    finally:
        env.close()


def test_gsde_is_refused() -> None:
    with pytest.raises(ConfigError, match="independent of each other, which gSDE does not draw"):
        vine("Pendulum-v1", n_episodes=1, use_sde=True).learn(1)


def test_without_a_critic_there_is_nothing_to_train_in_it() -> None:
    with pytest.raises(ConfigError, match="n_critic_updates trains V, which sampling 'vine' provides"):
        vine(DummyVecEnv([Clock]), n_critic_updates=2)


def test_vecnormalize_with_scaled_rewards_is_refused() -> None:
    """r_t is scaled as at step t, and the continuations as at the end of the rollout."""
    env = VecNormalize(make_vec_env("CartPole-v1", 2))
    with pytest.raises(ConfigError, match="norm_reward=False"):
        PolicyGradient("MlpPolicy", env, "vine", device="cpu").learn(10)


def test_a_changed_number_of_continuations_takes_effect() -> None:
    model = PolicyGradient("MlpPolicy", make_vec_env("CartPole-v1", 2), "vine", device="cpu")
    model.change_hyperparameter("n_continuations", 1)
    model.learn(1)
    assert model.sampling_mode.sampling == model.sampling
    assert model.sampling.n_continuations == 1  # type: ignore[attr-defined]
