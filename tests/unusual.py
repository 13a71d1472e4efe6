"""Plugins that are unusual but correct: the conformance kit must not report a fault."""

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
    Scale,
    Spaces,
    State,
)


@dataclass(frozen=True)
class ScaledByTheBatch(Estimator):
    """Reward-to-go divided by the standard deviation of the batch's rewards."""

    name = "scaled_by_the_batch"
    needs = frozenset({Need.COMPLETE_EPISODES})
    bias = "its scale is random"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        scale = float(rollout.rewards[rollout.mask].std()) + 1e-3
        return rollout.discounted_sums(rollout.rewards.astype(np.float64)) / scale


@dataclass(frozen=True)
class Soft(Estimator):
    """TD with the entropy bonus −0.1 log π(a_t|s_t) as part of the reward."""

    name = "soft"
    needs = frozenset({Need.VALUES})
    bias = "it optimises the maximum-entropy objective"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        rewards = rollout.rewards.astype(np.float64) - 0.1 * rollout.log_probs
        return rewards + rollout.gamma * rollout.next_values


@dataclass(frozen=True)
class CentredInGroups(Estimator):
    """The full return minus the mean of the other episodes in the group, computed by the estimator."""

    name = "centred_in_groups"
    needs = frozenset({Need.GROUPS})
    unbiased = True
    discounted_from = "start"
    per_episode = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        returns = rollout.episode_sums(rollout.rewards * rollout.gamma**rollout.step)
        n_others = np.maximum(rollout.group_sums(np.ones_like(returns)) - 1, 1)
        centred = returns - (rollout.group_sums(returns) - returns) / n_others
        return np.where(rollout.mask, centred[rollout.episode], 0.0)


class _OneKindOfActions(Baseline):
    """b = 0. It refuses every other kind of action space."""

    unbiased = True
    takes: type[spaces.Space[Any]]

    def make_state(self, spaces: Spaces) -> torch.nn.Module | None:
        if not isinstance(spaces.action, self.takes):
            raise PluginError(f"{self.name} needs {self.takes.__name__} actions")
        return None

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return 0.0


@dataclass(frozen=True)
class DiscreteOnly(_OneKindOfActions):
    """It supports discrete actions only."""

    name = "discrete_only"
    takes = spaces.Discrete


@dataclass(frozen=True)
class ContinuousOnly(_OneKindOfActions):
    """It supports continuous actions only."""

    name = "continuous_only"
    takes = spaces.Box


@dataclass(frozen=True)
class NeedsTwoFields(Baseline):
    """A choice that requires a second field."""

    name = "needs_two_fields"
    unbiased = True
    form: Literal["constant", "scaled"] = "constant"
    factor: float | None = None

    def __post_init__(self) -> None:
        if self.form == "scaled" and self.factor is None:
            raise ConfigError("form=scaled needs a factor")

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return self.factor or 0.0


@dataclass(frozen=True)
class Ranks(Scale):
    """Ψ is replaced by its rank in the rollout, between −1 and 1."""

    name = "ranks"
    bias = "ranks have another expectation than returns"
    per_episode = True

    def rescaled(
        self, advantages: torch.Tensor, over: Literal["rollout", "minibatch"], state: State = None
    ) -> torch.Tensor:
        if over == "minibatch" or len(advantages) < 2:
            return advantages
        return 2 * advantages.argsort().argsort().to(advantages) / (len(advantages) - 1) - 1


@dataclass(frozen=True)
class SeparatesEnvironments(Scale):
    """c is the largest deviation of each environment plus 1, (T, N)."""

    name = "separates_environments"
    bias = "it depends on the deviations that it divides"

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Array:
        largest = np.where(rollout.mask, np.abs(deviations), 0.0).max(axis=0)
        return np.broadcast_to(1.0 + largest, rollout.shape)


@dataclass(frozen=True, kw_only=True)
class AdvantageWeighted(Objective):
    """loss = −mean exp(Ψ/5) log π (Peng et al. 2019, arXiv:1910.00177): no action becomes less probable."""

    name = "advantage_weighted"

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -batch.aggregate((batch.advantages / 5).clamp(max=3).exp() * batch.log_probs), {}


@dataclass(frozen=True, kw_only=True)
class NormalizesItself(Objective):
    """The policy gradient with Ψ divided by its standard deviation."""

    name = "normalizes_itself"

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -batch.aggregate(batch.advantages / (batch.advantages.std() + 1e-8) * batch.log_probs), {}


# The plugin, a check, its status, and a part of its message.
UNUSUAL: list[tuple[Any, str, str, str]] = [
    (ScaledByTheBatch, "boundaries", "note", "it uses batch statistics"),
    (Soft, "agrees with V", "note", "this may be intended"),
    (CentredInGroups, "boundaries", "note", "it uses batch statistics"),
    (CentredInGroups, "unbiased", "note", "2 measurements"),
    (DiscreteOnly, "shapes", "note", "it does not support continuous actions"),
    (ContinuousOnly, "shapes", "note", "it does not support discrete actions"),
    (ContinuousOnly, "unbiased", "skipped", "the lab's MDPs have discrete actions"),
    (NeedsTwoFields, "unbiased", "note", "4 measurements"),
    (Ranks, "rescaled", "ok", ""),
    (SeparatesEnvironments, "causality", "note", "c_t depends on the return of its own episode, so it is biased"),
    (AdvantageWeighted, "direction", "ok", ""),
    (NormalizesItself, "aggregate", "ok", ""),
]
