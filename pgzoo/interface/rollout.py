"""Rollout: what was sampled, as (T, N) arrays; Batch: the steps of one update, as tensors.

T is time, N the environments, one column each. SB3's conventions (dones, infos, terminal observations) are
converted once, in `pgzoo.sampling.collector`; nobody after it looks at infos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from pgzoo.errors import PluginError
from pgzoo.interface.parts import Aggregate, Array

if TYPE_CHECKING:
    import torch

    Tensor: TypeAlias = torch.Tensor
    Observations: TypeAlias = Array | dict[str, Array]

FLOAT_EPS = 1e-8
"""What SB3 adds to the standard deviation when it normalises advantages."""


def reverse_scan(x: Array, decay: Array, *, sequential: bool = False) -> Array:
    """Return y (T, N) with y_t = x_t + decay_t · y_{t+1}, and y_T = x_T at the last row.

    The recursion behind every discounted return: a decay of 0 stops it, at the end of an episode. By doubling
    (Hillis & Steele 1986): once y_t is the sum up to t + k, y_t + d_t · y_{t+k} is the one up to t + 2k, where d_t is
    the product of k decays; so log₂ T passes over whole arrays, not T over rows.

    Args:
        x: (T, N), what each step adds.
        decay: (T, N), what the next step's result is multiplied by.
        sequential: add row by row, ten times slower, for who must be another loop's equal to the last bit.
    """
    y, d, k = x.copy(), decay.copy(), 1
    if sequential:
        carry = np.zeros_like(x[0])
        for row, product in zip(reversed(list(y)), reversed(list(d)), strict=True):
            np.multiply(product, carry, out=product)
            carry = np.add(row, product, out=row)
        return y
    while k < len(x):
        y[:-k] += d[:-k] * y[k:]
        d[:-k] *= d[k:]
        k *= 2
    return y


Result = TypeVar("Result")


def _frozen(x: Result) -> Result:
    """Return a read-only view of an array, or a dict of them; anything else as it is."""
    if isinstance(x, dict):
        return {key: _frozen(value) for key, value in x.items()}  # type: ignore[return-value]
    if isinstance(x, np.ndarray):
        x = x.view()
        x.flags.writeable = False
    return x


def frozen_property(method: Callable[[Any], Result]) -> cached_property[Result]:
    """A property that is worked out once and read-only ever after: nobody can change what the next one reads."""
    return cached_property(wraps(method)(lambda self: _frozen(method(self))))


@dataclass(frozen=True, eq=False)
class Rollout:
    """What was sampled. All arrays are (T, N) and read-only; on padding `mask` is False, observations are
    arbitrary and all other numbers are 0.

    Attributes:
        rewards: r_t, float32, as the environment (or VecNormalize) gave them.
        terminated: the episode ended after this step, by itself.
        truncated: the episode was ended after this step, by a time limit: it would have gone on.
        mask: False on padding.
        step: t within the episode, counted from its reset, also where a fragment begins in its middle.
        log_probs: log π(a_t | s_t) of the policy that sampled, float32.
        gamma: γ.
        actions: (T, N, action dimension).
        sequential: whether a sum over time must be SB3's to the last bit, see `reverse_scan`.
    """

    rewards: Array
    terminated: Array
    truncated: Array
    mask: Array
    step: Array
    log_probs: Array
    gamma: float
    actions: Array
    _observations: Observations
    _successors: Callable[[], Observations]
    _values: Array | None = None
    _next_values: Array | None = None
    _group: Array | None = None
    _scores: Callable[[], Array] | None = None
    _ratios: Callable[[], Array] | None = None
    sequential: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, (np.ndarray, dict)):
                self.__dict__[name] = _frozen(value)

    @property
    def shape(self) -> tuple[int, int]:
        """(T, N)."""
        n_steps, n_envs = self.rewards.shape
        return n_steps, n_envs

    @property
    def values(self) -> Array:
        """V(s_t), float32. Raises PluginError unless a part declared `Need.VALUES`."""
        return self._critic(self._values)

    @property
    def next_values(self) -> Array:
        """V(s_{t+1}) of the true successor, float32; 0 where terminated. Raises as `values` does."""
        return self._critic(self._next_values)

    @property
    def observations(self) -> Observations:
        """s_t, (T, N, …), or a dict of such arrays."""
        return self._observations

    @frozen_property
    def next_observations(self) -> Observations:
        """s_{t+1} of the true successor, shaped as `observations`: at an episode's end the terminal one."""
        return self._successors()

    @frozen_property
    def last(self) -> Array:
        """Whether this is the final step of an episode or of a fragment."""
        last = self.terminated | self.truncated
        following = np.zeros_like(self.mask)
        following[:-1] = self.mask[1:]
        return (last | ~following) & self.mask

    @frozen_property
    def discounts(self) -> Array:
        """γ, 0 where terminated; float64."""
        return np.where(self.terminated, 0.0, self.gamma)

    @frozen_property
    def episode(self) -> Array:
        """The index 0 … n_episodes − 1 of the episode or fragment, column by column; −1 on padding."""
        starts = np.ones_like(self.mask)
        starts[1:] = self.last[:-1] | ~self.mask[:-1]
        starts &= self.mask
        index = np.cumsum(starts.T.reshape(-1)).reshape(starts.T.shape).T - 1
        return np.where(self.mask, index, -1)

    @cached_property
    def n_episodes(self) -> int:
        """How many episodes and fragments there are."""
        return int(self.last.sum())

    @frozen_property
    def group(self) -> Array:
        """The index of the group that each step's episode belongs to; 0 where there are none, −1 on padding."""
        group = np.zeros(self.shape, dtype=int) if self._group is None else self._group
        return np.where(self.mask, group, -1)

    @frozen_property
    def ratios(self) -> Array:
        """ρ_t = π(a_t|s_t) / π_old(a_t|s_t) of the policy as it is now and as it sampled; 1 before an update."""
        return np.ones(self.shape) if self._ratios is None else self._ratios()

    @frozen_property
    def score_sq_norms(self) -> Array:
        """‖∇ log π(a_t|s_t)‖² with respect to what the action head puts out, float64.

        Discrete actions: logits; Gaussian: mean and log standard deviation. Raises PluginError unless a part
        declared `Need.SCORES`.
        """
        if self._scores is None:
            raise PluginError("a part that reads score_sq_norms must declare Need.SCORES")
        return self._scores()

    @frozen_property
    def lengths(self) -> Array:
        """(n_episodes,) steps of each episode or fragment."""
        return np.bincount(self.flat(self.episode), minlength=self.n_episodes)

    def episode_sums(self, x: Array) -> Array:
        """Return (n_episodes,): the sum of x (T, N) over the steps of each episode, in float64."""
        return np.bincount(self.flat(self.episode), self.flat(x), minlength=self.n_episodes)

    def episode_means(self, x: Array) -> Array:
        """Return (n_episodes,): the mean of x (T, N) over the steps of each episode."""
        return self.episode_sums(x) / self.lengths

    @frozen_property
    def _episode_groups(self) -> Array:
        """(n_episodes,) the group of each episode."""
        groups = np.zeros(self.n_episodes, dtype=int)
        groups[self.flat(self.episode)] = self.flat(self.group)
        return groups

    def group_sums(self, x: Array) -> Array:
        """Return (n_episodes,): for each episode, the sum of x (n_episodes,) over its group, itself included."""
        return np.bincount(self._episode_groups, x)[self._episode_groups]

    def mean(self, x: Array) -> float:
        """Return the mean of x (T, N) over all steps, padding left out."""
        return float(np.mean(x, where=self.mask, dtype=np.float64))

    @cached_property
    def _full(self) -> bool:
        """Whether there is no padding."""
        return bool(self.mask.all())

    def flat(self, x: Array) -> Array:
        """Return (M, …), a copy: the M steps that are no padding, environment by environment."""
        if self._full:
            return np.array(x.swapaxes(0, 1), order="C").reshape(-1, *x.shape[2:])
        return x.swapaxes(0, 1)[self.mask.T]

    def scatter(self, x: Any) -> Array:
        """Return (T, N) in float64 from (M,) numbers or tensor as `flat` orders them; 0 on padding."""
        out = np.zeros(self.shape[::-1])
        out[self.mask.T] = x.detach().cpu().numpy() if hasattr(x, "detach") else x
        return out.T

    def tensors(self, x: Array | dict[str, Array], device: Any) -> Any:
        """Return `flat(x)` as a torch tensor, or as a dict of them."""
        import torch

        if isinstance(x, dict):
            return {key: self.tensors(value, device) for key, value in x.items()}
        return torch.as_tensor(self.flat(x), device=device)

    def weights(self, aggregate: Aggregate) -> Array | None:
        """Return (M,) with which Σ w x is the aggregate of x over the rollout; None for the plain mean."""
        if aggregate == "step_mean":
            return None
        per_episode = np.ones(self.n_episodes) if aggregate == "episode_sum" else 1 / self.lengths
        return per_episode[self.flat(self.episode)] / self.n_episodes

    def _critic(self, values: Array | None) -> Array:
        if values is None:
            raise PluginError("no critic is trained here: a part that reads values must declare Need.VALUES")
        return values


