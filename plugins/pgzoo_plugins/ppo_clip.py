"""The clipped surrogate of PPO."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pgzoo import Batch, Metrics, Objective, Positive, Range, Schedule, Search, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PPOClip(Objective):
    """L = −mean(min(ρ Ψ, clip(ρ, 1−ε, 1+ε) Ψ)), ρ = π/π_old (Schulman et al. 2017, eq. 7).

    With `dual_clip` c, a step with Ψ < 0 counts at least c Ψ: its gradient vanishes where ρ > c (Ye et al. 2020,
    arXiv:1912.09729, eq. 5, c = 3). With `clip_range_vf`, one update moves V(s_t) by at most that much.
    """

    name = "ppo_clip"
    multi_epoch = True
    clip_range: Annotated[float | Schedule, Positive, Search(0.1, 0.4), "clip ρ at 1 ± ε"] = 0.2
    clip_range_vf: Annotated[float | Schedule | None, Positive, "largest change of V per update; none: no limit"] = None
    dual_clip: Annotated[float | None, Range(1, open_low=True), "c, the limit of ρ where Ψ < 0; none: no limit"] = None

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss, logged under the names that SB3's PPO uses."""
        surrogate, clip_fraction = batch.clipped_surrogate(self.clip_range, self.clip_range, dual=self.dual_clip)
        loss = -batch.aggregate(surrogate)
        metrics = {
            "policy_gradient_loss": loss,
            "clip_fraction": clip_fraction,
            "clip_range": batch.scheduled(self.clip_range),
        }
        if self.clip_range_vf is not None:
            metrics["clip_range_vf"] = batch.scheduled(self.clip_range_vf)
        return loss, metrics

    def value_loss(self, batch: Batch, state: State = None) -> torch.Tensor:
        """Return mean (V_clipped − R̂)², with V_clipped = V_old + clip(V − V_old, −ε, ε)."""
        import torch.nn.functional as F

        if self.clip_range_vf is None:
            return super().value_loss(batch, state)
        limit = batch.scheduled(self.clip_range_vf)
        change = (batch.values - batch.old_values).clamp(-limit, limit)
        return F.mse_loss(batch.returns, batch.old_values + change)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Objective]]:
    """Register the objective."""
    return [PPOClip]
