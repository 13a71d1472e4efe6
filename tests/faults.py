"""Plugins with one fault each, as an author might make it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch

from pgzoo import (
    Array,
    Baseline,
    Batch,
    Estimator,
    Metrics,
    Need,
    Objective,
    Range,
    Rollout,
    Search,
    Spaces,
    State,
    reverse_scan,
)


@dataclass(frozen=True)
class OwnMean(Baseline):
    """The batch's mean, own episode and all."""

    name = "own_mean"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return rollout.mean(returns), 1.0


@dataclass(frozen=True)
class OffByOne(Estimator):
    """γ^{k−t+1} in place of γ^{k−t} for every reward but the first."""

    name = "off_by_one"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        rewards = rollout.rewards.astype(np.float64)
        to_go = reverse_scan(rewards, np.where(rollout.last, 0.0, rollout.gamma))
        return rewards + rollout.gamma * (to_go - rewards)


@dataclass(frozen=True)
class WrongPower(Estimator):
    """γ^{2t}: the discount of a step is applied twice."""

    name = "wrong_power"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        rewards = rollout.rewards.astype(np.float64)
        return reverse_scan(rewards, np.where(rollout.last, 0.0, rollout.gamma**2))


@dataclass(frozen=True)
class Leaking(Estimator):
    """The sum does not stop where an episode does."""

    name = "leaking"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        return reverse_scan(rollout.rewards.astype(np.float64), np.full(rollout.shape, rollout.gamma))


@dataclass(frozen=True)
class TerminalValue(Estimator):
    """V of the next row, also where the episode terminated and the next row is another one's."""

    name = "terminal_value"
    needs = frozenset({Need.VALUES})
    bias = "a learned V"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        following = np.roll(rollout.values, -1, axis=0)
        following[-1] = rollout.next_values[-1]
        return rollout.rewards.astype(np.float64) + rollout.gamma * following


@dataclass(frozen=True)
class TruncationIsTheEnd(Estimator):
    """No value at a time limit."""

    name = "truncation_is_the_end"
    needs = frozenset({Need.VALUES})
    bias = "a learned V"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        following = np.where(rollout.truncated, 0.0, rollout.next_values)
        return rollout.rewards.astype(np.float64) + rollout.gamma * following


@dataclass(frozen=True)
class NotANumber(Baseline):
    """The standard deviation of a group of equals."""

    name = "not_a_number"
    needs = frozenset({Need.GROUPS})
    bias = "it contains its own episode"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        means = rollout.episode_means(returns)
        squares = rollout.group_sums(means**2) / rollout.group_sums(np.ones_like(means))
        mean = rollout.group_sums(means) / rollout.group_sums(np.ones_like(means))
        return mean[rollout.episode], np.sqrt(np.maximum(squares - mean**2, 0))[rollout.episode]


@dataclass(frozen=True)
class SeesTheAction(Baseline):
    """A baseline a step and action."""

    name = "sees_the_action"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return 0.3 * rollout.actions[..., 0], 1.0


@dataclass(frozen=True)
class InPlace(Baseline):
    """It centres the returns it was given."""

    name = "in_place"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        returns -= 1.0
        return 0.0, 1.0


@dataclass(frozen=True)
class InPlaceBehindTheView(Estimator):
    """It finds the array behind the read-only view."""

    name = "in_place_behind_the_view"
    needs = frozenset({Need.VALUES})
    bias = "a learned V"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        rewards: Any = rollout.rewards.base
        rewards *= 0.5
        return rollout.rewards.astype(np.float64) + rollout.gamma * rollout.next_values


@dataclass(frozen=True)
class CountsPadding(Baseline):
    """A mean over all cells."""

    name = "counts_padding"
    needs = frozenset({Need.COMPLETE_EPISODES})
    bias = "it contains its own episode"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return np.where(rollout.mask, returns, 0).mean(), 1.0


@dataclass(frozen=True)
class SeesTheFuture(Baseline):
    """V of the next state, which the action has brought about."""

    name = "sees_the_future"
    needs = frozenset({Need.VALUES})
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return rollout.next_values, 1.0


@dataclass(frozen=True)
class SeesTheLength(Baseline):
    """How long the own episode turned out to be."""

    name = "sees_the_length"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return 0.1 * rollout.lengths[rollout.episode].astype(float), 1.0


