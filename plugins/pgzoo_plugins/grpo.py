"""GRPO: the clipped surrogate, averaged over episodes, with a KL penalty to a reference policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pgzoo import (
    AggregateParam,
    Array,
    Batch,
    Metrics,
    Objective,
    Positive,
    Range,
    Rollout,
    Schedule,
    Search,
    Spaces,
    State,
    hookimpl,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GRPO(Objective):
    """L = −(1/E) Σ_e (1/T_e) Σ_t [min(ρ Ψ, clip(ρ, 1−ε, 1+ε) Ψ) − β k3] (Shao et al. 2024, eq. 3).

    k3 = e^q − q − 1 with q = log π_ref − log π estimates KL(π ‖ π_ref) (eq. 4), but its gradient is that of
    KL(π_ref ‖ π). With `kl_correction` the penalty is β ρ k3, whose gradient is that of KL(π ‖ π_ref) (DeepSeek-AI
    2025, arXiv:2512.02556). With β = 0 there is no reference. For `dual_clip`, see `ppo_clip`.
    `reference` chooses π_ref:

    - initial: the policy at the start of training, which is saved with the model;
    - refreshed: a copy of the policy, renewed every `refresh_every` updates;
    - average: θ_ref ← decay θ_ref + (1 − decay) θ after each update.
    """

    name = "grpo"
    multi_epoch = True
    aggregate: AggregateParam = "episode_mean"
    clip_range: Annotated[float | Schedule, Positive, Search(0.1, 0.4), "clip ρ at 1 ± ε"] = 0.2
    kl_coef: Annotated[float, Range(0), Search(1e-4, 0.1, log=True), "β, weight of the KL penalty"] = 0.04
    kl_correction: Annotated[bool, "multiply k3 by ρ"] = False
    dual_clip: Annotated[float | None, Range(1, open_low=True), "c, the limit of ρ where Ψ < 0; none: no limit"] = None
    reference: Annotated[Literal["initial", "refreshed", "average"], "which policy π_ref is"] = "initial"
    refresh_every: Annotated[int, Range(1), "updates between two copies, if refreshed"] = 50
    decay: Annotated[float, Range(0, 1, open_high=True), "share of θ_ref that is kept, if average"] = 0.99

    def make_state(self, spaces: Spaces) -> torch.nn.Module | None:
        """Return the reference policy, or None if β = 0."""
        from pgzoo import ReferencePolicy

        return ReferencePolicy(spaces.policy) if self.kl_coef else None

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss."""
        surrogate, clip_fraction = batch.clipped_surrogate(self.clip_range, self.clip_range, dual=self.dual_clip)
        loss = -batch.aggregate(surrogate)
        metrics = {
            "policy_gradient_loss": loss,
            "clip_fraction": clip_fraction,
            "clip_range": batch.scheduled(self.clip_range),
        }
        if state is None:
            return loss, metrics
        q = state.log_probs(batch) - batch.log_probs
        k3 = q.exp() - q - 1
        kl = batch.aggregate(batch.ratio * k3 if self.kl_correction else k3)
        return loss + self.kl_coef * kl, {**metrics, "reference_kl": kl}

    def update(
        self, rollout: Rollout, returns: Array, state: State, optimizer: torch.optim.Optimizer | None
    ) -> Metrics:
        """Refresh or average the reference policy."""
        if state is not None and self.reference == "refreshed":
            state.refresh(self.refresh_every)
        elif state is not None and self.reference == "average":
            state.follow(self.decay)
        return {}


@hookimpl
def pgzoo_plugins() -> Iterable[type[Objective]]:
    """Register the objective."""
    return [GRPO]
