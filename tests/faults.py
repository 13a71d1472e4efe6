"""Plugins with one fault each, as an author could make it, and the message with which the kit reports it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch

from pgzoo import (
    Array,
    Baseline,
    Batch,
    Episode,
    Estimator,
    Learner,
    Metrics,
    Need,
    Objective,
    Plan,
    PlanContext,
    Range,
    Rollout,
    RolloutEnd,
    Sampling,
    Scale,
    Search,
    Spaces,
    State,
    Update,
)


class _PlainAttribute(torch.nn.Module):
    """A plain attribute, which is not in the state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0


@dataclass(frozen=True)
class OwnMean(Baseline):
    """The mean of the batch, which includes the episode itself."""

    name = "own_mean"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return rollout.mean(returns)


@dataclass(frozen=True)
class OffByOne(Estimator):
    """γ^{k−t+1} instead of γ^{k−t} for every reward except the first."""

    name = "off_by_one"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        rewards = rollout.rewards.astype(np.float64)
        to_go = rollout.discounted_sums(rewards)
        return rewards + rollout.gamma * (to_go - rewards)


@dataclass(frozen=True)
class WrongPower(Estimator):
    """γ^{2t} instead of γ^t: each step is discounted twice."""

    name = "wrong_power"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        rewards = rollout.rewards.astype(np.float64)
        return rollout.discounted_sums(rewards, rollout.gamma)


@dataclass(frozen=True)
class Leaking(Estimator):
    """The sum does not stop at the end of an episode."""

    name = "leaking"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        returns = rollout.rewards.astype(np.float64)
        for t in reversed(range(len(returns) - 1)):
            returns[t] += rollout.gamma * returns[t + 1]
        return returns


@dataclass(frozen=True)
class TerminalValue(Estimator):
    """V of the next row, even if the next row belongs to another episode."""

    name = "terminal_value"
    needs = frozenset({Need.VALUES})
    bias = "a learned V"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        next_values = np.roll(rollout.values, -1, axis=0)
        next_values[-1] = rollout.next_values[-1]
        return rollout.rewards.astype(np.float64) + rollout.gamma * next_values


@dataclass(frozen=True)
class TruncationIsTheEnd(Estimator):
    """0 instead of V(s') at a time limit."""

    name = "truncation_is_the_end"
    needs = frozenset({Need.VALUES})
    bias = "a learned V"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        next_values = np.where(rollout.truncated, 0.0, rollout.next_values)
        return rollout.rewards.astype(np.float64) + rollout.gamma * next_values


@dataclass(frozen=True)
class NotANumber(Scale):
    """The standard deviation of a group, which can be 0."""

    name = "not_a_number"
    needs = frozenset({Need.GROUPS})
    bias = "it reweights the groups"

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Any:
        means = rollout.episode_means(returns)
        squares = rollout.group_sums(means**2) / rollout.group_sums(np.ones_like(means))
        mean = rollout.group_sums(means) / rollout.group_sums(np.ones_like(means))
        return np.sqrt(np.maximum(squares - mean**2, 0))[rollout.episode]


@dataclass(frozen=True)
class Negative(Scale):
    """A number below 0, which turns the gradient around."""

    name = "negative"
    bias = "it depends on the batch"

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Any:
        return -1.0


@dataclass(frozen=True)
class PerColumn(Scale):
    """One number per environment, (N,)."""

    name = "per_column"
    bias = "it depends on the batch"

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Any:
        return 1.0 + np.abs(deviations).mean(axis=0)


@dataclass(frozen=True)
class DividesInPlace(Scale):
    """It divides the deviations in place."""

    name = "divides_in_place"
    bias = "it depends on the batch"

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Any:
        deviations /= 2.0
        return 1.0


@dataclass(frozen=True)
class OwnReturn(Scale):
    """It depends on the return that it divides."""

    name = "own_return"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Any:
        return 1.0 + 0.3 * np.abs(returns)


@dataclass(frozen=True)
class Halves(Scale):
    """It halves every advantage, and therefore the gradient."""

    name = "halves"
    unbiased = True
    per_episode = True

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Any:
        return 2.0


@dataclass(frozen=True)
class CentresSamples(Scale):
    """It subtracts the mean of the samples, which contains each of them."""

    name = "centres_samples"
    unbiased = True

    def rescaled(
        self, advantages: torch.Tensor, over: Literal["rollout", "minibatch"], state: State = None
    ) -> torch.Tensor:
        return advantages - advantages.mean()


