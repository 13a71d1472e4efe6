"""An unbiased estimator with a random Q(s, a), with which a baseline that uses Q can be tested alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pgzoo.interface.parts import Estimator, Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array, Need, State

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RandomQ(Estimator):
    """R̂_t is the reward-to-go, and its state is a random network Q(s, a) that it does not use.

    A baseline that is a mean of Q over the policy's actions must keep the gradient unbiased, however wrong Q is.
    """

    name = "reward_to_go with a random Q"
    needs = frozenset({Need.COMPLETE_EPISODES})
    provides = frozenset({Need.ACTION_VALUES})
    unbiased = True

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        """Return Q, linear in tanh of a random projection of observation and action."""
        import torch

        class Network(torch.nn.Module):
            def __init__(self, n_inputs: int) -> None:
                super().__init__()
                self.head = torch.nn.Sequential(
                    torch.nn.Linear(n_inputs, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1, bias=False)
                )

            def forward(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
                repeated = observations.float().flatten(1)[:, None].expand(-1, actions.shape[1], -1)
                q: torch.Tensor = self.head(torch.cat([repeated, actions.float()], dim=2))
                return q[..., 0]

        n_observations = int(np.prod(spaces.observation.shape or ()))
        return Network(n_observations + int(np.prod(spaces.action.shape or ())))

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return the reward-to-go (T, N)."""
        return rollout.discounted_sums(rollout.rewards.astype(np.float64))
