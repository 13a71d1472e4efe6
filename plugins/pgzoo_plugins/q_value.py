"""A learned action value, with a critic of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from pgzoo import (
    Array,
    Estimator,
    Metrics,
    Need,
    Range,
    Rollout,
    Search,
    Spaces,
    State,
    hookimpl,
    map_observations,
)

if TYPE_CHECKING:
    import torch

CHUNK = 2048
"""Steps that go through the network at once."""


@dataclass(frozen=True)
class QValue(Estimator):
    """R̂_t = Q_φ(s_t, a_t); minus V it is the advantage Q − V (Sutton et al. 2000, theorem 2).

    Q learns the λ-return of SARSA from each rollout, after the policy used it:
    y_t = r_t + γ[(1−λ) Q(s_{t+1}, a_{t+1}) + λ y_{t+1}], and r_t + γ V(s_{t+1}) at a last step;
    λ = 0 is one-step TD, λ = 1 Monte Carlo. Discrete actions have one output each, others are an input.
    """

    name = "q_value"
    needs = frozenset({Need.VALUES})
    unbiased = False
    bias = "a learned Q stands for the return"
    q_lambda: Annotated[float, Range(0, 1), Search(0.8, 1.0), "λ of Q's target: 0 TD, 1 Monte Carlo"] = 0.95
    q_learning_rate: Annotated[float, Range(0, open_low=True), Search(1e-4, 1e-2, log=True), "of Q's Adam"] = 1e-3
    q_epochs: Annotated[int, Range(1), Search(choices=(1, 5, 10, 20)), "passes over a rollout for Q"] = 10
    q_batch_size: Annotated[int, Range(1), "steps per minibatch for Q"] = 64

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        """Return Q, on a features extractor of the policy's class."""
        from pgzoo_plugins.q_network import QNetwork

        return QNetwork(spaces)

    def make_optimizer(self, state: torch.nn.Module) -> torch.optim.Optimizer:
        """Return Adam."""
        import torch

        return torch.optim.Adam(state.parameters(), lr=self.q_learning_rate)

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return Q(s_t, a_t) (T, N)."""
        import torch

        observations, actions = self._inputs(rollout, state)
        with torch.no_grad():
            parts = torch.split(torch.arange(len(actions), device=actions.device), CHUNK)
            return rollout.scatter(torch.cat([state(_rows(observations, i), actions[i]) for i in parts]))

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        """Fit Q to its targets; `returns` is Q from before this update."""
        import torch

        observations, actions = self._inputs(rollout, state)
        flat = rollout.flat(self.targets(rollout, returns)).astype(np.float32)
        targets = torch.as_tensor(flat, device=actions.device)
        for _ in range(self.q_epochs):
            for index in torch.split(torch.randperm(len(actions), device=actions.device), self.q_batch_size):
                loss = torch.nn.functional.mse_loss(state(_rows(observations, index), actions[index]), targets[index])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return {"q_loss": loss.item()}

    def targets(self, rollout: Rollout, q: Array) -> Array:
        """Return y (T, N) from q = Q(s_t, a_t) (T, N)."""
        rewards = rollout.rewards.astype(np.float64)
        following = np.where(rollout.last, rollout.next_values, (1 - self.q_lambda) * np.roll(q, -1, axis=0))
        return rollout.discounted_sums(rewards + rollout.gamma * following, self.q_lambda)

    def _inputs(self, rollout: Rollout, state: State) -> tuple[Any, torch.Tensor]:
        device = next(state.parameters()).device
        return rollout.tensors(rollout.observations, device), rollout.tensors(rollout.actions, device)


def _rows(x: Any, index: torch.Tensor) -> Any:
    return map_observations(lambda tensor: tensor[index], x)


@hookimpl
def pgzoo_estimators() -> Iterable[type[Estimator]]:
    """Offer the estimator."""
    return [QValue]