@dataclass(frozen=True)
class PerStepScale(Scale):
    """Its number grows with the step, although it declares one number per episode."""

    name = "per_step_scale"
    bias = "later steps count less"
    per_episode = True

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Any:
        return 1.0 + rollout.step


@dataclass(frozen=True)
class NormalizesInPlace(Scale):
    """It normalises the samples in place."""

    name = "normalizes_in_place"
    bias = "it depends on the batch"

    def rescaled(
        self, advantages: torch.Tensor, over: Literal["rollout", "minibatch"], state: State = None
    ) -> torch.Tensor:
        return advantages.sub_(advantages.mean())


@dataclass(frozen=True)
class NoEpsilon(Scale):
    """It divides by a standard deviation of 0 if all advantages are equal."""

    name = "no_epsilon"
    bias = "it depends on the batch"

    def rescaled(
        self, advantages: torch.Tensor, over: Literal["rollout", "minibatch"], state: State = None
    ) -> torch.Tensor:
        return (advantages - advantages.mean()) / advantages.std(unbiased=False)


@dataclass(frozen=True)
class Summed(Scale):
    """It returns the sum over a minibatch."""

    name = "summed"
    bias = "it depends on the batch"

    def rescaled(
        self, advantages: torch.Tensor, over: Literal["rollout", "minibatch"], state: State = None
    ) -> torch.Tensor:
        return advantages.sum()


@dataclass(frozen=True)
class RunsAway(Scale):
    """A running standard deviation that a saved model forgets."""

    name = "runs_away"
    bias = "its scale is random"

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        return _PlainAttribute()

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Any:
        return 1.0 + state.total

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        state.total = 0.9 * state.total + 0.1 * float(np.std(returns))
        return {}


@dataclass(frozen=True)
class ReturnsC(Baseline):
    """It returns b and c, as for plugin API 1."""

    name = "returns_c"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return 0.0, 1.0


@dataclass(frozen=True)
class SeesTheAction(Baseline):
    """A baseline that depends on the action."""

    name = "sees_the_action"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return 0.3 * rollout.actions[..., 0]


@dataclass(frozen=True)
class InPlace(Baseline):
    """It subtracts from the returns in place."""

    name = "in_place"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        returns -= 1.0
        return 0.0


@dataclass(frozen=True)
class InPlaceBehindTheView(Estimator):
    """It writes to the array behind the read-only view."""

    name = "in_place_behind_the_view"
    needs = frozenset({Need.VALUES})
    bias = "a learned V"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        rewards: Any = rollout.rewards.base
        rewards *= 0.5
        return rollout.rewards.astype(np.float64) + rollout.gamma * rollout.next_values


@dataclass(frozen=True)
class CountsPadding(Baseline):
    """A mean over all steps, including padding."""

    name = "counts_padding"
    needs = frozenset({Need.COMPLETE_EPISODES})
    bias = "it includes the episode itself"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return np.where(rollout.mask, returns, 0).mean()


@dataclass(frozen=True)
class SeesTheFuture(Baseline):
    """V of the next state, which depends on the action."""

    name = "sees_the_future"
    needs = frozenset({Need.VALUES})
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return rollout.next_values


@dataclass(frozen=True)
class SeesTheLength(Baseline):
    """The length of the episode, which is not known at step t."""

    name = "sees_the_length"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return 0.1 * rollout.lengths[rollout.episode].astype(float)


@dataclass(frozen=True)
class NotSaved(Baseline):
    """A moving average that a saved model forgets."""

    name = "not_saved"
    unbiased = True

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        return _PlainAttribute()

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return state.total

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        state.total = 0.9 * state.total + 0.1 * rollout.mean(returns)
        return {}


@dataclass(frozen=True)
class LearnsWhileItPredicts(Baseline):
    """It learns from the batch before it predicts."""

    name = "learns_while_it_predicts"
    unbiased = True

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        state = torch.nn.Module()
        state.register_buffer("total", torch.zeros(()))
        return state

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        state.total.mul_(0.5).add_(0.5 * rollout.mean(returns))
        return float(state.total)


MEMORY: dict[str, float] = {"total": 0.0}


