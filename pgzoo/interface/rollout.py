"""Rollout: what was sampled, as (T, N) arrays, one row per time step and one column per environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pgzoo.errors import PluginError
from pgzoo.interface.action_distribution import ActionDistribution
from pgzoo.interface.observations import map_observations
from pgzoo.interface.types import Aggregate, Array, Need, Observations

if TYPE_CHECKING:
    from typing_extensions import Self

Result = TypeVar("Result")


class AbsentError(PluginError, AttributeError):
    """A part read an array of a rollout that it did not ask for."""


def reverse_scan(x: Array, decay: Array, *, sequential: bool = False) -> Array:
    """Return y (T, N) with y_t = x_t + decay_t · y_{t+1}, and y_T = x_T in the last row.

    This recursion is behind every discounted return. A decay of 0 stops it at the end of an episode.

    It is computed by doubling (Hillis & Steele 1986): once y_t is the sum up to t + k, y_t + d_t · y_{t+k} is the sum
    up to t + 2k, where d_t is the product of k decays. This takes log₂ T passes over whole arrays instead of T passes
    over rows.

    Args:
        x: (T, N), what each step adds.
        decay: (T, N), what the next step's result is multiplied by.
        sequential: sum row by row: ten times slower, but bit-identical to SB3's loop.
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


def _read_only(array: Array) -> Array:
    view = array.view()
    view.setflags(write=False)  # faster than view.flags
    return view


def _frozen(x: Result) -> Result:
    """Return a read-only view of an array or a dict of arrays, and anything else unchanged."""
    frozen: Any = x
    if isinstance(x, np.ndarray):
        frozen = _read_only(x)
    elif isinstance(x, dict):
        frozen = map_observations(_read_only, x)
    elif isinstance(x, ActionDistribution):
        frozen = x.map(_read_only)
    return frozen  # type: ignore[no-any-return]


def frozen_property(method: Callable[[Any], Result]) -> cached_property[Result]:
    """A property that is computed once from the rollout's own arrays and is read-only afterwards."""
    return cached_property(wraps(method)(lambda self: _frozen(method(self))))


