"""Plugins that are unusual and sound: what the conformance kit says of them is no fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces

from pgzoo import (
    Array,
    Baseline,
    Batch,
    ConfigError,
    Estimator,
    Need,
    Objective,
    PluginError,
    Rollout,
    Spaces,
    State,
    reverse_scan,
)


@dataclass(frozen=True)
class ScaledByTheBatch(Estimator):
    """Reward-to-go over the standard deviation of the batch's rewards."""

    name = "scaled_by_the_batch"
    needs = frozenset({Need.COMPLETE_EPISODES})
    bias = "its scale is random"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        scale = rollout.rewards[rollout.mask].std() + 1e-3
        decay = np.where(rollout.last, 0.0, rollout.gamma)
        return reverse_scan(rollout.rewards.astype(np.float64), decay) / scale


@dataclass(frozen=True)
class Soft(Estimator):
    """One step of the soft return: −0.1 log π(a_t|s_t) is a reward too."""

    name = "soft"
    needs = frozenset({Need.VALUES})
    bias = "another objective, that of maximum entropy"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        rewards = rollout.rewards.astype(np.float64) - 0.1 * rollout.log_probs
        return rewards + rollout.gamma * rollout.next_values


@dataclass(frozen=True)
class OfGroups(Estimator):
    """The full return less the mean of the group's others, in the estimator."""

    name = "of_groups"
    needs = frozenset({Need.GROUPS})
    unbiased = True
    discounted_from = "start"
    per_episode = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        whole = rollout.episode_sums(rollout.rewards * rollout.gamma**rollout.step)
        others = np.maximum(rollout.group_sums(np.ones_like(whole)) - 1, 1)
        centred = whole - (rollout.group_sums(whole) - whole) / others
        return np.where(rollout.mask, centred[rollout.episode], 0.0)


class _OfActions(Baseline):
    """b = 0 for one kind of action space; it refuses the other."""

    unbiased = True
    takes: type[spaces.Space[Any]]

    def make_state(self, spaces: Spaces) -> torch.nn.Module | None:
        if not isinstance(spaces.action, self.takes):
            raise PluginError(f"{self.name} needs {self.takes.__name__} actions")
        return None

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return 0.0, 1.0


@dataclass(frozen=True)
class DiscreteOnly(_OfActions):
    """As its name says."""

    name = "discrete_only"
    takes = spaces.Discrete


@dataclass(frozen=True)
class ContinuousOnly(_OfActions):
    """As its name says."""

    name = "continuous_only"
    takes = spaces.Box


@dataclass(frozen=True)
class NeedsAPartner(Baseline):
    """A switch that asks for a second field."""

    name = "needs_a_partner"
    unbiased = True
    form: Literal["constant", "scaled"] = "constant"
    factor: float | None = None

    def __post_init__(self) -> None:
        if self.form == "scaled" and self.factor is None:
            raise ConfigError("form=scaled needs a factor")

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return self.factor or 0.0, 1.0


@dataclass(frozen=True, kw_only=True)
class AdvantageWeighted(Objective):
    """loss = −mean exp(Ψ/5) log π (Peng et al. 2019, "Advantage-Weighted Regression"): no action is pushed down."""

    name = "advantage_weighted"

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -batch.aggregate((batch.advantages / 5).clamp(max=3).exp() * batch.log_probs), {}


@dataclass(frozen=True, kw_only=True)
class NormalizesItself(Objective):
    """The policy gradient with Ψ over its sample standard deviation."""

    name = "normalizes_itself"

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -batch.aggregate(batch.advantages / (batch.advantages.std() + 1e-8) * batch.log_probs), {}


# class, what the kit says: check, status, part of the message
UNUSUAL: list[tuple[Any, str, str, str]] = [
    (ScaledByTheBatch, "boundaries", "note", "it is made of the batch's statistics"),
    (Soft, "agrees with V", "note", "that may be meant"),
    (OfGroups, "boundaries", "note", "it is made of the batch's statistics"),
    (OfGroups, "unbiased", "note", "2 measurements"),
    (DiscreteOnly, "shapes", "note", "it takes no continuous actions"),
    (ContinuousOnly, "shapes", "note", "it takes no discrete actions"),
    (ContinuousOnly, "unbiased", "skipped", "the tabular MDPs have discrete actions"),
    (NeedsAPartner, "unbiased", "note", "4 measurements"),
    (AdvantageWeighted, "direction", "ok", ""),
    (NormalizesItself, "aggregate", "ok", ""),
]