class _Total(torch.nn.Module):
    """What is learned is a plain attribute, which no state_dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0


@dataclass(frozen=True)
class NotSaved(Baseline):
    """An average that a saved model forgets."""

    name = "not_saved"
    unbiased = True

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        return _Total()

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return state.total, 1.0

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        state.total = 0.9 * state.total + 0.1 * rollout.mean(returns)
        return {}


@dataclass(frozen=True)
class LearnsWhileItPredicts(Baseline):
    """This batch enters before it is predicted."""

    name = "learns_while_it_predicts"
    unbiased = True

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        state = torch.nn.Module()
        state.register_buffer("total", torch.zeros(()))
        return state

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        state.total.mul_(0.5).add_(0.5 * rollout.mean(returns))
        return float(state.total), 1.0


MEMORY: dict[str, float] = {"total": 0.0}


@dataclass(frozen=True)
class Global(Baseline):
    """It learns into the module's own dictionary."""

    name = "global"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return MEMORY["total"], 1.0

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        MEMORY["total"] += rollout.mean(returns)
        return {}


@dataclass(frozen=True)
class UndeclaredCritic(Estimator):
    """It reads V and does not say so."""

    name = "undeclared_critic"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        return rollout.rewards.astype(np.float64) + rollout.gamma * rollout.next_values


@dataclass(frozen=True)
class LowPrecision(Estimator):
    """float32."""

    name = "low_precision"
    needs = frozenset({Need.VALUES})
    bias = "a learned V"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        return rollout.rewards + np.float32(rollout.gamma) * rollout.next_values


@dataclass(frozen=True)
class WrongShape(Baseline):
    """One number a step, for all environments: (T,)."""

    name = "wrong_shape"
    bias = "it contains its own episode"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return returns.mean(axis=1), 1.0


@dataclass(frozen=True)
class BadSearch(Baseline):
    """The tuner may draw what its own range refuses."""

    name = "bad_search"
    unbiased = True
    level: Annotated[float, Range(0, 1), Search(0.0, 2.0)] = 0.5

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return self.level, 1.0


@dataclass(frozen=True)
class DiscountsTheBootstrapTwice(Estimator):
    """γ² V(s') in place of γ V(s')."""

    name = "discounts_the_bootstrap_twice"
    needs = frozenset({Need.VALUES})
    bias = "a learned V"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        return rollout.rewards.astype(np.float64) + rollout.gamma**2 * rollout.next_values


@dataclass(frozen=True, kw_only=True)
class Ascends(Objective):
    """The sign of the loss is wrong."""

    name = "ascends"

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return batch.aggregate(batch.advantages * batch.log_probs), {}


@dataclass(frozen=True, kw_only=True)
class PerStep(Objective):
    """A loss a step."""

    name = "per_step"

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -batch.advantages * batch.log_probs, {}


@dataclass(frozen=True, kw_only=True)
class NoRatio(Objective):
    """Several epochs without a ratio."""

    name = "no_ratio"
    multi_epoch = True

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -batch.aggregate(batch.advantages * batch.log_probs), {}


@dataclass(frozen=True, kw_only=True)
class IgnoresWeights(Objective):
    """A mean over steps, whatever `aggregate` says."""

    name = "ignores_weights"

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -(batch.advantages * batch.log_probs).mean(), {}


@dataclass(frozen=True, kw_only=True)
class Sums(Objective):
    """A sum where `step_mean` asks for a mean."""

    name = "sums"

    def __call__(self, batch: Batch, state: State = None) -> Any:
        loss = -batch.advantages * batch.log_probs
        return loss.sum() if batch.weights is None else batch.aggregate(loss), {}


@dataclass(frozen=True, kw_only=True)
class ForgetsItsScale(Objective):
    """A running scale that a saved model forgets."""

    name = "forgets_its_scale"

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        state = _Total()
        state.total = 1.0
        return state

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -batch.aggregate(batch.advantages * batch.log_probs) / state.total, {}

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        state.total = 0.9 * state.total + 0.1 * float(returns.std())
        return {}


@dataclass(frozen=True, kw_only=True)
class SearchesTooFar(Objective):
    """At the end of its Search the loss is infinite."""

    name = "searches_too_far"
    width: Annotated[float, Range(0), Search(0.0, 0.5)] = 0.2

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -batch.aggregate(batch.advantages * batch.log_probs) / self.width, {}


