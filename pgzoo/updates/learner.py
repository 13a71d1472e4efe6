"""What an update works with, see `Learner` of the interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pgzoo.backends.actor import PolicyActor
from pgzoo.backends.backend import Backend
from pgzoo.errors import DivergenceError, GradientError, PluginError
from pgzoo.interface.batch import Batch, Samples
from pgzoo.interface.parts import Objective, Scale, Update
from pgzoo.interface.types import Metrics, Need, StateByKind
from pgzoo.updates.blame import objective_error, scale_error
from pgzoo.updates.metrics import UpdateMetrics, sb3_metrics
from pgzoo.updates.minibatches import rescaled


@dataclass
class UpdateLearner:
    """Everything that an update works with, and nothing of the model.

    Attributes:
        samples: the rollout's steps, with the advantages of the current pass.
        backend: evaluates and steps the policy.
        objective: gives the losses.
        scale: rescales the advantages of each minibatch.
        states: what the parts learned.
        metrics: collects the metrics of minibatches.
        split: yields minibatches of some samples, given the batch size and the stride.
        recompute: gives the samples of a later pass; None if they stay the same.
        verbose: whether to print why an update stops.
        skip_nan: whether a step whose loss or gradient is not finite is left out.
        n_passes: the passes that `epochs` has begun.
        n_skipped: the steps that were left out.
    """

    samples: Samples
    backend: Backend
    objective: Objective
    scale: Scale
    states: StateByKind
    metrics: UpdateMetrics
    split: Callable[..., Iterator[Samples]]
    recompute: Callable[[Samples], Samples] | None = None
    verbose: bool = False
    skip_nan: bool = False
    n_passes: int = 0
    n_skipped: int = 0

    def __post_init__(self) -> None:
        self._update: Update
        self._stopped = False
        self._batch: Batch | None = None
        self._policy_loss: Any = None
        self._value_loss: Any = None
        self._kept: list[torch.nn.Parameter] | None = None

    @property
    def has_critic(self) -> bool:
        """Whether V is trained."""
        return self.backend.has_critic

    def apply(self, update: Update) -> Metrics:
        """Call an update, and return its metrics. An error that the objective or the scale caused names it."""
        self._update = update
        try:
            metrics: Metrics = {}
            with self._skipped_if_nan():
                metrics = update(self, self.states["update"])
        except (DivergenceError, RuntimeError) as error:
            batch, losses = self._batch, (self._policy_loss, self._value_loss)
            if batch is not None and (blamed := objective_error(error, self.objective, batch, *losses)):
                raise blamed from error
            if batch is not None and (blamed := scale_error(self.scale, batch.advantages, self.samples.advantages)):
                raise blamed from error
            raise
        if not isinstance(metrics, Mapping):
            raise PluginError(f"update {update.name!r} must return a mapping of metrics, not {metrics!r}")
        return metrics

    def epochs(self, n_epochs: int) -> Iterator[Samples]:
        """Yield the samples once per pass."""
        for epoch in range(n_epochs):
            if epoch > 0 and self.recompute is not None:
                self.samples = self.recompute(self.samples)
            self.metrics.begin_epoch()
            self.n_passes += 1
            yield self.samples
            if self._stopped:
                return

    def stop(self, reason: str) -> None:
        """End `epochs` after the current pass."""
        self._stopped = True
        if self.verbose:
            print(f"Early stopping at epoch {self.n_passes - 1} due to {reason}")

    def minibatches(self, samples: Samples, batch_size: int | None, *, stride: int = 1) -> Iterator[Samples]:
        """Yield the steps in random order, in minibatches."""
        return self.split(samples, batch_size, stride=stride)

    def evaluate(self, samples: Samples) -> Batch:
        """Return the steps as the current policy evaluates them."""
        self._policy_loss = self._value_loss = None
        self._batch = batch = self.backend.evaluate_actions(self._rescaled(samples))
        return batch

    def policy_loss(self, batch: Batch) -> tuple[torch.Tensor, Metrics]:
        """Return the objective's loss and metrics."""
        self._batch = batch
        self._policy_loss, metrics = self.objective(batch, self.states["objective"])
        return self._policy_loss, {**sb3_metrics(batch), **metrics}

    def value_loss(self, batch: Batch) -> torch.Tensor:
        """Return the loss of the critic."""
        self._value_loss = loss = self.objective.value_loss(batch, self.states["objective"])
        return loss

    def record(self, metrics: Metrics) -> None:
        """Add the metrics of a minibatch."""
        self.metrics.add(metrics)

    def step(self, loss: torch.Tensor, max_grad_norm: float | None = None, *, keep_actor: bool = False) -> None:
        """Take one optimizer step."""
        with self._skipped_if_nan():
            self.backend.step(loss, max_grad_norm, keep=self._actor_parameters() if keep_actor else ())

    @contextmanager
    def _skipped_if_nan(self) -> Iterator[None]:
        """Count a gradient that is not finite instead of raising, if `skip_nan` is set."""
        try:
            yield
        except GradientError:
            if not self.skip_nan:
                raise
            self.n_skipped += 1

    def actor(self, samples: Samples) -> PolicyActor:
        """Return the actor on some of the steps."""
        if Need.DISTRIBUTION not in self._update.needs:
            raise PluginError(f"learner.actor is absent: update {self._update.name!r} must declare Need.DISTRIBUTION")
        return PolicyActor(self.backend.policy, self._rescaled(samples))

    def _rescaled(self, samples: Samples) -> Samples:
        return rescaled(samples, self.scale, "minibatch", self.states["scale"])

    def _actor_parameters(self) -> list[torch.nn.Parameter]:
        if self._kept is None:
            assert self._batch is not None
            self._kept = self.backend.actor_parameters(self._batch)
        return self._kept
