"""What an objective's loss must and must not do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from pgzoo.errors import ConfigError
from pgzoo.interface.batch import Batch
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.parts import Objective
from pgzoo.interface.rollout import Rollout
from pgzoo.lab.conformance.checks import plain_fields
from pgzoo.lab.conformance.probe import SEEDS, Fault, Finding, NotApplicable, drawn, judge, part_states_of
from pgzoo.lab.conformance.synthetic_rollout import make_spaces, synthetic_rollout
from pgzoo.lab.measure.plugin_gradient import sampled_batch
from pgzoo.lab.measure.score_gradients import policy_inputs


class Loss:
    """An objective that can be called on a batch."""

    def __init__(self, part: Objective) -> None:
        self.part = part
        self.spaces = make_spaces()
        self.part_states = part_states_of(part, self.spaces)

    def rollout(self, seed: int) -> Rollout:
        """Return whole episodes, sampled by the present policy."""
        rollout = synthetic_rollout(seed, whole=True).rollout(self.part)
        observations, actions = policy_inputs(self.spaces.policy, rollout)
        with torch.no_grad():
            log_probs = self.spaces.policy.evaluate_actions(observations, actions)[1]
        return replace(rollout, log_probs=rollout.scatter(log_probs).astype(np.float32))

    def batch(self, seed: int, **changes: Any) -> Batch:
        """Return a rollout as a batch, each episode with a Ψ of its own."""
        rollout = self.rollout(seed)
        rng = np.random.default_rng(seed)
        psi = rng.choice([-1, 1], rollout.n_episodes) * rng.uniform(5, 10, rollout.n_episodes)
        return replace(sampled_batch(self.part, self.spaces.policy, rollout, psi[rollout.episode]), **changes)

    def teach(self, seed: int) -> None:
        """Let its state learn from a rollout."""
        rollout = self.rollout(seed)
        self.part_states.update(rollout, np.where(rollout.mask, synthetic_rollout(seed, whole=True).returns(), 0.0))

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Mapping[str, Any]]:
        """Return the loss and what is logged."""
        return self.part(batch, self.part_states["objective"])

    def slope(self, batch: Batch) -> torch.Tensor:
        """Return ∂loss/∂log π (B,)."""
        (found,) = torch.autograd.grad(self(batch)[0], batch.log_probs)
        return found


def scalar(loss: Loss) -> None:
    """The loss is one finite number with a gradient, and what is logged are numbers."""
    value, metrics = loss(loss.batch(1))
    if value.shape != ():
        raise Fault(f"the loss has shape {tuple(value.shape)}; it must be one number: use batch.aggregate")
    if not bool(torch.isfinite(value)):
        raise Fault(f"the loss is {value.item()}")
    if not value.requires_grad:
        raise Fault("the loss has no gradient with respect to batch.log_probs")
    for name, metric in metrics.items():
        if np.ndim(metric.detach() if isinstance(metric, torch.Tensor) else metric) != 0:
            raise Fault(f"the metric {name!r} is no number")


def direction(loss: Loss) -> None:
    """At the policy that sampled, the loss falls the faster with log π the better the action: −∂loss/∂log π ~ Ψ."""
    for seed in SEEDS:
        batch = loss.batch(seed)
        slope = loss.slope(batch)
        if bool((slope == 0).all()):
            raise Fault("at the policy that sampled the gradient is 0")
        upward = np.cov(-slope.numpy(), batch.advantages.numpy())[0, 1]
        if upward <= 0:
            raise Fault("at the policy that sampled, better actions are made less probable than worse ones")


def aggregates(loss: Loss) -> None:
    """It becomes one number as `aggregate` says: by the weights where there are any, else by a mean."""
    for choice in declared(type(loss.part))["aggregate"].choices or (loss.part.aggregate,):
        other = Loss(_with(loss.part, aggregate=choice))
        batch = other.batch(1)
        if batch.weights is not None:
            twice = other.slope(replace(batch, weights=2 * batch.weights))
            if not torch.allclose(twice, 2 * other.slope(batch), rtol=1e-3, atol=1e-8):
                raise Fault(f"with {choice}, twice the weights do not give twice the gradient: use batch.aggregate")
        elif not torch.allclose(other(_twice_over(batch))[0], other(batch)[0], rtol=0.1, atol=1e-6):
            raise Fault(f"with {choice}, a batch twice over has another loss: use batch.aggregate")


def _with(part: Objective, **fields: Any) -> Objective:
    try:
        return replace(part, **fields)
    except ConfigError as error:
        raise NotApplicable(f"it takes no other: {error}") from error


def _twice_over(batch: Batch) -> Batch:
    """Return the steps, and then the same again as other episodes."""
    per_step = [f.name for f in dataclasses.fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)]
    twice: dict[str, Any] = {name: torch.cat([getattr(batch, name)] * 2) for name in per_step}
    n = len(batch)
    twice["episode"][n:] += twice["episode"].max() + 1
    return replace(batch, **twice)


def ratios(loss: Loss) -> None:
    """One that takes several epochs looks at the policy that sampled."""
    if not loss.part.multi_epoch:
        raise NotApplicable("it takes one epoch")
    batch = loss.batch(1)
    moved = loss.batch(1, old_log_probs=batch.old_log_probs - 0.3)
    if torch.allclose(loss.slope(batch), loss.slope(moved)):
        raise Fault("it declares multi_epoch, and its gradient is the same whatever policy sampled: it has no ratio")


def determinism(loss: Loss) -> None:
    """The same batch gives the same loss, and is not changed."""
    batch = loss.batch(1)
    tensors = ("advantages", "old_log_probs", "log_probs", "returns", "actions")
    kept = {name: getattr(batch, name).detach().clone() for name in tensors}
    first = loss(batch)[0].item()
    for name, tensor in kept.items():
        if not torch.equal(tensor, getattr(batch, name).detach()):
            raise Fault(f"it changes batch.{name} in place; work on a copy")
    if loss(batch)[0].item() != first:
        raise Fault("two calls with the same batch differ")


def state(loss: Loss) -> None:
    """What it learned is in its state: saved and restored, it says the same."""
    batch = loss.batch(1)
    first = loss(batch)[0].item()
    for seed in SEEDS:
        loss.teach(seed)
    taught = loss(batch)[0].item()
    if loss.part_states["objective"] is None:
        if taught != first:
            raise Fault("it learns without a state: return a module from make_state(), else a saved model forgets it")
        return
    restored = Loss(loss.part)
    if restored(batch)[0].item() != first:
        raise Fault("a fresh state knows what another one learned: it is kept outside the module")
    restored.part_states.load_arrays(loss.part_states.arrays())
    if not np.isclose(restored(batch)[0].item(), taught):
        raise Fault(
            "a saved and restored state says something else: what it learned must be in parameters or buffers "
            "(register_buffer) of its module"
        )


def search_space(loss: Loss) -> None:
    """Every value that a tuner may draw is valid and works."""
    for words, part in drawn(loss.part):
        assert isinstance(part, Objective)
        other = Loss(part)
        if not bool(torch.isfinite(other(other.batch(1))[0])):
            raise Fault(f"with {words} the loss is no finite number")


CHECKS: Mapping[str, Callable[[Loss], None]] = {
    "scalar loss": scalar,
    "direction": direction,
    "aggregate": aggregates,
    "ratio": ratios,
    "determinism": determinism,
    "state": state,
    "search space": search_space,
    "plain fields": lambda loss: plain_fields(loss.part),
}
"""By name, in the order in which they are reported."""


def run(part: Objective) -> list[Finding]:
    """Return what every check says of an objective."""
    return [judge(name, partial(_fresh, check), part) for name, check in CHECKS.items()]


def _fresh(check: Callable[[Loss], None], part: Objective) -> None:
    check(Loss(part))
