"""Checks of an objective's loss."""

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
from pgzoo.lab.conformance.checks import check_plain_fields
from pgzoo.lab.conformance.probe import (
    LEARNS_WITHOUT_STATE,
    SEEDS,
    STATE_NOT_SAVED,
    STATE_SHARED,
    Fault,
    Finding,
    NotApplicable,
    part_states_of,
    run_check,
    search_samples,
)
from pgzoo.lab.conformance.synthetic_rollout import make_spaces, synthetic_rollout
from pgzoo.lab.measure.plugin_gradient import sampled_batch
from pgzoo.lab.measure.score_gradients import policy_inputs


class Loss:
    """An objective that can be called on synthetic batches."""

    def __init__(self, part: Objective) -> None:
        self.part = part
        self.spaces = make_spaces()
        self.part_states = part_states_of(part, self.spaces)

    def rollout(self, seed: int) -> Rollout:
        """Return whole episodes whose log-probabilities are the policy's."""
        rollout = synthetic_rollout(seed, whole_episodes=True).rollout(self.part)
        observations, actions = policy_inputs(self.spaces.policy, rollout)
        with torch.no_grad():
            log_probs = self.spaces.policy.evaluate_actions(observations, actions)[1]
        return rollout.replace(log_probs=rollout.scatter(log_probs).astype(np.float32))

    def batch(self, seed: int, **changes: Any) -> Batch:
        """Return a rollout as one batch, with one Ψ per episode."""
        rollout = self.rollout(seed)
        rng = np.random.default_rng(seed)
        psi = rng.choice([-1, 1], rollout.n_episodes) * rng.uniform(5, 10, rollout.n_episodes)
        return replace(sampled_batch(self.part, self.spaces.policy, rollout, psi[rollout.episode]), **changes)

    def update_states(self, seed: int) -> None:
        """Let the objective's state learn from a rollout."""
        rollout = self.rollout(seed)
        returns = synthetic_rollout(seed, whole_episodes=True).returns()
        self.part_states.update(rollout, np.where(rollout.mask, returns, 0.0))

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Mapping[str, Any]]:
        """Return the loss and the metrics."""
        return self.part(batch, self.part_states["objective"])

    def gradient(self, batch: Batch) -> torch.Tensor:
        """Return ∂loss/∂log π (B,)."""
        (gradient,) = torch.autograd.grad(self(batch)[0], batch.log_probs)
        return gradient


def scalar(loss: Loss) -> None:
    """The loss is one finite number with a gradient, and each metric is a number."""
    value, metrics = loss(loss.batch(1))
    if value.shape != ():
        raise Fault(f"the loss has shape {tuple(value.shape)}; it must be one number: use batch.aggregate")
    if not bool(torch.isfinite(value)):
        raise Fault(f"the loss is {value.item()}")
    if not value.requires_grad:
        raise Fault("the loss has no gradient with respect to batch.log_probs")
    for name, metric in metrics.items():
        if np.ndim(metric.detach() if isinstance(metric, torch.Tensor) else metric) != 0:
            raise Fault(f"the metric {name!r} is not a number")


def direction(loss: Loss) -> None:
    """At the policy that sampled, minimising the loss makes better actions more probable: −∂loss/∂log π follows Ψ."""
    for seed in SEEDS:
        batch = loss.batch(seed)
        gradient = loss.gradient(batch)
        if bool((gradient == 0).all()):
            raise Fault("at the policy that sampled, the gradient is 0")
        covariance = np.cov(-gradient.cpu().numpy(), batch.advantages.cpu().numpy())[0, 1]
        if covariance <= 0:
            raise Fault(
                "at the policy that sampled, minimising the loss makes better actions less probable: check its sign"
            )


