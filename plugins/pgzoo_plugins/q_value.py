"""A learned action value Q(s, a), from a critic that the estimator trains itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from pgzoo import Array, Estimator, Metrics, Need, Positive, Range, Rollout, Search, Spaces, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class QValue(Estimator):
    """R̂_t = Q_φ(s_t, a_t). Minus V(s_t) it is the advantage (Sutton et al. 2000, theorem 2).

    After each update of the policy, Q is fitted to the λ-return of SARSA,

        y_t = r_t + γ [(1−λ) Q(s_{t+1}, a_{t+1}) + λ y_{t+1}].

    Where an episode or fragment is cut, a_{t+1} is unknown, and y_t = r_t + γ Σ_a π(a|s_{t+1}) Q(s_{t+1}, a), as in
    Expected SARSA. Where an episode terminates, y_t = r_t. λ = 0 is one-step TD, λ = 1 Monte Carlo.
    """

    name = "q_value"
    needs = frozenset({Need.NEXT_OBSERVATIONS, Need.DISTRIBUTION})
    provides = frozenset({Need.ACTION_VALUES})
    unbiased = False
    bias = "a learned Q replaces the return"
    q_lambda: Annotated[
        float, Range(0, 1), Search(0.8, 0.9999, scale="log1m"), "λ of Q's targets, from TD (0) to Monte Carlo (1)"
    ] = 0.95
    q_learning_rate: Annotated[float, Positive, Search(1e-4, 1e-2, log=True), "step size of Q's Adam"] = 1e-3
    q_epochs: Annotated[int, Range(1), Search(1, 20, log=True), "passes of Q over a rollout"] = 10
    q_batch_size: Annotated[int, Range(1), "steps per minibatch of Q"] = 64

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        """Return the network Q_φ."""
        from pgzoo_plugins._q_network import QNetwork

        return QNetwork(spaces)

    def make_optimizer(self, state: torch.nn.Module) -> torch.optim.Optimizer:
        """Return Adam with `q_learning_rate`."""
        import torch

        return torch.optim.Adam(state.parameters(), lr=self.q_learning_rate)

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return Q(s_t, a_t) (T, N)."""
        from pgzoo_plugins._q_network import q_values

        return rollout.scatter(q_values(state, *self._inputs(rollout, state))[:, 0])

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        """Fit Q to its targets. `returns` is Q(s_t, a_t) from before this update."""
        import torch

        from pgzoo_plugins._q_network import expected_q, select

        cut = rollout.last & ~rollout.terminated
        after_cut = expected_q(state, rollout, rollout.next_observations, rollout.next_distribution, cut)
        observations, actions = self._inputs(rollout, state)
        flat = rollout.flat(self.targets(rollout, returns, after_cut)).astype(np.float32)
        targets = torch.as_tensor(flat, device=actions.device)
        for _ in range(self.q_epochs):
            for index in torch.split(torch.randperm(len(actions), device=actions.device), self.q_batch_size):
                q = state(select(observations, index), actions[index])[:, 0]
                loss = torch.nn.functional.mse_loss(q, targets[index])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
                optimizer.step()
        return {"q_loss": loss.item()}

    def targets(self, rollout: Rollout, q: Array, after_cut: Array) -> Array:
        """Return y_t (T, N), where q is Q(s_t, a_t) and after_cut is Σ_a π(a|s_{t+1}) Q(s_{t+1}, a) at cuts, else 0."""
        rewards = rollout.rewards.astype(np.float64)
        following = np.where(rollout.last, after_cut, (1 - self.q_lambda) * np.roll(q, -1, axis=0))
        return rollout.discounted_sums(rewards + rollout.gamma * following, self.q_lambda)

    def _inputs(self, rollout: Rollout, state: State) -> tuple[Any, torch.Tensor]:
        """Return observations (M, …) and actions (M, 1, action dimension) on the device of Q."""
        device = next(state.parameters()).device
        return rollout.tensors(rollout.observations, device), rollout.tensors(rollout.actions, device)[:, None]


@hookimpl
def pgzoo_plugins() -> Iterable[type[Estimator]]:
    """Register the estimator."""
    return [QValue]
