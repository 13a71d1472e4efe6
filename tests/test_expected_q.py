"""expected_q with the exact Q gives the exact gradient, and it uses the estimator's Q for every action space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from envs import AnySpaces
from gymnasium import spaces
from pgzoo_plugins._q_network import QNetwork
from pgzoo_plugins.expected_q import ExpectedQ
from pgzoo_plugins.none import NoScale
from pgzoo_plugins.q_value import QValue
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo import ActionDistribution, Array, ConfigError, PolicyGradient, Registry, Rollout, Spaces
from pgzoo.algorithm.advantages import compute_advantages
from pgzoo.algorithm.part_states import PartStates
from pgzoo.interface.types import Need
from pgzoo.lab.measure.exact import (
    TabularMDP,
    action_probabilities,
    exact_gradient,
    exact_values,
    in_float64,
    score_table,
)
from pgzoo.lab.measure.mdps import make_mdp
from pgzoo.registry.combination import resolve

close = np.testing.assert_allclose
GAMMA = 0.9


class TableQ(torch.nn.Module):
    """Q(s, a) from a table (S, A), for one-hot observations."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.as_tensor(table, dtype=torch.float64))

    def forward(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return (observations.double() @ self.table).gather(1, actions.long().flatten(1))


def exact_q(mdp: TabularMDP, values: Any) -> Array:
    """Return Q(s, a) = Σ_s' P(s'|s,a) [r + γ V(s')] (S, A)."""
    q: Array = (mdp.transitions * mdp.rewards).sum(axis=2) + GAMMA * mdp.transitions[:, :, :-1] @ values
    return q


def every_pair(mdp: TabularMDP, probs: Any) -> Rollout:
    """Return a rollout whose row a has action a in column s: every pair of a state and an action, once."""
    shape = mdp.n_actions, mdp.n_states
    actions = np.broadcast_to(np.arange(mdp.n_actions)[:, None], shape)
    no = np.zeros(shape, dtype=bool)
    return Rollout(
        rewards=np.zeros(shape, np.float32), terminated=no, truncated=no, mask=~no, step=np.zeros(shape, dtype=int),
        log_probs=np.zeros(shape, np.float32), gamma=GAMMA, actions=actions[..., None],
        observations=np.broadcast_to(mdp.observations, (*shape, mdp.n_states)),
        distribution=ActionDistribution(probs=np.broadcast_to(probs, (*shape, mdp.n_actions))),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["chain", "noise"])
def test_with_the_exact_q_the_gradient_is_exact(name: str) -> None:
    """Σ_s d(s) Σ_a π(a|s) Ψ(s, a) ∇ log π(a|s) = ∇J without any sampling, where d(s) = Σ_t γ^t P(s_t = s).

    b = V(s), and Ψ is unchanged by an error of Q that depends on the state only. Finds Q of another state or action, a
    plain mean over actions, and probabilities of another state.
    """
    mdp = make_mdp(name)
    torch.manual_seed(0)
    box, discrete = spaces.Box(0, 1, (mdp.n_states,)), spaces.Discrete(mdp.n_actions)
    policy = ActorCriticPolicy(box, discrete, lambda _: 1e-3, net_arch=[5], ortho_init=False)
    with torch.no_grad():
        probs = action_probabilities(mdp, in_float64(policy)).numpy()
    values = exact_values(mdp, policy, GAMMA)
    occupancy = np.linalg.solve(
        np.eye(mdp.n_states) - GAMMA * np.einsum("sa,sat->ts", probs, mdp.transitions[:, :, :-1]), mdp.start
    )
    rollout, scores = every_pair(mdp, probs), score_table(mdp, policy)
    for error in (0.0, np.arange(mdp.n_states)):
        q = TableQ((exact_q(mdp, values).T + error).T)
        psi = compute_advantages(
            QValue(), ExpectedQ(), NoScale(), rollout, {"estimator": q, "baseline": q, "scale": None}
        ).advantages.T
        b = ExpectedQ()(rollout, np.zeros(rollout.shape), q)
        close(b, np.broadcast_to(values + error, rollout.shape), rtol=1e-6)
        gradient = np.einsum("s,sa,sa,sap->p", occupancy, probs, psi, scores)
        close(gradient, exact_gradient(mdp, policy, GAMMA), atol=1e-7)


ACTIONS: dict[str, Any] = {
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,)),
}


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_mean_of_q_over_many_actions_of_the_policy(kind: str) -> None:
    """b(s) is the mean of the trained Q over 4,000 actions that SB3's policy samples, within five standard errors."""
    env = AnySpaces(spaces.Box(-1, 1, (3,)), ACTIONS[kind])
    model = PolicyGradient("MlpPolicy", env, "advantage", n_steps=64, learning_rate=0.0, seed=1, device="cpu")
    model.learn(64 * 3)
    rollout, state = model.rollout, model.part_states["baseline"]
    assert state is model.part_states["estimator"]
    assert isinstance(state, QNetwork)
    b = np.asarray(ExpectedQ(n_actions=64)(rollout, np.zeros(rollout.shape), state))[:5, 0]
    for t, expected in enumerate(b):
        observations = torch.as_tensor(np.array(rollout.observations)[t]).expand(4000, -1)
        with torch.no_grad():
            actions = model.policy.get_distribution(observations).get_actions().reshape(4000, 1, -1)
            q = state(observations, actions)[:, 0]
        assert abs(float(q.mean()) - expected) < 5 * float(q.std()) / 4000**0.5 + 2e-3
        assert float(q.std()) > 1e-3


