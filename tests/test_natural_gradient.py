"""`natural_gradient` against a dense Fisher matrix that is inverted in float64, written down from its definition."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from tabular import TABULAR_POLICY, TabularVecEnv, small_mdp
from test_trpo import TwoActions

from pgzoo import PolicyGradient

LINEAR: dict[str, Any] = {"net_arch": [], "ortho_init": False}


def updated(env: Any, fast: Any = "auto", plugin: str = "npg", **fields: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Return a linear policy after one update, and its parameters before."""
    model = PolicyGradient(
        "MlpPolicy", env, plugin, n_steps=64, seed=1, device="cpu", fast=fast, normalize_advantage=False,
        policy_kwargs=LINEAR, plugin_kwargs={"cg_max_steps": 60, "target_kl": None, "step_size": 1.0, **fields},
    )  # fmt: skip
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        model.policy.action_net.weight.normal_(generator=generator)  # type: ignore[operator]
        model.policy.value_net.weight.fill_(2.0)
    return model, parameters(model.policy)


def parameters(policy: Any) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().astype(np.float64).copy() for name, p in policy.named_parameters()}


def flat(rollout_array: Any) -> np.ndarray:
    """(T, N, …) → (T·N, …)."""
    array = np.asarray(rollout_array, dtype=np.float64)
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def natural(fisher: np.ndarray, scores: np.ndarray, advantages: np.ndarray, damping: float) -> np.ndarray:
    """(F + damping I)⁻¹ g with g = mean of Ψ ∇log π."""
    gradient: np.ndarray = advantages @ scores / len(scores)
    solution: np.ndarray = np.linalg.solve(fisher + damping * np.eye(len(fisher)), gradient)
    return solution


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert np.linalg.norm(actual - expected) < tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("fast", ["auto", False])
def test_a_softmax_policy_on_a_small_mdp(fast: Any) -> None:
    """F = mean over visited s of Σ_a π(a|s) ∇log π(a|s) ∇log π(a|s)ᵀ, with ∂ log π(a|s) / ∂z_b = 1[b = a] − π(b|s)."""
    model, before = updated(TabularVecEnv(small_mdp(), 8, seed=3), fast, cg_damping=0.1)
    model.learn(1)
    weight, bias = before["action_net.weight"], before["action_net.bias"]  # (A, S), (A,)
    n_actions = len(bias)
    observations, actions = flat(model.rollout.observations), flat(model.rollout.actions)[:, 0].astype(int)
    logits = observations @ weight.T + bias
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    def score(m: int, a: int) -> np.ndarray:
        d_logits = np.eye(n_actions)[a] - probs[m]
        return np.concatenate([np.outer(d_logits, observations[m]).ravel(), d_logits])

    steps = range(len(actions))
    scores = np.array([score(m, actions[m]) for m in steps])
    fisher = sum(probs[m, a] * np.outer(score(m, a), score(m, a)) for m in steps for a in range(n_actions)) / len(steps)
    expected = natural(np.asarray(fisher), scores, flat(model.rollout_buffer.advantages), 0.1)
    after = parameters(model.policy)
    moved = [(after[name] - before[name]).ravel() for name in ("action_net.weight", "action_net.bias")]
    assert_close(np.concatenate(moved), expected, 1e-5)


def test_a_gaussian_policy() -> None:
    """F is block-diagonal: 2 for each log σ_j, and mean x xᵀ / σ_j² for the weights and bias of μ_j, x = (s, 1)."""
    model, before = updated(make_vec_env(lambda: TwoActions(spaces.Box(-1, 1, (2,))), 4, seed=0), cg_damping=0.01)
    model.learn(1)
    inputs = np.concatenate([flat(model.rollout.observations), np.ones((256, 1))], axis=1)
    weights = np.concatenate([before["action_net.weight"], before["action_net.bias"][:, None]], axis=1)
    std = np.exp(before["log_std"])
    z = (flat(model.rollout.actions) - inputs @ weights.T) / std  # σ = 1 at first
    advantages = flat(model.rollout_buffer.advantages)
    after = parameters(model.policy)
    moved = np.concatenate([after["action_net.weight"], after["action_net.bias"][:, None]], axis=1) - weights
    for j in (0, 1):
        fisher = inputs.T @ inputs / len(inputs) / std[j] ** 2
        assert_close(moved[j], natural(fisher, z[:, [j]] * inputs / std[j], advantages, 0.01), 1e-5)
        expected = natural(np.array([[2.0]]), z[:, [j]] ** 2 - 1, advantages, 0.01)
        assert_close(after["log_std"][[j]] - before["log_std"][[j]], expected, 1e-5)


