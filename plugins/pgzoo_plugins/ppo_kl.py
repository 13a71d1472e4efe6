"""PPO with a KL penalty whose coefficient adapts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from pgzoo import Array, Batch, Metrics, Need, Objective, Positive, Rollout, Search, Spaces, State, hookimpl

if TYPE_CHECKING:
    import torch

KL_COEF_LIMITS = 1e-6, 1e6
"""The range of β. Repeated halving or doubling would otherwise end at 0 or infinity."""


@dataclass(frozen=True)
class PPOKL(Objective):
    """L = −mean(ρ Ψ) + β mean((ρ − 1) − log ρ), ρ = π/π_old (Schulman et al. 2017, eq. 8).

    The second mean estimates KL(π_old ‖ π) from the sampled actions. After an update, β is doubled if the KL exceeds
    1.5 · `kl_target` and halved if it is below `kl_target` / 1.5 (sec. 4). Do not confuse `kl_target` with SB3's
    `target_kl`, which stops the epochs of an update.
    """

    name = "ppo_kl"
    needs = frozenset({Need.RATIOS})
    multi_epoch = True
    kl_target: Annotated[float, Positive, Search(0.003, 0.03, log=True), "the KL to aim for in each update"] = 0.01
    initial_kl_coef: Annotated[float, Positive, "β in the first update"] = 1.0

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        """Return β as a buffer."""
        import torch

        state = torch.nn.Module()
        state.register_buffer("kl_coef", torch.tensor(self.initial_kl_coef))
        return state

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss."""
        surrogate = batch.aggregate(batch.ratio * batch.advantages)
        kl = batch.aggregate((batch.ratio - 1) - (batch.log_probs - batch.old_log_probs))
        return state.kl_coef * kl - surrogate, {"policy_gradient_loss": -surrogate, "kl_penalty": kl}

    def update(
        self, rollout: Rollout, returns: Array, state: State, optimizer: torch.optim.Optimizer | None
    ) -> Metrics:
        """Double or halve β, given the KL of the whole update."""
        ratios = np.where(rollout.mask, rollout.ratios, 1.0)
        kl = rollout.mean((ratios - 1) - np.log(ratios))
        if kl > 1.5 * self.kl_target:
            state.kl_coef.mul_(2)
        elif kl < self.kl_target / 1.5:
            state.kl_coef.div_(2)
        state.kl_coef.clamp_(*KL_COEF_LIMITS)
        return {"kl_coef": float(state.kl_coef), "kl": kl}


@hookimpl
def pgzoo_plugins() -> Iterable[type[Objective]]:
    """Register the objective."""
    return [PPOKL]
