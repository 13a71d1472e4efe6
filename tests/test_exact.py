"""The exact gradient agrees with finite differences, with another implementation and with its environments."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tabular
import torch
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.envs import TABULAR
from pgzoo.errors import ConfigError
from pgzoo.lab.measure.exact import (
    TabularMDP,
    action_probabilities,
    actor_parameters,
    exact_gradient,
    exact_values,
    in_float64,
    score_table,
)
from pgzoo.lab.measure.mdps import MDPS, make_mdp
from pgzoo.lab.measure.tabular import TabularEnv, TabularVecEnv


def make_policy(mdp: TabularMDP, **kwargs: Any) -> ActorCriticPolicy:
    torch.manual_seed(3)
    box = spaces.Box(0, 1, (mdp.n_states,))
    policy = ActorCriticPolicy(box, spaces.Discrete(mdp.n_actions), lambda _: 1e-3, **kwargs)
    head: Any = policy.action_net
    with torch.no_grad():
        head.weight.normal_(0, 1)  # away from uniform
    return policy


@pytest.mark.parametrize("name", MDPS)
@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("net_arch", [[], [5]], ids=["table", "network"])
def test_the_gradient_is_that_of_finite_differences(name: str, gamma: float, net_arch: list[int]) -> None:
    mdp = make_mdp(name)
    policy = in_float64(make_policy(mdp, net_arch=net_arch))
    observations = torch.as_tensor(mdp.observations)
    parameters = actor_parameters(policy, observations, torch.zeros(mdp.n_states))
    numeric = []
    with torch.no_grad():
        for parameter in parameters:
            for place in np.ndindex(*parameter.shape):
                values = []
                for bump in (1e-5, -1e-5):
                    parameter[place] += bump
                    values.append(float(mdp.objective(action_probabilities(mdp, policy), gamma)))
                    parameter[place] -= bump
                numeric.append((values[0] - values[1]) / 2e-5)
    exact = exact_gradient(mdp, policy, gamma)
    assert np.linalg.norm(np.array(numeric) - exact) < 1e-6 * np.linalg.norm(exact)


def test_it_agrees_with_another_implementation() -> None:
    other = tabular.small_mdp()
    rewards = np.repeat(other.rewards[:, :, None], len(other.start) + 1, axis=2)
    mdp = TabularMDP("small", other.transitions, rewards, other.start, horizon=other.horizon)
    policy = make_policy(mdp, net_arch=[])
    expected = other.gradient(tabular.logits(policy), 0.9)  # (S, A) with respect to logits
    exact = exact_gradient(mdp, policy, 0.9)
    np.testing.assert_allclose(exact[:12].reshape(3, 4).T, expected, rtol=1e-5)  # the weights (A, S) are the logits


def test_a_chain_by_hand() -> None:
    """One state. Action 0 pays 1 and ends, action 1 pays nothing and stays. With π(0) = p, J = p / (1 − γ(1 − p))."""
    transitions = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    rewards = np.array([[[0.0, 1.0], [0.0, 0.0]]])
    mdp = TabularMDP("wait", transitions, rewards, np.ones(1))
    probs = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    assert float(mdp.objective(probs, 0.8)) == pytest.approx(0.25 / (1 - 0.8 * 0.75))
    # With a horizon of 2: p + γ(1 − p)p.
    two = TabularMDP("wait", transitions, rewards, np.ones(1), horizon=2)
    assert float(two.objective(probs, 0.8)) == pytest.approx(0.25 + 0.8 * 0.75 * 0.25)


@pytest.mark.parametrize("name", MDPS)
def test_scores_are_gradients_of_log_probabilities(name: str) -> None:
    mdp = make_mdp(name)
    policy = in_float64(make_policy(mdp, net_arch=[4]))
    table = score_table(mdp, policy)
    probs = action_probabilities(mdp, policy).detach().numpy()
    np.testing.assert_allclose(np.einsum("sa,sap->sp", probs, table), 0.0, atol=1e-12)  # E[∇ log π] = 0
    # The policy gradient theorem, ∇J = Σ_s d(s) Σ_a π(a|s) Q(s,a) ∇ log π(a|s), for γ = 1 and no horizon.
    if mdp.horizon is None:
        p = np.einsum("sa,sat->st", probs, mdp.transitions[:, :, :-1])
        visits = np.linalg.solve(np.eye(mdp.n_states) - p.T, mdp.start)
        q = (mdp.transitions * mdp.rewards).sum(axis=2) + mdp.transitions[:, :, :-1] @ exact_values(mdp, policy, 1.0)
        theorem = np.einsum("s,sa,sa,sap->p", visits, probs, q, table)
        np.testing.assert_allclose(theorem, exact_gradient(mdp, policy, 1.0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MDPS)
def test_the_simulation_gives_the_exact_return(name: str) -> None:
    mdp = make_mdp(name)
    columns, gamma = 4000, 0.9
    probs = np.full((mdp.n_states, mdp.n_actions), 1 / mdp.n_actions)
    exact = float(mdp.objective(torch.as_tensor(probs), gamma))
    env = TabularVecEnv(mdp, columns, seed=1)
    env.reset()
    rng = np.random.default_rng(2)
    returns, discount, running = np.zeros(columns), np.ones(columns), np.ones(columns, dtype=bool)
    while running.any():
        _, rewards, dones, infos = env.step(rng.integers(0, mdp.n_actions, columns))
        returns += np.where(running, discount * rewards, 0)
        discount *= gamma
        cut = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        assert (cut <= dones).all()
        assert not cut.any() or mdp.time_limit
        running &= ~dones
    z = (returns.mean() - exact) / (returns.std() / np.sqrt(columns))
    assert abs(z) < 4.5  # p = 7e-6 each


@pytest.mark.parametrize("name", TABULAR)
def test_the_environment(name: str) -> None:
    env = gym.make(name)
    check_env(env.unwrapped)
    assert isinstance(env.unwrapped, TabularEnv)
    mdp = env.unwrapped.mdp
    returns = []
    for episode in range(400):
        env.reset(seed=episode)
        env.action_space.seed(episode)
        total, done = 0.0, False
        while not done:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, done = total + float(reward), terminated or truncated
        assert truncated <= mdp.time_limit
        returns.append(total)
    probs = torch.full((mdp.n_states, mdp.n_actions), 1 / mdp.n_actions, dtype=torch.float64)
    z = (np.mean(returns) - float(mdp.objective(probs, 1.0))) / (np.std(returns) / 20)
    assert abs(z) < 4.5


def test_a_seed_determines_an_episode() -> None:
    env = TabularVecEnv(make_mdp("time_limit"), 3)

    def play(seeds: list[int | None]) -> list[Any]:
        env._seeds = list(seeds)
        outputs: list[Any] = [env.reset()]
        for _ in range(3):
            outputs += env.step(np.zeros(3, dtype=int))[:2]
        return outputs

    first, second = play([7, 7, 8]), play([7, 8, 7])
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], a[1])
        np.testing.assert_array_equal(a[[0, 2]], b[[0, 1]])


@pytest.mark.parametrize("name", MDPS)
def test_a_rest_changes_nothing(name: str) -> None:
    """The first copy rests before each of its steps. It plays the same episode as the second copy."""
    env = TabularVecEnv(make_mdp(name), 2)
    env._seeds = [3, 3]
    observations: Any = env.reset()
    played: list[list[Any]] = [[], []]
    for stepped in (1, 0) * 3:
        env.resting = np.arange(2) != stepped
        before = observations.copy()
        observations, rewards, dones, infos = env.step(np.zeros(2, dtype=int))
        rested = 1 - stepped
        np.testing.assert_array_equal(observations[rested], before[rested])
        assert (rewards[rested], dones[rested], infos[rested]) == (0, False, {})
        reached = infos[stepped].get("terminal_observation", observations[stepped])
        played[stepped].append((reached, rewards[stepped], dones[stepped]))
        if stepped == 0:
            np.testing.assert_equal(played[0], played[1])
            if dones[0]:
                return


def test_a_copy_plays_the_same_episode() -> None:
    """Copies share the tables and have a random generator of their own."""
    env = TabularEnv("noise")
    env.reset(seed=4)
    copied = deepcopy(env)
    assert copied.mdp is env.mdp
    played = [[e.step(0) for _ in range(3)] for e in (env, copied)]
    np.testing.assert_equal(played[0], played[1])


def test_bad_arrays_are_refused() -> None:
    mdp = make_mdp("noise")
    with pytest.raises(ConfigError, match="transitions must be probabilities that sum to 1"):
        TabularMDP("wrong", mdp.transitions * 0.9, mdp.rewards, mdp.start)
    with pytest.raises(ConfigError, match=r"start must have shape \(4,\)"):
        TabularMDP("wrong", mdp.transitions, mdp.rewards, mdp.start[:-1])
    with pytest.raises(ConfigError, match=r"unknown MDP 'chian'.*chain"):
        TabularEnv("chian")