@dataclass(frozen=True)
class Global(Baseline):
    """It learns in a global dictionary."""

    name = "global"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return MEMORY["total"]

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        MEMORY["total"] += rollout.mean(returns)
        return {}


@dataclass(frozen=True)
class UndeclaredNextValues(Estimator):
    """It reads V(s') without declaring Need.VALUES."""

    name = "undeclared_next_values"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        return rollout.rewards.astype(np.float64) + rollout.gamma * rollout.next_values


@dataclass(frozen=True)
class UndeclaredValues(Baseline):
    """It reads V without declaring Need.VALUES."""

    name = "undeclared_values"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return rollout.values


@dataclass(frozen=True)
class UndeclaredNextObservations(Baseline):
    """It learns from successors without declaring Need.NEXT_OBSERVATIONS."""

    name = "undeclared_next_observations"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return 0.0

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        return {"mean_successor": float(np.mean(np.asarray(rollout.next_observations)))}


@dataclass(frozen=True)
class UndeclaredRatios(Estimator):
    """It weights advantages by ratios without declaring Need.RATIOS."""

    name = "undeclared_ratios"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        return rollout.discounted_sums(rollout.rewards.astype(np.float64))

    def importance_weights(self, rollout: Rollout, state: State = None) -> Array:
        return np.minimum(rollout.ratios, 1.0)


@dataclass(frozen=True)
class UndeclaredScores(Baseline):
    """It weights returns by squared score norms without declaring Need.SCORES."""

    name = "undeclared_scores"
    bias = "it includes the episode itself"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return rollout.mean(rollout.score_sq_norms * returns) / rollout.mean(rollout.score_sq_norms)


@dataclass(frozen=True)
class UndeclaredDistribution(Baseline):
    """It reads π(a|s) without declaring Need.DISTRIBUTION."""

    name = "undeclared_distribution"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return rollout.distribution.probs[..., 0], 1.0  # type: ignore[index]


@dataclass(frozen=True)
class UndeclaredNextDistribution(Baseline):
    """It reads π(a|s') without declaring Need.NEXT_OBSERVATIONS."""

    name = "undeclared_next_distribution"
    needs = frozenset({Need.DISTRIBUTION})
    bias = "the next state depends on the action"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return rollout.next_distribution.probs[..., 0], 1.0  # type: ignore[index]


@dataclass(frozen=True)
class QOfTheAction(Baseline):
    """b = Q(s_t, a_t), which depends on the action."""

    name = "q_of_the_action"
    needs = frozenset({Need.ACTION_VALUES})
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        actions = rollout.tensors(rollout.actions, "cpu")[:, None]
        return rollout.scatter(state(rollout.tensors(rollout.observations, "cpu"), actions)[:, 0])


@dataclass(frozen=True)
class LowPrecision(Estimator):
    """R̂ in float32."""

    name = "low_precision"
    needs = frozenset({Need.VALUES})
    bias = "a learned V"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        return rollout.rewards + np.float32(rollout.gamma) * rollout.next_values


@dataclass(frozen=True)
class WrongShape(Baseline):
    """One number per time step, (T,)."""

    name = "wrong_shape"
    bias = "it includes the episode itself"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return returns.mean(axis=1)


@dataclass(frozen=True)
class BadSearch(Baseline):
    """Its Search contains values that its Range refuses."""

    name = "bad_search"
    unbiased = True
    level: Annotated[float, Range(0, 1), Search(0.0, 2.0)] = 0.5

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return self.level


@dataclass(frozen=True)
class DiscountsTheBootstrapTwice(Estimator):
    """γ² V(s') instead of γ V(s')."""

    name = "discounts_the_bootstrap_twice"
    needs = frozenset({Need.VALUES})
    bias = "a learned V"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        return rollout.rewards.astype(np.float64) + rollout.gamma**2 * rollout.next_values


@dataclass(frozen=True, kw_only=True)
class Ascends(Objective):
    """A loss with the wrong sign."""

    name = "ascends"

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return batch.aggregate(batch.advantages * batch.log_probs), {}


@dataclass(frozen=True, kw_only=True)
class PerStep(Objective):
    """One loss per step."""

    name = "per_step"

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -batch.advantages * batch.log_probs, {}


@dataclass(frozen=True, kw_only=True)
class NoRatio(Objective):
    """Several epochs without a probability ratio."""

    name = "no_ratio"
    multi_epoch = True

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -batch.aggregate(batch.advantages * batch.log_probs), {}