def aggregates(loss: Loss) -> None:
    """The losses of steps become one number as `aggregate` says: by `batch.weights`, or by the mean if it is None."""
    for choice in declared(type(loss.part))["aggregate"].choices or (loss.part.aggregate,):
        variant = Loss(_with_aggregate(loss.part, choice))
        batch = variant.batch(1)
        if batch.weights is not None:
            doubled = variant.gradient(replace(batch, weights=2 * batch.weights))
            if not torch.allclose(doubled, 2 * variant.gradient(batch), rtol=1e-3, atol=1e-8):
                raise Fault(f"with {choice}, doubling batch.weights does not double the gradient: use batch.aggregate")
        elif not torch.allclose(variant(_repeated(batch))[0], variant(batch)[0], rtol=0.1, atol=1e-6):
            raise Fault(f"with {choice}, repeating the batch changes the loss: use batch.aggregate")


def _with_aggregate(part: Objective, choice: Any) -> Objective:
    try:
        return replace(part, aggregate=choice)
    except ConfigError as error:
        raise NotApplicable(f"it does not support aggregate={choice}: {error}") from error


def _repeated(batch: Batch) -> Batch:
    """Return the steps, followed by the same steps as further episodes."""
    per_step = [f.name for f in dataclasses.fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)]
    repeated: dict[str, Any] = {name: torch.cat([getattr(batch, name)] * 2) for name in per_step}
    n = len(batch)
    repeated["episode"][n:] += repeated["episode"].max() + 1
    return replace(batch, **repeated)


def ratios(loss: Loss) -> None:
    """An objective with `multi_epoch` depends on the policy that sampled."""
    if not loss.part.multi_epoch:
        raise NotApplicable("it does not declare multi_epoch")
    batch = loss.batch(1)
    moved = loss.batch(1, old_log_probs=batch.old_log_probs - 0.3)
    if torch.allclose(loss.gradient(batch), loss.gradient(moved)):
        raise Fault(
            "it declares multi_epoch, but its gradient does not depend on batch.old_log_probs: it needs a ratio"
        )


def determinism(loss: Loss) -> None:
    """The same batch gives the same loss and is not changed."""
    batch = loss.batch(1)
    tensors = ("advantages", "old_log_probs", "log_probs", "returns", "actions")
    before = {name: getattr(batch, name).detach().clone() for name in tensors}
    first = loss(batch)[0].item()
    for name, tensor in before.items():
        if not torch.equal(tensor, getattr(batch, name).detach()):
            raise Fault(f"it changes batch.{name} in place: work on a copy")
    if loss(batch)[0].item() != first:
        raise Fault("two calls with the same batch give different losses")


def state(loss: Loss) -> None:
    """Everything that is learned is in the state: saving and loading keeps it, and another model starts without it."""
    batch = loss.batch(1)
    untrained = loss(batch)[0].item()
    for seed in SEEDS:
        loss.update_states(seed)
    trained = loss(batch)[0].item()
    if loss.part_states["objective"] is None:
        if trained != untrained:
            raise Fault(LEARNS_WITHOUT_STATE)
        return
    restored = Loss(loss.part)
    if restored(batch)[0].item() != untrained:
        raise Fault(STATE_SHARED)
    restored.part_states.load_arrays(loss.part_states.arrays())
    if not np.isclose(restored(batch)[0].item(), trained):
        raise Fault(STATE_NOT_SAVED)


def search_space(loss: Loss) -> None:
    """Every value in a Search is valid and gives a finite loss."""
    for description, part in search_samples(loss.part):
        assert isinstance(part, Objective)
        variant = Loss(part)
        value = variant(variant.batch(1))[0].item()
        if not np.isfinite(value):
            raise Fault(f"with {description} the loss is {value}")


def plain_fields(loss: Loss) -> None:
    """The hyperparameters are plain data, which a saved model can hold, and parts with equal fields are equal."""
    check_plain_fields(loss.part)


CHECKS: Mapping[str, Callable[[Loss], None]] = {
    "scalar loss": scalar,
    "direction": direction,
    "aggregate": aggregates,
    "ratio": ratios,
    "determinism": determinism,
    "state": state,
    "search space": search_space,
    "plain fields": plain_fields,
}
"""The checks by name, in the order of the report."""


def run(part: Objective) -> list[Finding]:
    """Return the finding of every check of an objective. Each check begins with a new state."""
    return [run_check(name, partial(_on_new_state, check), part) for name, check in CHECKS.items()]


def _on_new_state(check: Callable[[Loss], None], part: Objective) -> None:
    check(Loss(part))