@dataclass(frozen=True, eq=False)
class Samples:
    """The M steps of a rollout as tensors, environment by environment; padding is left out.

    Attributes:
        observations: (M, …), or a dict of such tensors; on the CPU until they are a `Batch`.
        actions: (M, …) as the policy's `evaluate_actions` takes them.
        advantages: Ψ_t (M,), float32.
        returns: (M,), float32, what the critic learns: R̂_t, or the estimator's `critic_targets`.
        old_values: V(s_t) (M,) when sampled; 0 without a critic.
        old_log_probs: log π_old(a_t | s_t) (M,), of the policy that sampled.
        episode: (M,) index of the episode or fragment.
        weights: (M,) what `aggregate` multiplies with; None for the plain mean.
        progress_remaining: from 1 at the start of training to 0 at its end.
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

    def __len__(self) -> int:
        return len(self.advantages)

    def select(self, index: Tensor, share: float) -> Samples:
        """Return the steps at (B,) indices, a share of the rollout; weights grow by 1/share to keep their scale."""
        weights = None if self.weights is None else index_rows(self.weights, index) / share
        return replace(
            self,
            observations=index_rows(self.observations, index),
            weights=weights,
            **{name: index_rows(getattr(self, name), index) for name in _PER_STEP},
        )

    def normalized(self) -> Samples:
        """Return the steps with advantages of mean 0 and sample standard deviation 1, as SB3 does."""
        if len(self) < 2:
            return self
        advantages = (self.advantages - self.advantages.mean()) / (self.advantages.std() + FLOAT_EPS)
        return replace(self, advantages=advantages)


_PER_STEP = ("actions", "advantages", "returns", "old_values", "old_log_probs", "episode")


@dataclass(frozen=True, eq=False)
class Batch(Samples):
    """The steps of one minibatch (B of them), with what the present policy says of them.

    Attributes:
        log_probs: log π(a_t | s_t) (B,), differentiable.
        values: V(s_t) (B,), differentiable.
        entropy: (B,), differentiable; −log π(a_t | s_t) where the distribution has no formula for it.
    """

    log_probs: Tensor
    values: Tensor
    entropy: Tensor

    @property
    def ratio(self) -> Tensor:
        """ρ_t = π(a_t | s_t) / π_old(a_t | s_t), (B,)."""
        return (self.log_probs - self.old_log_probs).exp()

    def aggregate(self, x: Tensor) -> Tensor:
        """Return one number from x (B,), as the objective's `aggregate` says.

        step_mean: (1/B) Σ x;  episode_sum: (1/E) Σ_e Σ_t x;  episode_mean: (1/E) Σ_e (1/T_e) Σ_t x.
        The policy gradient is the episode_sum; a mean over steps divides it by a random length.
        """
        return x.mean() if self.weights is None else (x * self.weights).sum()

    def clipped_surrogate(self, low: Any, high: Any, ratio: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return min(ρ Ψ, clip(ρ, 1 − low, 1 + high) Ψ) (B,), and the share of ρ that lies outside (a number).

        Args:
            low: a number or a schedule.
            high: a number or a schedule.
            ratio: another ρ (B,) than each step's own.
        """
        ratio = self.ratio if ratio is None else ratio
        lowest, highest = 1 - self.scheduled(low), 1 + self.scheduled(high)
        clipped = ratio.clamp(lowest, highest)
        outside = (clipped.detach() != ratio.detach()).float().mean()
        return (self.advantages * ratio).min(self.advantages * clipped), outside

    def episode_means(self, x: Tensor) -> Tensor:
        """Return (B,): the mean of x (B,) over the batch's steps of the same episode."""
        import torch

        _, index, counts = torch.unique(self.episode, return_inverse=True, return_counts=True)
        sums = torch.zeros(len(counts), dtype=x.dtype, device=x.device).index_add(0, index, x)
        means: Tensor = sums / counts
        return means[index]

    def scheduled(self, value: Any) -> float:
        """Return the present value of a hyperparameter that may be a schedule."""
        from pgzoo.interface.schedules import as_schedule

        return float(as_schedule(value)(self.progress_remaining))


def index_rows(x: Any, index: Tensor) -> Any:
    """Return the rows of a tensor, or of each of a dict of them."""
    if isinstance(x, Mapping):
        return {key: index_rows(value, index) for key, value in x.items()}
    return x.index_select(0, index.to(x.device))