@dataclass(frozen=True, kw_only=True)
class IgnoresWeights(Objective):
    """The mean over steps, whatever `aggregate` says."""

    name = "ignores_weights"

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -(batch.advantages * batch.log_probs).mean(), {}


@dataclass(frozen=True, kw_only=True)
class Sums(Objective):
    """A sum instead of the mean for `step_mean`."""

    name = "sums"

    def __call__(self, batch: Batch, state: State = None) -> Any:
        loss = -batch.advantages * batch.log_probs
        return loss.sum() if batch.weights is None else batch.aggregate(loss), {}


@dataclass(frozen=True, kw_only=True)
class ForgetsItsScale(Objective):
    """A running scale that a saved model forgets."""

    name = "forgets_its_scale"

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        state = _PlainAttribute()
        state.total = 1.0
        return state

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -batch.aggregate(batch.advantages * batch.log_probs) / state.total, {}

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        state.total = 0.9 * state.total + 0.1 * float(returns.std())
        return {}


@dataclass(frozen=True, kw_only=True)
class SearchesTooFar(Objective):
    """An infinite loss at the end of its Search."""

    name = "searches_too_far"
    width: Annotated[float, Range(0), Search(0.0, 0.5)] = 0.2

    def __call__(self, batch: Batch, state: State = None) -> Any:
        return -batch.aggregate(batch.advantages * batch.log_probs) / self.width, {}


@dataclass(frozen=True)
class ForgetsTheRest(Estimator):
    """It sums rewards up to the cut of a fragment as if the episode ended there."""

    name = "forgets_the_rest"
    unbiased = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        return rollout.discounted_sums(rollout.rewards.astype(np.float64))


@dataclass(frozen=True)
class NoValueAtTheLimit(Estimator):
    """TD over whole episodes, with 0 instead of V(s') at a time limit."""

    name = "no_value_at_the_limit"
    needs = frozenset({Need.VALUES, Need.COMPLETE_EPISODES})
    bias = "a learned V"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        next_values = np.where(rollout.last, 0.0, rollout.next_values)
        return rollout.rewards.astype(np.float64) + rollout.gamma * next_values


@dataclass(frozen=True)
class WritesToTheCache(Baseline):
    """It changes an array that the rollout has computed and cached."""

    name = "writes_to_the_cache"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        lengths = rollout.lengths
        lengths += 1
        return 0.0


@dataclass(frozen=True)
class FixedDiscount(Estimator):
    """γ = 0.9, whatever γ the algorithm uses."""

    name = "fixed_discount"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        fixed = rollout.replace(gamma=0.9)
        return fixed.discounted_sums(fixed.rewards.astype(np.float64))


@dataclass(frozen=True)
class Exits(Baseline):
    """It exits the program."""

    name = "exits"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        raise SystemExit(0)


def step(learner: Learner, sign: float = 1.0, batch_size: int | None = None) -> Metrics:
    """One correct pass over the rollout, unless the sign is −1. It also trains a critic."""
    metrics: Metrics = {}
    for samples in learner.minibatches(learner.samples, batch_size):
        batch = learner.evaluate(samples)
        loss, metrics = learner.policy_loss(batch)
        learner.step(sign * loss + (learner.value_loss(batch) if learner.has_critic else 0.0), 0.5)
    return metrics


@dataclass(frozen=True)
class NoMetrics(Update):
    """It forgets to return its metrics."""

    name = "no_metrics"

    def __call__(self, learner: Learner, state: State = None) -> Any:
        step(learner)


@dataclass(frozen=True)
class NotImproved(Update):
    """It logs the logarithm of an improvement that is not there."""

    name = "not_improved"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        return {**step(learner), "improvement": float("nan")}


@dataclass(frozen=True)
class UndeclaredActor(Update):
    """It uses the actor without Need.DISTRIBUTION."""

    name = "undeclared_actor"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        learner.actor(learner.samples)
        return step(learner)


@dataclass(frozen=True)
class AlwaysACritic(Update):
    """It divides by the number of V's parameters, of which there are none without a critic."""

    name = "always_a_critic"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        for samples in learner.minibatches(learner.samples, None):
            batch = learner.evaluate(samples)
            learner.step(learner.policy_loss(batch)[0] + learner.value_loss(batch))
        return {"share": 1.0} if learner.has_critic else {"share": float("nan")}


