"""Vine sampling: values are the mean returns of continuations from copied environments, and need no critic."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import partial
from itertools import product
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

from pgzoo import ConfigError, PolicyGradient, Registry, Spaces
from pgzoo.envs import TABULAR
from pgzoo.lab.measure.bias import hotelling
from pgzoo.lab.measure.score_gradients import TableScores
from pgzoo.lab.measure.variance import Lab, MeasureConfig, Measurement, plugin_gradient
from pgzoo.registry.combination import resolve
from pgzoo.training.config import load_config

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


class Enumerated(gym.Env[np.ndarray, Any]):
    """Two states, two actions and at most three steps. Actions come from a script, and transitions from bits.

    Action 0 of state 0 terminates or stays, with probability ½ each. All other transitions lead to either state with
    probability ½. Bit t of `noise` decides the transition of step t.

    The environment plays its `script` whatever the policy says. A continuation is the copy of a copy. The k-th one
    plays script k from its first step on, so eight continuations play each sequence of three actions once.
    """

    observation_space, action_space = spaces.Box(0, 1, (2,)), spaces.Discrete(2)
    transitions = np.array([[[0.5, 0.0, 0.5], [0.5, 0.5, 0.0]], [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]])
    mdp = MDP(transitions, np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([0.5, 0.5]), horizon=3)

    def __init__(self, start: int, noise: int, script: int) -> None:
        self.start, self.noise, self.script = start, noise, script
        self.generation = self.n_copies = 0

    def __deepcopy__(self, memo: Any) -> Enumerated:
        copied = copy(self)
        copied.generation += 1
        if copied.generation == 2:
            copied.script, copied.n_played, self.n_copies = self.n_copies, 0, self.n_copies + 1
        return copied

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.t = self.n_played = 0
        self.state = self.start
        return np.eye(2, dtype=np.float32)[self.state], {}

    def step(self, action: Any) -> Any:
        action, one = self.script >> self.n_played & 1, self.noise >> self.t & 1
        reward, may_end = float(self.mdp.rewards[self.state, action]), (self.state, action) == (0, 0)
        self.t, self.n_played, self.state = self.t + 1, self.n_played + 1, 0 if may_end else one
        done = (may_end and bool(one)) or self.t == self.mdp.horizon
        return np.eye(2, dtype=np.float32)[self.state], reward, done, False, {}


def test_the_mean_over_all_outcomes_is_exact() -> None:
    """Every start, noise and sequence of actions once, each with every sequence of actions as a continuation.

    With a uniform policy and one step left, V(0) = (1 − 2)/2 = −½ and V(1) = (½ + 3)/2 = 1.75. With two steps left and
    γ = 0.8, V(1) = 1.75 + 0.8 (−½ + 1.75)/2 = 2.25, and V(0) = −½ + 0.8 (¼ (−½) + ¼ (−½ + 1.75)) = −0.35, because
    action 0 stays with probability ½, and action 1 leads to both states.
    """
    outcomes = list(product((0, 1), range(8), range(8)))
    model = vine(
        DummyVecEnv([partial(Enumerated, *outcome) for outcome in outcomes]),
        n_episodes=len(outcomes),
        n_continuations=8,
        gamma=0.8,
        discount_states=True,
    ).learn(1)
    rollout = model.rollout
    played = rollout.mask
    state, step = np.asarray(rollout.observations).argmax(axis=2), rollout.step
    for (s, t), value in {(0, 2): -0.5, (1, 2): 1.75, (0, 1): -0.35, (1, 1): 2.25}.items():
        there = played & (state == s) & (step == t)
        assert rollout.values[there].mean() == pytest.approx(value, abs=1e-6)
        assert rollout.values[there].std() > 0.1 or t == 2  # single values depend on the noise
    # A weight of Ψ on ∇ log π = (1 − ½, −½) of the logits of the action that was played and of the other one.
    action = np.array([script for *_, script in outcomes])[rollout.episode] >> step & 1
    gradient, psi = np.zeros((2, 2)), model.rollout_buffer.advantages / len(outcomes)
    np.add.at(gradient, (state[played], action[played]), psi[played] / 2)
    np.add.at(gradient, (state[played], 1 - action[played]), -psi[played] / 2)
    np.testing.assert_allclose(gradient, Enumerated.mdp.gradient(torch.zeros(2, 2), 0.8), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("env", TABULAR)
def test_no_bias_on_any_mdp_of_the_lab(env: str) -> None:
    """Hotelling's T² over 800 gradients. It would detect a bias of 20 % of ‖∇J‖ in any direction."""
    registry = Registry.discover()
    combination = resolve(registry, "vine", overrides={"n_continuations": 1})
    config = MeasureConfig({"vine": combination}, n_batches=800, gamma=0.9)
    experiment = load_config(registry, "rtg", env)
    lab = Lab(replace(experiment, run=replace(experiment.run, policy_kwargs=TABULAR_POLICY)), registry, config)
    parts = Spaces(lab.policy.observation_space, lab.policy.action_space, lab.policy)
    measurement = Measurement(lab, [plugin_gradient(config, "vine", combination, parts)])
    for _ in range(config.n_batches):
        measurement.batch()
    gradients, exact = np.array(measurement.records["vine"].gradients, dtype=np.float64), measurement.exact
    assert exact is not None
    assert isinstance(lab.scores, TableScores)
    p_value, power = hotelling(gradients, exact, FALSE_ALARM / len(TABULAR), lab.scores.rank, effect=0.2)
    assert power > 0.9
    assert p_value > FALSE_ALARM / len(TABULAR)


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
