"""Tabular MDPs and the exact policy gradient of any SB3 policy on them.

If states and actions can be enumerated, J(θ) = E[Σ_t γ^t r_t] has a closed form, which autograd differentiates. The
lab compares sampled gradients with the result.
"""

from __future__ import annotations

from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from pgzoo.errors import ConfigError
from pgzoo.interface.types import Array


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """A Markov decision process as arrays. Observations are one-hot states.

    Attributes:
        name: of the MDP, for messages.
        transitions: P(s'|s, a), (S, A, S + 1); the last column is termination.
        rewards: mean rewards r(s, a, s'), (S, A, S + 1).
        start: μ₀(s), (S,).
        noise: added to or subtracted from each mean reward, with equal probability.
        horizon: the number of steps after which an episode ends; None: episodes end only by termination.
        time_limit: whether the end of the horizon is reported as truncation rather than termination.

    Raises:
        ConfigError: an array has the wrong shape, or probabilities do not sum to 1.
    """

    name: str
    transitions: Array
    rewards: Array
    start: Array
    noise: float = 0.0
    horizon: int | None = None
    time_limit: bool = False

    def __post_init__(self) -> None:
        n_states, n_actions = self.transitions.shape[:2]
        for name, shape in (("transitions", (n_states, n_actions, n_states + 1)), ("start", (n_states,))):
            array = getattr(self, name)
            if array.shape != shape:
                raise ConfigError(f"MDP {self.name}: {name} must have shape {shape}, not {array.shape}")
            if (array < 0).any() or not np.allclose(array.sum(axis=-1), 1.0):
                raise ConfigError(f"MDP {self.name}: {name} must be probabilities that sum to 1")
        if self.rewards.shape != self.transitions.shape:
            raise ConfigError(f"MDP {self.name}: rewards must have shape {self.transitions.shape}")

    @property
    def n_states(self) -> int:
        """The number of states, S."""
        return len(self.start)

    @property
    def n_actions(self) -> int:
        """The number of actions, A."""
        return int(self.transitions.shape[1])

    @property
    def observations(self) -> Array:
        """The observation of each state, (S, S), float32."""
        return np.eye(self.n_states, dtype=np.float32)

    def values(self, probs: torch.Tensor, gamma: float) -> torch.Tensor:
        """Return V(s) (S,) of the policy π(a|s) (S, A), in float64 and differentiable.

        Without a horizon, V = (I − γ P_π)⁻¹ r_π, where P_π does not contain the column of termination. With a horizon,
        V_h = r_π + γ P_π V_{h−1} from V_0 = 0 up to the whole horizon.
        """
        transition_probs = torch.as_tensor(self.transitions)
        rewards = (transition_probs * torch.as_tensor(self.rewards)).sum(dim=2)
        r = (probs * rewards).sum(dim=1)
        p = torch.einsum("sa,sat->st", probs, transition_probs[:, :, :-1])
        if self.horizon is None:
            solved: torch.Tensor = torch.linalg.solve(torch.eye(self.n_states, dtype=torch.float64) - gamma * p, r)
            return solved
        values = torch.zeros(self.n_states, dtype=torch.float64)
        for _ in range(self.horizon):
            values = r + gamma * p @ values
        return values

    def objective(self, probs: torch.Tensor, gamma: float) -> torch.Tensor:
        """Return J = Σ_s μ₀(s) V(s), in float64."""
        return torch.as_tensor(self.start) @ self.values(probs, gamma)


def in_float64(policy: ActorCriticPolicy) -> ActorCriticPolicy:
    """Return a copy of the policy that computes in float64, although SB3 converts observations to float32."""
    memo = {id(policy.action_dist): copy(policy.action_dist)}  # deepcopy refuses tensors with a gradient history
    exact = deepcopy(policy, memo).double()
    for module in exact.modules():
        if isinstance(module, BaseFeaturesExtractor):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    exact.set_training_mode(False)
    return exact


def action_probabilities(mdp: TabularMDP, policy: ActorCriticPolicy) -> torch.Tensor:
    """Return π(a|s) (S, A), differentiable."""
    distribution: Any = policy.get_distribution(torch.as_tensor(mdp.observations, device=policy.device))
    probs: torch.Tensor = distribution.distribution.probs
    return probs.double().cpu()


def actor_parameters(policy: ActorCriticPolicy, observations: Any, actions: torch.Tensor) -> list[torch.nn.Parameter]:
    """Return the parameters that log π depends on, in the order of `policy.parameters()`."""
    log_probs = policy.evaluate_actions(observations, actions)[1].sum()
    parameters = [p for p in policy.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(log_probs, parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def _actor(mdp: TabularMDP, policy: ActorCriticPolicy) -> list[torch.nn.Parameter]:
    observations = torch.as_tensor(mdp.observations, device=policy.device)
    return actor_parameters(policy, observations, torch.zeros(mdp.n_states, device=policy.device))


def exact_gradient(mdp: TabularMDP, policy: ActorCriticPolicy, gamma: float) -> Array:
    """Return ∇θ J (P,) in float64, over the flattened `actor_parameters` of the policy."""
    exact = in_float64(policy)
    gradients = torch.autograd.grad(mdp.objective(action_probabilities(mdp, exact), gamma), _actor(mdp, exact))
    return torch.cat([gradient.flatten() for gradient in gradients]).cpu().numpy()


def exact_values(mdp: TabularMDP, policy: ActorCriticPolicy, gamma: float) -> Array:
    """Return V^π(s) (S,) in float64. With a horizon, this is the value at the first step."""
    with torch.no_grad():
        return mdp.values(action_probabilities(mdp, in_float64(policy)), gamma).numpy()


def score_table(mdp: TabularMDP, policy: ActorCriticPolicy) -> Array:
    """Return ∇θ log π(a|s) (S, A, P) in float64.

    With this table, a sampled gradient Σ w ∇ log π(a|s) is a sum over rows, for any policy.
    """
    exact = in_float64(policy)
    parameters = _actor(mdp, exact)
    log_probs = action_probabilities(mdp, exact).log()
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(entry, parameters, retain_graph=True)])
        for entry in log_probs.flatten()
    ]
    return torch.stack(rows).reshape(mdp.n_states, mdp.n_actions, -1).cpu().numpy()
