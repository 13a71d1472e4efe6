"""An entropy coefficient α that adapts until the policy has a given entropy."""

from __future__ import annotations

import math
from typing import Any

import torch

from pgzoo import ConfigError

ADAPTATION_RATE = 0.03
"""The step size of Adam for log α, with one step per rollout: α changes by about 3 % each time."""
LIMITS = 1e-4, 1e3
"""The range of α, unless it begins below. If the entropy is too high for long, α would otherwise fall too low."""


class EntropyCoefficient(torch.nn.Module):
    """α follows the gradient of log α · (H − H̄) (Haarnoja et al. 2018, arXiv:1812.05905, sec. 5).

    Args:
        initial: the first α.
        target: H̄, in nats.
        action_space: the action space.

    Raises:
        ConfigError: no policy can have the target entropy, or α cannot begin at `initial`.
    """

    initial: torch.Tensor

    def __init__(self, initial: Any, target: float, action_space: Any) -> None:
        super().__init__()
        self.highest = highest_entropy(action_space)
        self.log = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("initial", torch.zeros(()))
        self.check(target)
        self.begin(initial)

    def check(self, target: float) -> None:
        """Refuse a target that no policy can have."""
        if self.highest <= target:
            raise ConfigError(
                f"target_entropy={target} cannot be reached: the actions have at most {self.highest:.3g} nats, if all "
                "are equally likely"
            )

    def begin(self, initial: Any) -> None:
        """Begin at an α, unless it began there already."""
        if not isinstance(initial, float) or initial == 0:
            raise ConfigError("target_entropy adapts ent_coef, which must begin at a number above 0, such as 0.01")
        if self.initial != torch.tensor(initial):
            self.initial.fill_(initial)
            self.log.data.fill_(math.log(initial))

    @property
    def current(self) -> float:
        """α."""
        return self.log.exp().item()

    def adapt(self, optimizer: torch.optim.Optimizer, entropy: float, target: float) -> None:
        """Take one step of an optimizer of α, given the policy's entropy and H̄ in nats."""
        self.log.grad = torch.tensor(entropy - target, dtype=self.log.dtype, device=self.log.device)
        optimizer.step()
        lowest, highest = LIMITS
        self.log.data.clamp_(math.log(min(lowest, float(self.initial))), math.log(highest))


def highest_entropy(space: Any) -> float:
    """Return the largest entropy, in nats, of a distribution over discrete actions; ∞ for continuous ones."""
    from gymnasium import spaces

    if isinstance(space, spaces.MultiBinary):
        return math.prod(space.shape) * math.log(2)
    if isinstance(space, spaces.MultiDiscrete):
        return sum(map(math.log, space.nvec.flatten().tolist()))
    return math.log(space.n) if isinstance(space, spaces.Discrete) else math.inf
