"""Samples: the steps of a rollout as tensors. Batch: the steps of one minibatch, evaluated by the current policy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from pgzoo.interface.observations import map_observations

if TYPE_CHECKING:
    import torch

    Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True, eq=False)
class Samples:
    """The M steps of a rollout as tensors, environment by environment, without padding.

    Attributes:
        observations: (M, …), or a dict of such tensors. Those of a whole rollout are in host memory
            if they do not fit on the policy's device; those of a minibatch are on the device.
        actions: (M, …), as the policy's `evaluate_actions` takes them.
        advantages: Ψ_t (M,), float32.
        returns: (M,), float32, the critic's targets: R̂_t, or the estimator's `critic_targets`.
        old_values: V(s_t) (M,) at sampling time; 0 without a critic.
        old_log_probs: log π_old(a_t | s_t) (M,), of the policy that sampled.
        episode: (M,) index of the episode or fragment.
        weights: (M,) the factors of `aggregate`; None for the plain mean.
        progress_remaining: 1 at the start of training, 0 at its end.
        action_masks: (M, number of actions) bool, which actions the environment allowed; None without masks.
        memory: (number of episodes, …) what a recurrent policy remembered at the first step of each episode or
            fragment, see `Memory`; None for other policies. `episode` are its rows.
    """

    observations: Any
    actions: Tensor
    advantages: Tensor
    returns: Tensor
    old_values: Tensor
    old_log_probs: Tensor
    episode: Tensor
    weights: Tensor | None
    progress_remaining: float
    action_masks: Tensor | None = field(default=None, kw_only=True)
    memory: Tensor | None = field(default=None, kw_only=True)

    @property
    def policy_arguments(self) -> dict[str, Tensor]:
        """What the policy's `evaluate_actions` and `get_distribution` need besides observations and actions."""
        return {} if self.action_masks is None else {"action_masks": self.action_masks}

    def __len__(self) -> int:
        return len(self.advantages)

    def select(self, index: Tensor, share: float) -> Samples:
        """Return the steps at indices (B,). `share` is their fraction of the rollout, which divides their weights."""
        weights = None if self.weights is None else index_rows(self.weights, index) / share
        return replace(
            self,
            observations=index_rows(self.observations, index),
            weights=weights,
            action_masks=None if self.action_masks is None else index_rows(self.action_masks, index),
            **{name: index_rows(getattr(self, name), index) for name in _PER_STEP},
        )


_PER_STEP = ("actions", "advantages", "returns", "old_values", "old_log_probs", "episode")


@dataclass(frozen=True, eq=False)
class Batch(Samples):
    """The B steps of one minibatch, evaluated by the current policy.

    Attributes:
        log_probs: log π(a_t | s_t) (B,), differentiable.
        values: V(s_t) (B,), differentiable.
        entropy: (B,), differentiable; −log π(a_t | s_t) if the distribution has no closed form for it.
    """

    log_probs: Tensor
    values: Tensor
    entropy: Tensor

    @property
    def ratio(self) -> Tensor:
        """ρ_t = π(a_t | s_t) / π_old(a_t | s_t), (B,)."""
        return (self.log_probs - self.old_log_probs).exp()

    def aggregate(self, x: Tensor) -> Tensor:
        """Reduce x (B,) to one number, as the objective's `aggregate` says.

        step_mean: (1/B) Σ x;  episode_sum: (1/E) Σ_e Σ_t x;  episode_mean: (1/E) Σ_e (1/T_e) Σ_t x.
        The policy gradient is the episode_sum. A mean over steps divides it by a random number of steps.
        """
        return x.mean() if self.weights is None else (x * self.weights).sum()

    def approx_kl(self) -> float:
        """Return the mean of (ρ − 1) − log ρ, an estimate of KL(π_old ‖ π) (Schulman 2020)."""
        return approx_kl(self.log_probs.detach(), self.old_log_probs)

    def clipped_surrogate(
        self, low: Any, high: Any, ratio: Tensor | None = None, *, dual: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return min(ρ Ψ, clip(ρ, 1 − low, 1 + high) Ψ) (B,), and the fraction of ρ that was clipped.

        Args:
            low: a number or a schedule.
            high: a number or a schedule.
            ratio: replaces ρ (B,), the ratio of each step.
            dual: where Ψ < 0, the surrogate is at least `dual` · Ψ (dual clip, Ye et al. 2020, eq. 5); None: no limit.
        """
        ratio = self.ratio if ratio is None else ratio
        lowest, highest = 1 - self.scheduled(low), 1 + self.scheduled(high)
        clipped = ratio.clamp(lowest, highest)
        outside = (clipped.detach() != ratio.detach()).float().mean()
        surrogate = (self.advantages * ratio).min(self.advantages * clipped)
        if dual is not None:
            surrogate = surrogate.where(self.advantages >= 0, surrogate.max(dual * self.advantages))
        return surrogate, outside

    def episode_means(self, x: Tensor) -> Tensor:
        """Return (B,): the mean of x (B,) over the batch's steps of the same episode."""
        import torch

        _, index, counts = torch.unique(self.episode, return_inverse=True, return_counts=True)
        sums = torch.zeros(len(counts), dtype=x.dtype, device=x.device).index_add(0, index, x)
        means: Tensor = sums / counts
        return means[index]

    def scheduled(self, value: Any) -> float:
        """Return the current value of a hyperparameter that may be a schedule."""
        if isinstance(value, float):
            return value
        from pgzoo.interface.schedules import as_schedule

        return float(as_schedule(value)(self.progress_remaining))


def approx_kl(log_probs: Tensor, old_log_probs: Tensor) -> float:
    """Return the mean of (ρ − 1) − log ρ, where both arguments are (B,) without a graph."""
    import numpy as np

    log_ratio = log_probs.cpu().numpy() - old_log_probs.cpu().numpy()
    return float(np.mean((np.exp(log_ratio) - 1) - log_ratio))


def index_rows(x: Any, index: Tensor) -> Any:
    """Return the rows of a tensor, or of each tensor in a dict, on the device of the index."""
    return map_observations(lambda tensor: _rows(tensor, index), x)


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    if tensor.device == index.device:
        return tensor.index_select(0, index)
    import torch

    # A GPU copies from pinned memory without an intermediate copy, while the CPU continues. torch does not reuse the
    # memory before it is copied.
    shape, pinned = (len(index), *tensor.shape[1:]), index.device.type == "cuda"
    rows = torch.empty(shape, dtype=tensor.dtype, device=tensor.device, pin_memory=pinned)
    torch.index_select(tensor, 0, index.to(tensor.device), out=rows)
    return rows.to(index.device, non_blocking=pinned)