def test_another_parametrisation_gives_the_same_policy() -> None:
    """The observations are multiplied by a matrix, and the weights by its inverse: the same policy, with other
    parameters. Its natural gradient is the same policy again (Kakade 2001), while gradient descent's is another one."""
    matrix = np.array([[2.0, 1.0], [0.0, 0.25]], dtype=np.float32)

    def weights(transformed: bool, **options: Any) -> np.ndarray:
        def make() -> gym.Env[Any, Any]:
            env: gym.Env[Any, Any] = TwoActions(spaces.Box(-1, 1, (2,)))
            wide = spaces.Box(-100, 100, (2,))
            return gym.wrappers.TransformObservation(env, lambda x: matrix @ x, wide) if transformed else env

        model, _ = updated(make_vec_env(make, 4, seed=0), "auto", **options)
        if transformed:
            with torch.no_grad():
                for net in (model.policy.action_net, model.policy.value_net):
                    net.weight.copy_(net.weight @ torch.as_tensor(matrix).inverse())
        model.learn(1)
        moved: np.ndarray = model.policy.action_net.weight.detach().numpy()
        return moved @ matrix if transformed else moved

    npg, npg_transformed = (weights(x, cg_damping=0.0, target_kl=0.01) for x in (False, True))
    assert np.abs(npg - npg_transformed).max() < 1e-4
    damped = weights(True, cg_damping=0.5, target_kl=0.01)
    assert np.abs(npg - damped).max() > 1e-2


@pytest.mark.parametrize("target_kl", [0.003, 0.03])
def test_the_step_has_the_kl_that_was_asked_for(target_kl: float) -> None:
    """KL(π_old ‖ π) = Σ_a π_old log(π_old / π), from the probabilities at the rollout's observations."""
    model, before = updated(TabularVecEnv(small_mdp(), 8, seed=3), target_kl=target_kl, cg_damping=1e-4)
    model.learn(1)
    observations = flat(model.rollout.observations)

    def log_probs(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        logits = observations @ weight.T + bias
        result: np.ndarray = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return result

    old = log_probs(before["action_net.weight"], before["action_net.bias"])
    after = parameters(model.policy)
    new = log_probs(after["action_net.weight"], after["action_net.bias"])
    kl = (np.exp(old) * (old - new)).sum(axis=1).mean()
    assert kl == pytest.approx(target_kl, rel=0.2)  # up to the third order of the step


def test_the_policy_of_a_small_mdp_improves() -> None:
    mdp = small_mdp()
    model = PolicyGradient(
        "MlpPolicy",
        TabularVecEnv(mdp, 8, seed=3),
        "npg",
        n_steps=32,
        seed=1,
        device="cpu",
        policy_kwargs=TABULAR_POLICY,
    )

    def objective() -> float:
        head: Any = model.policy.action_net
        return float(mdp.objective((head.weight.T + head.bias).detach(), 0.99))

    before = objective()
    model.learn(30 * 8 * 32)
    best = best_return(mdp, 0.99)
    assert objective() > before + 0.8 * (best - before)


def best_return(mdp: Any, gamma: float) -> float:
    """J of the best policy, which may depend on time."""
    values = np.zeros(len(mdp.start))
    for _ in range(mdp.horizon):
        values = (mdp.rewards + gamma * mdp.transitions[:, :, :-1] @ values).max(axis=1)
    return float(mdp.start @ values)
