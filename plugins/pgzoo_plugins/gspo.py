"""GSPO: the clip applies to the ratio of a whole episode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pgzoo import AggregateParam, Batch, Metrics, Need, Objective, Positive, Schedule, Search, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GSPO(Objective):
    """L = −(1/E) Σ_e min(s Ψ, clip(s, 1−ε, 1+ε) Ψ), s = (Π_t ρ_t)^(1/T_e) (Zheng et al. 2025, eq. 5 and 7).

    The geometric mean s varies less than ρ, and ε is therefore smaller than in PPO. For episodes of thousands of
    tokens, the paper uses 3e-4 below and 4e-4 above. Minibatches consist of whole episodes, each with a single Ψ.
    """

    name = "gspo"
    needs = frozenset({Need.EPISODE_ADVANTAGES})
    multi_epoch = True
    whole_episodes = True
    aggregate: AggregateParam = "episode_mean"
    clip_range: Annotated[float | Schedule, Positive, Search(0.001, 0.2, log=True), "clip ρ at 1 ± ε"] = 0.05

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss."""
        ratio = batch.episode_means(batch.log_probs - batch.old_log_probs).exp()
        surrogate, clip_fraction = batch.clipped_surrogate(self.clip_range, self.clip_range, ratio)
        loss = -batch.aggregate(surrogate)
        return loss, {
            "policy_gradient_loss": loss,
            "clip_fraction": clip_fraction,
            "clip_range": batch.scheduled(self.clip_range),
        }


@hookimpl
def pgzoo_plugins() -> Iterable[type[Objective]]:
    """Register the objective."""
    return [GSPO]