def test_q_of_several_actions_is_that_of_each() -> None:
    """Finds features that are repeated in another order than the actions."""
    box, action = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
    policy = ActorCriticPolicy(box, action, lambda _: 1e-3)
    q = QNetwork(Spaces(box, action, policy))
    observations, actions = torch.randn(4, 3), torch.randn(4, 5, 2)
    each = torch.stack([q(observations, actions[:, k : k + 1])[:, 0] for k in range(5)], dim=1)
    torch.testing.assert_close(q(observations, actions), each)


def test_q_learns_the_values_of_an_endless_task_from_cut_fragments() -> None:
    """One state, reward a, γ = ½: V = π(1) / (1 − ½), and Q(a) = a + ½ V = a + π(1).

    Finds targets that end with 0 at a cut: with fragments of two steps, Q(0) is then about ¼ π(1).
    """
    from pgzoo.lab.measure.tabular import TabularVecEnv

    stay = np.zeros((1, 2, 2))
    stay[:, :, 0] = 1
    mdp = TabularMDP("endless", stay, np.array([[[0.0, 0.0], [1.0, 1.0]]]), np.ones(1), horizon=3, time_limit=True)
    model = PolicyGradient(
        "MlpPolicy", TabularVecEnv(mdp, 8), "advantage", n_steps=2, gamma=0.5, learning_rate=0.0,
        plugin_kwargs={"q_learning_rate": 0.01}, seed=0, device="cpu",
    )  # fmt: skip
    model.learn(8 * 2 * 80)
    state: Any = model.part_states["estimator"]
    with torch.no_grad():
        q = state(torch.ones(1, 1), torch.tensor([[[0], [1]]]))[0].numpy()
    probability = float(model.rollout.distribution.probs[0, 0, 1])  # type: ignore[index]
    close(q, [probability, 1 + probability], atol=0.12)


@pytest.mark.parametrize("estimator", ["reward_to_go", "lambda_return"])
def test_an_estimator_without_q_is_refused_by_name(estimator: str) -> None:
    message = (
        rf"baseline 'expected_q' uses the Q\(s, a\) of the estimator, but estimator '{estimator}' has none; use q_val"
    )
    with pytest.raises(ConfigError, match=message):
        resolve(Registry.discover(), f"{estimator}+expected_q")


def test_advantage_trains_no_v() -> None:
    combination = resolve(Registry.discover(), "advantage")
    assert combination.needs == {Need.ACTION_VALUES, Need.DISTRIBUTION, Need.NEXT_OBSERVATIONS}
    with pytest.raises(ConfigError, match="n_critic_updates trains V, which no part"):
        resolve(Registry.discover(), "advantage", overrides={"n_critic_updates": 1})


def test_the_shared_state_is_trained_and_saved_once(tmp_path: Any) -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "advantage", n_steps=32, seed=0, device="cpu").learn(64)
    assert list(model.part_states.arrays()) == ["estimator_state", "estimator_state.optimizer"]
    model.save(tmp_path / "model")
    loaded = PolicyGradient.load(tmp_path / "model", device="cpu")
    for states in (model.part_states, loaded.part_states):
        assert states["baseline"] is states["estimator"]
        assert not states["baseline"].training  # type: ignore[union-attr]
    parts: Any = {"estimator": QValue(), "baseline": ExpectedQ()}
    box, discrete = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
    part_states = PartStates(
        parts, Spaces(box, discrete, ActorCriticPolicy(box, discrete, lambda _: 1e-3)), torch.device("cpu")
    )
    assert part_states["baseline"] is part_states["estimator"]
