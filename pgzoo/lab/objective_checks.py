"""What an objective's loss must and must not do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pgzoo.interfaces import Objective
from pgzoo.lab.checks import Fault, Finding, NotApplicable, describe, plain
from pgzoo.lab.specimens import make_spaces, specimen
from pgzoo.learners import Learners
from pgzoo.rollout import Batch


class Loss:
    """An objective that can be called on a batch."""

    def __init__(self, part: Objective) -> None:
        self.part = part
        self.spaces = make_spaces()
        parts: Any = {"objective": part}
        self.learners = Learners(parts, self.spaces, torch.device("cpu"))

    def batch(self, seed: int, **changes: Any) -> Batch:
        """Return whole episodes, sampled by the present policy, each with a Ψ of its own."""
        given = specimen(seed, whole=True)
        rollout = given.rollout(self.part)
        policy = self.spaces.policy
        observations = rollout.tensors(rollout.observations, "cpu")
        actions = rollout.tensors(rollout.actions, "cpu").flatten().long()
        with torch.no_grad():
            log_probs = policy.evaluate_actions(observations, actions)[1]
        rng = np.random.default_rng(seed)
        psi = rng.choice([-1, 1], rollout.n_episodes) * rng.uniform(5, 10, rollout.n_episodes)
        episode = rollout.flat(rollout.episode)
        weights = self.part.weights(rollout)
        zeros = torch.zeros(len(episode))
        batch = Batch(
            observations=observations,
            actions=actions,
            advantages=torch.as_tensor(psi[episode], dtype=torch.float32),
            returns=zeros,
            old_values=zeros,
            old_log_probs=log_probs,
            episode=torch.as_tensor(episode),
            weights=None if weights is None else torch.as_tensor(weights, dtype=torch.float32),
            progress_remaining=1.0,
            log_probs=log_probs.clone().requires_grad_(),
            values=zeros,
            entropy=zeros,
        )
        return replace(batch, **changes)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Mapping[str, Any]]:
        """Return the loss and what is logged."""
        return self.part(batch, self.learners["objective"])

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
    """Where Ψ is large, the loss falls as log π of a good action rises, and rises with that of a bad one."""
    for seed in (1, 2, 3):
        batch = loss.batch(seed)
        slope = loss.slope(batch)
        wrong = (slope * batch.advantages > 1e-9).float().mean().item()
        if wrong > 0:
            raise Fault(f"at the policy that sampled, {wrong:.0%} of the steps are pushed away from better actions")
        if bool((slope == 0).all()):
            raise Fault("at the policy that sampled the gradient is 0")


def aggregates(loss: Loss) -> None:
    """It weighs steps as `aggregate` says: twice the weights, twice the gradient."""
    batch = loss.batch(1)
    if batch.weights is None:
        raise NotApplicable("it takes the plain mean over steps")
    twice = loss.slope(loss.batch(1, weights=2 * batch.weights))
    if not torch.allclose(twice, 2 * loss.slope(batch), rtol=1e-3, atol=1e-8):
        raise Fault("twice the weights do not give twice the gradient: use batch.aggregate")


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


CHECKS: Mapping[str, Callable[[Loss], None]] = {
    "scalar loss": scalar,
    "direction": direction,
    "aggregate": aggregates,
    "ratio": ratios,
    "determinism": determinism,
}


def run(part: Objective) -> list[Finding]:
    """Return what every check says of an objective."""
    found = []
    for name, check in CHECKS.items():
        found.append(_finding(name, lambda check=check: check(Loss(part))))  # type: ignore[misc]
    probe: Any = type("Fields", (), {"part": part})
    found.append(_finding("plain fields", lambda: plain(probe)))
    return found


def _finding(name: str, check: Callable[[], None]) -> Finding:
    try:
        check()
    except NotApplicable as reason:
        return Finding(name, "skipped", str(reason))
    except Fault as fault:
        return Finding(name, "failed", str(fault))
    except Exception as error:  # a stranger's code may raise anything, and that is a finding
        return Finding(name, "failed", describe(error))
    return Finding(name)