def _absent() -> Any:
    """Return None. Unlike a plain default, a factory leaves no class attribute that would hide `__getattr__`."""
    return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Rollout:
    """What was sampled. All arrays are (T, N) and read-only.

    On padding, `mask` is False, observations are arbitrary, and all other numbers are 0. A part gets only the optional
    arrays (those with a default) that it declares in `needs`: reading an absent one raises an error that names the
    `Need`. Use `rollout.replace` to change fields.

    Attributes:
        rewards: r_t, float32, as the environment (or VecNormalize) returned them.
        terminated: whether the episode terminated after this step.
        truncated: whether a time limit ended the episode after this step.
        mask: False on padding.
        step: t within the episode, counted from its reset, even if a fragment begins in mid-episode.
        log_probs: log π(a_t | s_t) of the policy that sampled, float32.
        gamma: γ.
        actions: (T, N, action dimension).
        observations: s_t, (T, N, …), or a dict of such arrays.
        next_observations: s_{t+1} of the true successor, shaped as `observations`: the terminal observation at an
            episode's end. Needs `Need.NEXT_OBSERVATIONS`.
        values: V(s_t), float32. Needs `Need.VALUES`.
        next_values: V(s_{t+1}) of the true successor, float32; 0 where terminated. Needs `Need.VALUES`.
        ratios: ρ_t = π(a_t | s_t) / π_old(a_t | s_t), float64, of the current policy and the one that sampled: 1 before
            an update. Needs `Need.RATIOS`.
        score_sq_norms: ‖∇ log π(a_t | s_t)‖² of the policy that sampled, float64, with respect to the outputs of the
            action head, which are the logits, or the mean and the log standard deviation. Needs `Need.SCORES`.
        distribution: π(· | s_t) of the policy that sampled. Needs `Need.DISTRIBUTION`.
        next_distribution: π(· | s_{t+1}) of the true successor, with zeros where terminated. Needs `Need.DISTRIBUTION`
            and `Need.NEXT_OBSERVATIONS`.
        group: the group of each step's episode: 0 where there are no groups, −1 on padding.
        action_masks: (T, N, number of actions) bool, which actions the environment allowed; None without masks.
        memory: (N, …) what a recurrent policy remembered at the first row, see `Memory`; None for other policies.
        bitwise_sb3: whether sums over time must be bit-identical to SB3's, see `reverse_scan`.
    """

    rewards: Array
    terminated: Array
    truncated: Array
    mask: Array
    step: Array
    log_probs: Array
    gamma: float
    actions: Array
    observations: Observations
    next_observations: Observations = field(default_factory=_absent)
    values: Array = field(default_factory=_absent)
    next_values: Array = field(default_factory=_absent)
    ratios: Array = field(default_factory=_absent)
    score_sq_norms: Array = field(default_factory=_absent)
    distribution: ActionDistribution = field(default_factory=_absent)
    next_distribution: ActionDistribution = field(default_factory=_absent)
    group: Array = field(default_factory=_absent)  # __post_init__ fills it in
    action_masks: Array | None = None
    memory: Array | None = None
    bitwise_sb3: bool = False

    def __post_init__(self) -> None:
        fields = self.__dict__  # the only way to set fields of a frozen dataclass
        group = np.zeros(self.shape, dtype=int) if self.group is None else self.group
        fields["group"] = np.where(self.mask, group, -1)
        for name in OPTIONAL:
            if fields[name] is None:
                del fields[name]
        for name, value in fields.items():
            fields[name] = _frozen(value)

    def __getattr__(self, name: str) -> Any:
        if name in OPTIONAL:
            needs = " and ".join(f"Need.{need.name}" for need in OPTIONAL[name])
            raise AbsentError(f"rollout.{name} is absent: a part that reads it must declare {needs}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def replace(self, **changes: Any) -> Self:
        """Return a copy of the rollout with some fields replaced. Arrays that are absent stay absent."""
        fields = {name: self.__dict__[name] for name in self.__dataclass_fields__ if name in self.__dict__}
        return type(self)(**{**fields, **changes})

    @property
    def shape(self) -> tuple[int, int]:
        """(T, N)."""
        n_steps, n_envs = self.rewards.shape
        return n_steps, n_envs

    # ---------------------------------------------------------------- episodes and groups

    @frozen_property
    def last(self) -> Array:
        """Whether this is the final step of an episode or fragment."""
        last = self.terminated | self.truncated
        continues = np.zeros_like(self.mask)
        continues[:-1] = self.mask[1:]
        return (last | ~continues) & self.mask

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
        """The number of episodes and fragments."""
        return int(self.last.sum())

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

    def group_sums(self, x: Array) -> Array:
        """Return (n_episodes,): for each episode, the sum of x (n_episodes,) over its group, itself included."""
        return np.bincount(self._episode_groups, x)[self._episode_groups]

    @frozen_property
    def _episode_groups(self) -> Array:
        """(n_episodes,) the group of each episode."""
        groups = np.zeros(self.n_episodes, dtype=int)
        groups[self.flat(self.episode)] = self.flat(self.group)
        return groups

    # ---------------------------------------------------------------- sums over time

    @frozen_property
    def discounts(self) -> Array:
        """γ where the next row continues the same episode, 0 at the last step of an episode or fragment; float64."""
        return np.where(self.last, 0.0, self.gamma)

    def discounted_sums(self, x: Array, decay: Array | float = 1.0) -> Array:
        """Return y (T, N) with y_t = x_t + γ decay_t y_{t+1} within each episode, in the floating-point dtype of x.

        With x = r this is the reward-to-go. With x = δ and decay = λ it is GAE (Schulman et al. 2016, eq. 16).

        Args:
            x: (T, N), what each step adds.
            decay: (T, N) or a number, an additional discount such as λ.
        """
        if not np.issubdtype(x.dtype, np.floating):
            x = x.astype(np.float64)  # γ is not an integer
        decays = (self.discounts * decay).astype(x.dtype, copy=False)
        return reverse_scan(x, decays, sequential=self.bitwise_sb3)

    def mean(self, x: Array) -> float:
        """Return the mean of x (T, N) over all steps, excluding padding."""
        return float(np.mean(x, where=self.mask, dtype=np.float64))

    # ---------------------------------------------------------------- (T, N) to (M,) and back

    @cached_property
    def _unpadded(self) -> bool:
        return bool(self.mask.all())

    def flat(self, x: Array) -> Array:
        """Return (M, …), a copy: the M steps that are not padding, environment by environment."""
        if self._unpadded:
            return np.array(x.swapaxes(0, 1), order="C").reshape(-1, *x.shape[2:])
        return x.swapaxes(0, 1)[self.mask.T]

    def scatter(self, x: Any) -> Array:
        """Return (T, N, …) in float64 from an array or tensor (M, …) in the order of `flat`; 0 on padding."""
        flat = x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)
        out = np.zeros((*self.shape[::-1], *flat.shape[1:]))
        out[self.mask.T] = flat
        return out.swapaxes(0, 1)

    def tensors(self, x: Observations, device: Any) -> Any:
        """Return `flat(x)` as a torch tensor, or as a dict of tensors."""
        import torch

        return map_observations(lambda array: torch.as_tensor(self.flat(array), device=device), x)

    def first_memory(self) -> Array:
        """Return (n_episodes, …): what a recurrent policy remembered at the first step of each episode or fragment."""
        assert self.memory is not None
        memory = np.zeros((self.n_episodes, *self.memory.shape[1:]), dtype=np.float32)
        continued = np.flatnonzero(self.mask[0] & (self.step[0] > 0))
        memory[self.episode[0, continued]] = self.memory[continued]
        return memory

    def weights(self, aggregate: Aggregate) -> Array | None:
        """Return (M,) such that Σ w x is the aggregate of x over the rollout; None for the plain mean."""
        if aggregate == "step_mean":
            return None
        per_episode = np.ones(self.n_episodes) if aggregate == "episode_sum" else 1 / self.lengths
        return per_episode[self.flat(self.episode)] / self.n_episodes


OPTIONAL = {
    "next_observations": (Need.NEXT_OBSERVATIONS,),
    "values": (Need.VALUES,),
    "next_values": (Need.VALUES,),
    "ratios": (Need.RATIOS,),
    "score_sq_norms": (Need.SCORES,),
    "distribution": (Need.DISTRIBUTION,),
    "next_distribution": (Need.DISTRIBUTION, Need.NEXT_OBSERVATIONS),
}
"""The fields that are present only if the parts declare all of these needs."""