@dataclass(frozen=True)
class StandsStill(Update):
    """It computes the loss, but takes no step."""

    name = "stands_still"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        return learner.policy_loss(learner.evaluate(next(learner.minibatches(learner.samples, None))))[1]


@dataclass(frozen=True)
class ForgetsTheCritic(Update):
    """It moves the policy only."""

    name = "forgets_the_critic"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        loss, metrics = learner.policy_loss(learner.evaluate(next(learner.minibatches(learner.samples, None))))
        learner.step(loss)
        return metrics


@dataclass(frozen=True)
class GoesUp(Update):
    """It maximises the loss."""

    name = "goes_up"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        return step(learner, -1.0)


@dataclass(frozen=True)
class AlwaysExplores(Update):
    """An entropy bonus without a hyperparameter."""

    name = "always_explores"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        batch = learner.evaluate(next(learner.minibatches(learner.samples, None)))
        loss, metrics = learner.policy_loss(batch)
        value_loss = learner.value_loss(batch) if learner.has_critic else 0.0
        learner.step(loss + value_loss - 0.01 * batch.entropy.mean())
        return metrics


@dataclass(frozen=True)
class OwnAdvantages(Update):
    """It takes the advantages of learner.samples, which no scale of minibatches has seen."""

    name = "own_advantages"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        batch = replace(learner.evaluate(learner.samples), advantages=learner.samples.advantages)
        loss, metrics = learner.policy_loss(batch)
        learner.step(loss + (learner.value_loss(batch) if learner.has_critic else 0.0))
        return metrics


@dataclass(frozen=True)
class OwnGenerator(Update):
    """It draws the sizes of its minibatches from the operating system's random numbers."""

    name = "own_generator"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        return [step(learner, batch_size=int(size)) for size in np.random.default_rng().integers(1, 10, size=6)][-1]


@dataclass(frozen=True)
class Cools(Update):
    """Its minibatches grow with the number of updates, which is forgotten when the model is saved."""

    name = "cools"

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        return _PlainAttribute()

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        state.total += 1
        return step(learner, batch_size=int(10 * state.total))


@dataclass(frozen=True)
class SearchesHuge(Update):
    """Its Search ends at a step that makes the parameters infinite."""

    name = "searches_huge"
    weight: Annotated[float, Search(1.0, 1e39), "factor of the loss"] = 1.0

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        return step(learner, self.weight)


@dataclass(frozen=True)
class EmptyQueue(Sampling):
    """Whole episodes, without any episode."""

    name = "empty_queue"
    provides = frozenset({Need.COMPLETE_EPISODES})

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        return Plan()


@dataclass(frozen=True)
class OncePlanned(Sampling):
    """The same Plan object for every rollout. Its queue is empty after the first."""

    name = "once_planned"
    provides = frozenset({Need.COMPLETE_EPISODES})

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        return _PLANS.setdefault(id(context), Plan([Episode()] * 4))


_PLANS: dict[int, Plan] = {}


@dataclass(frozen=True)
class OneForEach(Sampling):
    """One episode for each environment but the first, so that a single environment has none."""

    name = "one_for_each"
    provides = frozenset({Need.COMPLETE_EPISODES})

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        return Plan([Episode()] * (context.n_envs - 1))