@dataclass(frozen=True)
class ForgetsTheRest(Estimator):
    """It sums rewards to the end of a fragment as if the episode ended there."""

    name = "forgets_the_rest"
    unbiased = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        return reverse_scan(rollout.rewards.astype(np.float64), np.where(rollout.last, 0.0, rollout.gamma))


@dataclass(frozen=True)
class NoValueAtTheLimit(Estimator):
    """TD over whole episodes, with 0 after a time limit."""

    name = "no_value_at_the_limit"
    needs = frozenset({Need.VALUES, Need.COMPLETE_EPISODES})
    bias = "a learned V"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        following = np.where(rollout.last, 0.0, rollout.next_values)
        return rollout.rewards.astype(np.float64) + rollout.gamma * following


@dataclass(frozen=True)
class WritesWhatIsKept(Baseline):
    """It changes what the rollout worked out, which the next one reads."""

    name = "writes_what_is_kept"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        lengths = rollout.lengths
        lengths += 1
        return 0.0, 1.0


@dataclass(frozen=True)
class FixedDiscount(Estimator):
    """γ = 0.9, whatever the algorithm's is."""

    name = "fixed_discount"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        return reverse_scan(rollout.rewards.astype(np.float64), np.where(rollout.last, 0.0, 0.9))


@dataclass(frozen=True)
class Exits(Baseline):
    """It ends the program."""

    name = "exits"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        raise SystemExit(0)


FAULTS: list[tuple[Any, str, str]] = [
    (OwnMean, "causality", "declared unbiased, but b_t or c_t changes with the own episode's return"),
    (
        OwnMean,
        "unbiased",
        "declared unbiased, but on lengths the mean gradient of full_return + own_mean in groups is off by",
    ),
    (OffByOne, "unbiased", "mean gradient of off_by_one + none is off by"),
    (WrongPower, "unbiased", "mean gradient of wrong_power + none is off by"),
    (Leaking, "boundaries", "the rewards of another episode: it leaks over a boundary"),
    (TerminalValue, "boundaries", "V of another episode: where an episode ends it must use next_values"),
    (TruncationIsTheEnd, "truncation", "it takes truncation for termination"),
    (NotANumber, "finite", "where all rewards are 0: baseline 'not_a_number'"),
    (SeesTheAction, "causality", "changes with the action a_t"),
    (SeesTheAction, "unbiased", "is off by"),
    (InPlace, "no mutation", "it changes its input in place"),
    (InPlaceBehindTheView, "no mutation", "it changes its input in place"),
    (CountsPadding, "padding", "it counts steps where mask is False"),
    (SeesTheFuture, "causality", "the own episode's later states or actions"),
    (SeesTheFuture, "unbiased", "is off by"),
    (SeesTheLength, "causality", "the own episode's length or return"),
    (NotSaved, "state", "must be in parameters or buffers"),
    (LearnsWhileItPredicts, "determinism", "belongs into update()"),
    (Global, "state", "it learns without a state"),
    (UndeclaredCritic, "declared needs", "must declare Need.VALUES"),
    (LowPrecision, "shapes", "R̂ is float32; it must be float64"),
    (WrongShape, "shapes", "b has shape (12,); it must be a number or (12, 6)"),
    (BadSearch, "search space", "draws 2.0, which is refused"),
    (DiscountsTheBootstrapTwice, "agrees with V", "a power of γ or an index is off"),
    (FixedDiscount, "discount", "it does not follow rollout.gamma"),
    (Exits, "shapes", "SystemExit"),
    (ForgetsTheRest, "truncation", "declare Need.COMPLETE_EPISODES, or bootstrap"),
    (NoValueAtTheLimit, "truncation", "it takes truncation for termination"),
    (WritesWhatIsKept, "no mutation", "it changes its input in place"),
    (Ascends, "direction", "better actions are made less probable than worse ones"),
    (PerStep, "scalar loss", "it must be one number"),
    (NoRatio, "ratio", "it has no ratio"),
    (IgnoresWeights, "aggregate", "with episode_sum, twice the weights do not give twice the gradient"),
    (Sums, "aggregate", "with step_mean, a batch twice over has another loss"),
    (ForgetsItsScale, "state", "must be in parameters or buffers"),
    (SearchesTooFar, "search space", "with width = 0.0 the loss is no finite number"),
]
