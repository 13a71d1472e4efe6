"""Errors that a plugin raises, with its name."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pgzoo.backends.actor import PolicyActor
from pgzoo.backends.backend import Backend
from pgzoo.errors import DivergenceError, MachineError, PgzooError, PluginError, describe, is_machine_fault
from pgzoo.interface.batch import Batch
from pgzoo.interface.parts import Objective, Part, Sampling, Scale
from pgzoo.interface.plans import Plan
from pgzoo.sampling.copies import EnvCopies
from pgzoo.sampling.modes import SamplingMode


@contextmanager
def part_errors() -> Iterator[None]:
    """Convert an exception that a part raises to PluginError, which names the part. Other exceptions pass.

    The part is found in the traceback, so that calls of parts need no code of their own, and cost nothing.
    """
    try:
        yield
    except (PgzooError, MemoryError):
        raise
    except Exception as error:
        if (part := part_that_raised(error)) is None:
            raise
        owner = MachineError if is_machine_fault(error) else PluginError
        raise owner(f"{part.kind} {part.name!r} raised {describe(error)}") from error


def part_that_raised(error: BaseException) -> Part | None:
    """Return the part whose method raised an exception, or called what raised it; None if there is none."""
    part: Part | None = None
    sampling: Sampling | None = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, Part):
            part = owner
        elif isinstance(owner, SamplingMode):
            sampling = owner.sampling
        elif isinstance(owner, Plan):
            part = sampling
        elif isinstance(owner, (Backend, PolicyActor, EnvCopies)):  # a part does not answer for what it works with
            part = None
    return part


def scale_error(scale: Scale, rescaled: torch.Tensor, advantages: torch.Tensor) -> PluginError | None:
    """Return PluginError if a scale gave advantages that are not finite, although its input is, else None."""
    if bool(rescaled.isfinite().all()) or not bool(advantages.isfinite().all()):
        return None
    return PluginError(f"scale {scale.name!r}: rescaled returned advantages that are not finite")


def objective_error(
    error: Exception, objective: Objective, batch: Batch, policy_loss: Any, value_loss: Any
) -> PluginError | None:
    """Return PluginError if an optimizer step failed because of the objective's loss, else None.

    The objective is to blame if its loss is not finite although everything that it was computed from is.

    Args:
        error: what the step raised.
        objective: gave the losses.
        batch: what they were computed from.
        policy_loss: a scalar; None if it was not computed.
        value_loss: as policy_loss.
    """
    if not isinstance(error, DivergenceError):
        if policy_loss is None or (isinstance(policy_loss, torch.Tensor) and policy_loss.requires_grad):
            return None
        return PluginError(f"objective {objective.name!r} returned a loss that does not depend on the policy")
    inputs = (batch.log_probs, batch.old_log_probs, batch.ratio, batch.advantages, batch.values, batch.returns)
    if all(bool(x.isfinite().all()) for x in inputs):
        for name, loss in (("loss", policy_loss), ("value_loss", value_loss)):
            number = 0.0 if loss is None else float(torch.as_tensor(loss).detach())
            if math.isnan(number) or (name == "loss" and math.isinf(number)):
                return PluginError(
                    f"objective {objective.name!r} returned the {name} {number}, although log-probs, advantages and "
                    "values are finite"
                )
    return None