@dataclass(frozen=True)
class UnseededGroups(Sampling):
    """Numbers of groups, but no seed."""

    name = "unseeded_groups"
    provides = frozenset({Need.COMPLETE_EPISODES, Need.GROUPS})

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        return Plan([Episode(group=i // 2) for i in range(8)])


@dataclass(frozen=True)
class LonelyGroups(Sampling):
    """Every episode has a group of its own."""

    name = "lonely_groups"
    provides = frozenset({Need.COMPLETE_EPISODES, Need.GROUPS})

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        return Plan([Episode(context.seeds.next(), group=i) for i in range(8)])


class _WithoutFirstSteps(Plan):
    def update_mask(self, end: RolloutEnd) -> Array:
        mask = np.ones(end.group.shape, dtype=bool)
        mask[0] = False
        return mask


@dataclass(frozen=True)
class DropsSteps(Sampling):
    """It drops the first step of some episodes."""

    name = "drops_steps"
    provides = frozenset({Need.COMPLETE_EPISODES})

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        return _WithoutFirstSteps([Episode()] * 8)


@dataclass(frozen=True)
class PerEnvironment(Sampling):
    """n_episodes per environment, where pgzoo's other samplings mean all environments together."""

    name = "per_environment"
    provides = frozenset({Need.COMPLETE_EPISODES})
    n_episodes: Annotated[int, Range(1), "episodes"] = 4

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        return Plan([Episode()] * (self.n_episodes * context.n_envs))


@dataclass(frozen=True)
class FixedSteps(Sampling):
    """It ignores its hyperparameter."""

    name = "fixed_steps"
    n_steps: Annotated[int, Range(1), "steps"] = 16

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        return Plan(n_steps=16)


@dataclass(frozen=True)
class OwnSeeds(Sampling):
    """It draws seeds that a saved model does not continue."""

    name = "own_seeds"
    provides = frozenset({Need.COMPLETE_EPISODES})

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        return Plan([Episode(int(seed)) for seed in np.random.default_rng().integers(0, 10**9, 8)])


@dataclass(frozen=True)
class SearchesNothing(Sampling):
    """Its Search contains a number of episodes that makes an empty plan."""

    name = "searches_nothing"
    provides = frozenset({Need.COMPLETE_EPISODES})
    n_extra: Annotated[int, Search(choices=(0, 8)), "episodes"] = 8

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        return Plan([Episode()] * self.n_extra)


# The plugin, the check that fails, and a part of its message.
FAULTS: list[tuple[Any, str, str]] = [
    (OwnMean, "causality", "declares unbiased = True, but b_t depends on the return of its own episode"),
    (OwnMean, "unbiased", "on lengths the mean gradient of full_return + own_mean in groups differs from ∇J by"),
    (OffByOne, "unbiased", "mean gradient of off_by_one + none differs from ∇J by"),
    (WrongPower, "unbiased", "mean gradient of wrong_power + none differs from ∇J by"),
    (Leaking, "boundaries", "the rewards of the next episode in the same environment: stop the sum at rollout.last"),
    (TerminalValue, "boundaries", "V of the next episode in the same environment: at the end of an episode use"),
    (TruncationIsTheEnd, "truncation", "it treats truncation as termination"),
    (NotANumber, "finite", "if all rewards are 0: scale 'not_a_number': c is 0.0 at step 0"),
    (Negative, "shapes", "c is -1.0 at step 0 of environment 0, but it must be positive"),
    (PerColumn, "shapes", "c has shape (6,); it must be a number or (12, 6)"),
    (DividesInPlace, "no mutation", "it changes its input in place: work on a copy"),
    (OwnReturn, "causality", "declares unbiased = True, but c_t depends on the return of its own episode"),
    (OwnReturn, "unbiased", "differs from ∇J by"),
    (Halves, "unbiased", "differs from ∇J by"),
    (CentresSamples, "unbiased", "differs from ∇J by"),
    (PerStepScale, "per episode", "gives the steps of an episode different numbers"),
    (NormalizesInPlace, "rescaled", "it changes its input in place: work on a copy"),
    (NoEpsilon, "rescaled", "for 64 equal Ψ of a rollout, rescaled returns numbers that are not finite"),
    (Summed, "rescaled", "must return a tensor of shape (64,)"),
    (RunsAway, "state", "after saving and loading, the output differs"),
    (ReturnsC, "shapes", "since plugin API 2.0, c comes from a part of its own, a Scale"),
    (SeesTheAction, "causality", "depends on the action a_t"),
    (SeesTheAction, "unbiased", "differs from ∇J by"),
    (InPlace, "no mutation", "it changes its input in place: work on a copy"),
    (InPlaceBehindTheView, "no mutation", "it changes its input in place: work on a copy"),
    (CountsPadding, "padding", "leave out steps where rollout.mask is False"),
    (SeesTheFuture, "causality", "later states or actions of its own episode"),
    (SeesTheFuture, "unbiased", "differs from ∇J by"),
    (SeesTheLength, "causality", "the length or return of its own episode"),
    (NotSaved, "state", "after saving and loading, the output differs: keep what is learned in parameters or buffers"),
    (LearnsWhileItPredicts, "determinism", "learn in update()"),
    (Global, "state", "it learns, but has no state"),
    (UndeclaredNextValues, "declared needs", "rollout.next_values is absent: a part that reads it must declare"),
    (UndeclaredValues, "declared needs", "must declare Need.VALUES"),
    (UndeclaredNextObservations, "declared needs", "must declare Need.NEXT_OBSERVATIONS"),
    (UndeclaredRatios, "declared needs", "must declare Need.RATIOS"),
    (UndeclaredScores, "declared needs", "must declare Need.SCORES"),
    (UndeclaredDistribution, "declared needs", "must declare Need.DISTRIBUTION"),
    (UndeclaredNextDistribution, "declared needs", "must declare Need.DISTRIBUTION and Need.NEXT_OBSERVATIONS"),
    (QOfTheAction, "causality", "b_t depends on the action a_t"),
    (QOfTheAction, "unbiased", "gradient of reward_to_go with a random Q + q_of_the_action"),
    (LowPrecision, "shapes", "R̂ is float32; it must be float64"),
    (WrongShape, "shapes", "b has shape (12,); it must be a number or (12, 6)"),
    (BadSearch, "search space", "the Search of level contains 2.0, which is refused"),
    (DiscountsTheBootstrapTwice, "agrees with V", "check the powers of γ and the time indices"),
    (FixedDiscount, "discount", "discount by rollout.gamma"),
    (Exits, "shapes", "SystemExit"),
    (ForgetsTheRest, "truncation", "declare Need.COMPLETE_EPISODES, or bootstrap"),
    (NoValueAtTheLimit, "truncation", "it treats truncation as termination"),
    (WritesToTheCache, "no mutation", "it changes its input in place: work on a copy"),
    (Ascends, "direction", "minimising the loss makes better actions less probable"),
    (PerStep, "scalar loss", "it must be one number: use batch.aggregate"),
    (NoRatio, "ratio", "its gradient does not depend on batch.old_log_probs"),
    (IgnoresWeights, "aggregate", "with episode_sum, doubling batch.weights does not double the gradient"),
    (Sums, "aggregate", "with step_mean, repeating the batch changes the loss"),
    (ForgetsItsScale, "state", "keep what is learned in parameters or buffers"),
    (SearchesTooFar, "search space", "with width = 0.0 the loss is"),
    (NoMetrics, "metrics", "update 'no_metrics' must return a mapping of metrics, not None"),
    (NotImproved, "metrics", "the metric 'improvement' is nan"),
    (AlwaysACritic, "metrics", "the metric 'share' is nan"),
    (UndeclaredActor, "metrics", "learner.actor is absent: update 'undeclared_actor' must declare Need.DISTRIBUTION"),
    (StandsStill, "moves", "the parameters of the policy do not move: call learner.step"),
    (ForgetsTheCritic, "moves", "V does not move: also minimise learner.value_loss"),
    (GoesUp, "improves", "the loss does not fall"),
    (GoesUp, "direction", "an action with Ψ > 0 does not become more probable"),
    (AlwaysExplores, "no signal", "if all Ψ are 0, the policy moves"),
    (OwnAdvantages, "minibatch scale", "use the advantages that learner.evaluate returns"),
    (OwnGenerator, "determinism", "draw random numbers from torch or numpy.random"),
    (Cools, "state", "after saving and loading, the output differs: keep what is learned in parameters or buffers"),
    (SearchesHuge, "search space", "with weight = 1e+39"),
    (EmptyQueue, "plan", "the plan of sampling 'empty_queue' needs a queue of episodes"),
    (OncePlanned, "plan", "the plan of sampling 'once_planned' needs a queue of episodes"),
    (OneForEach, "plan", "the plan of sampling 'one_for_each' needs a queue of episodes"),
    (UnseededGroups, "provides", "the episodes of a group begin differently: give them one seed"),
    (LonelyGroups, "provides", "a group has a single episode"),
    (DropsSteps, "provides", "update_mask must keep or drop whole episodes"),
    (PerEnvironment, "sizes", "with n_episodes=8 and 3 environments, the rollout has 24"),
    (FixedSteps, "sizes", "with n_steps=33 and 1 environments, the rollout has 16"),
    (OwnSeeds, "determinism", "take seeds from context.seeds.next()"),
    (SearchesNothing, "search space", "with n_extra = 0: the plan of sampling 'searches_nothing' needs a queue"),
]
