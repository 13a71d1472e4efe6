"""What every backend promises: the policy's distribution, numbers, gradients and steps, and errors with an owner."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.backends.backend import Backend
from pgzoo.backends.batched import BatchedBackend
from pgzoo.backends.numpy_mlp import NumpyMlpBackend
from pgzoo.backends.sb3 import SB3Backend
from pgzoo.errors import DivergenceError, EnvironmentFailure
from pgzoo.interface.batch import Samples

BACKENDS = {backend.name: backend for backend in (SB3Backend, BatchedBackend, NumpyMlpBackend)}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,), np.float32),
}
N_STEPS, N_ENVS = 6, 4
SGD = {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}}

each_backend = pytest.mark.parametrize("name", BACKENDS)
each_action = pytest.mark.parametrize("action", ACTIONS)


def make(name: str, action: str = "discrete", **policy_kwargs: Any) -> Backend:
    """A backend whose policy is far from uniform."""
    torch.manual_seed(0)
    space = spaces.Box(-1, 1, (3,), np.float32)
    kwargs = {"net_arch": [8, 8], "ortho_init": False, **policy_kwargs}
    policy: Any = ActorCriticPolicy(space, ACTIONS[action], lambda _: 0.1, **kwargs)
    with torch.no_grad():
        policy.action_net.bias.copy_(torch.linspace(-1, 1, len(policy.action_net.bias)))
        if action == "box":
            policy.log_std.copy_(torch.tensor([-1.0, 0.5]))
    return BACKENDS[name](policy, has_critic=True)


def samples_of(policy: Any, n: int = 24) -> Samples:
    generator = torch.Generator().manual_seed(1)
    observations = torch.randn(n, 3, generator=generator)
    with torch.no_grad():
        actions, values, log_probs = policy(observations)
    return Samples(
        observations=observations,
        actions=actions,
        advantages=torch.randn(n, generator=generator),
        returns=torch.randn(n, generator=generator),
        old_values=values.flatten(),
        old_log_probs=log_probs,
        episode=torch.zeros(n, dtype=torch.long),
        weights=None,
        progress_remaining=1.0,
    )


def loss_of(samples: Any, log_probs: Any, values: Any, entropy: Any) -> torch.Tensor:
    ratio = (log_probs - samples.old_log_probs).exp()
    loss = -(samples.advantages * ratio).mean() + (values.flatten() - samples.returns).square().mean()
    return loss - 0.1 * entropy.mean()  # type: ignore[no-any-return]


# ---------------------------------------------------------------- the policy's numbers


@each_backend
@pytest.mark.parametrize("action", ["discrete", "multi-discrete", "multi-binary"])
def test_actions_have_the_policys_probabilities(name: str, action: str) -> None:
    """One observation and 8,000 actions: χ² against exp log π of every action."""
    backend = make(name, action)
    policy = backend.policy
    backend.begin_rollout(256)
    observation = torch.full((400, 3), 0.5)
    actions = np.concatenate([backend.act(observation)[0].reshape(400, -1) for _ in range(20)])
    every, counts = np.unique(actions, axis=0, return_counts=True)
    as_tensor = torch.as_tensor(every).flatten() if action == "discrete" else torch.as_tensor(every)
    with torch.no_grad():
        probabilities = policy.evaluate_actions(observation[: len(every)], as_tensor)[1].exp().double().numpy()
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)  # every action was drawn
    assert stats.chisquare(counts, probabilities / probabilities.sum() * len(actions)).pvalue > 1e-4


@each_backend
def test_continuous_actions_are_normal(name: str) -> None:
    backend = make(name, "box")
    backend.begin_rollout(256)
    observation = torch.full((400, 3), 0.5)
    actions = np.concatenate([backend.act(observation)[0] for _ in range(20)])
    with torch.no_grad():
        normal: Any = backend.policy.get_distribution(observation[:1]).distribution
    standard = (actions - normal.mean.numpy()) / normal.stddev.numpy()
    assert all(stats.kstest(column, "norm").pvalue > 1e-4 for column in standard.T)


@each_backend
@each_action
def test_a_rollout_has_the_policys_values_and_log_probs(name: str, action: str) -> None:
    backend = make(name, action)
    policy = backend.policy
    buffer = RolloutBuffer(N_STEPS, policy.observation_space, policy.action_space, n_envs=N_ENVS)
    observations = np.random.default_rng(0).normal(size=(N_STEPS, N_ENVS, 3)).astype(np.float32)
    backend.begin_rollout(N_STEPS)
    for t, observation in enumerate(observations):
        actions, values, log_probs = backend.act(torch.as_tensor(observation))
        buffer.observations[t], buffer.actions[t] = observation, actions.reshape(N_ENVS, -1)
        if values is not None and log_probs is not None:
            buffer.values[t], buffer.log_probs[t] = values.flatten(), log_probs
    backend.evaluate_rollout(buffer, N_STEPS)
    flat_actions = torch.as_tensor(buffer.actions.reshape(N_STEPS * N_ENVS, -1), dtype=torch.float32)
    flat_actions = flat_actions.flatten() if action == "discrete" else flat_actions
    with torch.no_grad():
        flat = torch.as_tensor(observations.reshape(-1, 3))
        values, log_probs, _ = policy.evaluate_actions(flat, flat_actions)
    np.testing.assert_allclose(buffer.values.flatten(), values.flatten(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(buffer.log_probs.flatten(), log_probs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(backend.predict_values(observations[0]), values[:N_ENVS, 0], rtol=1e-4, atol=1e-5)
    terminal = backend.predict_terminal_values(list(observations[0]))
    np.testing.assert_allclose(terminal, values[:N_ENVS, 0], rtol=1e-4, atol=1e-5)


@each_backend
@each_action
@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
@pytest.mark.parametrize("optimizer", [{}, SGD])
def test_a_step_is_autograds_and_the_policys_optimizers(
    name: str, action: str, max_grad_norm: float | None, optimizer: dict[str, Any]
) -> None:
    """Evaluation, loss, gradients and parameters after three steps, against torch on a copy of the policy."""
    backend = make(name, action, **optimizer)
    expected: Any = copy.deepcopy(backend.policy)
    samples = samples_of(expected)
    backend.begin_update()
    for _ in range(3):
        values, log_probs, entropy = expected.evaluate_actions(samples.observations, samples.actions)
        expected_loss = loss_of(samples, log_probs, values, entropy)
        expected.optimizer.zero_grad()
        expected_loss.backward()  # type: ignore[no-untyped-call]
        if max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(expected.parameters(), max_grad_norm)
        expected.optimizer.step()

        batch = backend.evaluate_actions(samples)
        loss = loss_of(batch, batch.log_probs, batch.values, batch.entropy)
        for x, y in ((batch.log_probs, log_probs), (batch.values, values.flatten()), (batch.entropy, entropy)):
            torch.testing.assert_close(x.detach(), y.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loss.detach(), expected_loss.detach(), rtol=1e-4, atol=1e-5)
        backend.step(loss, max_grad_norm)
    for (key, x), y in zip(backend.policy.named_parameters(), expected.parameters(), strict=True):
        assert x.grad is not None, key
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(x.detach(), y.detach(), rtol=1e-3, atol=1e-5)
    backend.check_parameters()


# ---------------------------------------------------------------- numbers that are not finite


@each_backend
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (float("nan"), "the loss is nan"),
        (float("inf"), "the loss is inf"),
        (1e38, "the gradient is inf"),  # finite, but the sum of its squares is not
    ],
)
def test_a_gradient_that_is_not_finite_does_not_reach_the_parameters(
    name: str, factor: float, message: str, max_grad_norm: float | None
) -> None:
    backend = make(name)
    samples = samples_of(backend.policy)
    backend.begin_update()
    batch = backend.evaluate_actions(samples)
    backend.step(loss_of(batch, batch.log_probs, batch.values, batch.entropy), max_grad_norm)
    before = {key: x.clone() for key, x in backend.policy.state_dict().items()}
    states = copy.deepcopy(backend.policy.optimizer.state_dict()["state"])
    batch = backend.evaluate_actions(samples)
    loss = batch.values.square().sum() * 0 + batch.log_probs.mean() * 0 + factor * (1 + batch.values.sum() * 1e-5)
    if message == "the gradient is inf":
        loss = (loss - loss.detach()) + 1.0  # its number is small, its gradient is not
    with pytest.raises(DivergenceError, match=rf"training diverged: {message}; lower learning_rate, or set max_grad"):
        backend.step(loss, max_grad_norm)
    for key, x in backend.policy.state_dict().items():
        assert torch.equal(x, before[key]), key
    after = backend.policy.optimizer.state_dict()["state"]
    assert all(torch.equal(x, after[i][key]) for i, state in states.items() for key, x in state.items())


@each_backend
@pytest.mark.parametrize("after_a_step", [False, True])
def test_parameters_that_are_not_finite_are_named(name: str, after_a_step: bool) -> None:
    backend = make(name)
    backend.begin_update()
    if after_a_step:
        batch = backend.evaluate_actions(samples_of(backend.policy))
        backend.step(batch.log_probs.mean() + batch.values.mean(), None)
    backend.check_parameters()
    head: Any = backend.policy.action_net
    with torch.no_grad():
        head.weight.fill_(1e30)  # finite, although the sum of their squares is not
        backend.check_parameters()
        head.weight[0, 1] = float("inf")
    with pytest.raises(DivergenceError, match=r"training diverged: policy\.action_net\.weight is inf; lower"):
        backend.check_parameters()


@each_backend
@each_action
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_observation_that_is_not_finite_is_the_environments(name: str, action: str, number: float) -> None:
    """torch says "Expected parameter logits" or "loc". No action must reach the environment."""
    backend = make(name, action, activation_fn=torch.nn.ReLU)
    observations = torch.zeros(N_ENVS, 3)
    observations[2, 1] = number
    backend.begin_rollout(N_STEPS)
    with pytest.raises(EnvironmentFailure, match=f"returned an observation that is {number}"):
        backend.act(observations)


@each_backend
@each_action
@pytest.mark.parametrize("parameter", ["action_net.bias", "log_std"])
def test_a_policy_that_is_not_finite_has_diverged(name: str, action: str, parameter: str) -> None:
    if parameter == "log_std" and action != "box":
        pytest.skip("only Gaussians have it")
    backend = make(name, action)
    samples = samples_of(backend.policy)
    with torch.no_grad():
        backend.policy.get_parameter(parameter).fill_(float("nan"))
    backend.begin_rollout(N_STEPS)
    with pytest.raises(DivergenceError, match=rf"training diverged: policy\.{parameter} is nan; lower learning_rate"):
        backend.act(samples.observations)
    if name != "numpy":  # whose loss is nan
        with pytest.raises(DivergenceError, match=rf"policy\.{parameter} is nan"):
            backend.evaluate_actions(samples)


@each_backend
def test_another_error_of_the_policy_stays_what_it_is(name: str) -> None:
    backend = make(name)
    backend.begin_rollout(N_STEPS)
    with pytest.raises((ValueError, RuntimeError)) as raised:
        backend.act(torch.zeros(N_ENVS, 7))
    assert not isinstance(raised.value, (EnvironmentFailure, DivergenceError))
