"""Which part is to blame if an optimizer step fails."""

from __future__ import annotations

import math
from typing import Any

import torch

from pgzoo.errors import DivergenceError, PluginError
from pgzoo.interface.batch import Batch
from pgzoo.interface.parts import Objective, Scale


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
