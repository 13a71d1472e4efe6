"""Ψ_t = (R̂_t − b_t) / c_t, computed from a rollout by an estimator, a baseline and a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pgzoo.errors import DivergenceError, PluginError
from pgzoo.interface.parts import AdvantagePart, Baseline, Estimator, Scale
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array, StateByKind


@dataclass(frozen=True, eq=False)
class Advantages:
    """The returns and advantages of a rollout, (T, N), float64; arbitrary on padding.

    Attributes:
        returns: R̂_t, read-only.
        advantages: Ψ_t.
        scale: c_t, (T, N) or a number.
    """

    returns: Array
    advantages: Array
    scale: Array | float


def compute_advantages(
    estimator: Estimator,
    baseline: Baseline,
    scale: Scale,
    rollout: Rollout,
    states: StateByKind,
    *,
    discount_states: bool = False,
) -> Advantages:
    """Return R̂ and Ψ = (R̂ − b) / c.

    Args:
        estimator: gives R̂.
        baseline: gives b.
        scale: gives c.
        rollout: what was sampled.
        states: what the three parts learned.
        discount_states: multiply Ψ_t by γ^t, unless the estimator already discounts from the start of the episode.

    Raises:
        PluginError: an array has the wrong shape or a number that is not finite. The message names the part
            and the step.
        DivergenceError: the numbers are not finite because V is not.
    """
    returns = np.asarray(estimator(rollout, states["estimator"]), dtype=np.float64)
    _check(estimator, "R̂", returns, rollout)
    returns = _read_only(returns)
    b = baseline(rollout, returns, states["baseline"])
    if isinstance(b, tuple):
        raise PluginError(
            f"baseline {baseline.name!r} must return b alone, not a tuple: since plugin API 2.0, c comes from a part "
            "of its own, a Scale"
        )
    _check_shape(baseline, "b", b, rollout)
    advantages = np.asarray(returns - b, dtype=np.float64)
    _check(baseline, "R̂ − b", advantages, rollout)
    c = scale(rollout, returns, _read_only(advantages), states["scale"])
    if not (isinstance(c, float) and c == 1.0):
        _check_shape(scale, "c", c, rollout)
        _check_positive(scale, c, rollout)
        advantages = np.asarray(advantages / c, dtype=np.float64)
        _check(scale, "(R̂ − b) / c", advantages, rollout)
    if discount_states and estimator.discounted_from == "step":
        advantages = advantages * rollout.gamma**rollout.step
    return Advantages(returns, advantages, c)


class FixedReturns(Estimator):
    """An estimator that returns fixed R̂, on which a baseline can be evaluated."""

    name = "fixed_returns"

    def __init__(self, returns: Array, discounted_from: Literal["step", "start"] = "step") -> None:
        self._returns, self.discounted_from = returns, discounted_from  # type: ignore[misc]

    def __call__(self, rollout: Rollout, state: Any = None) -> Array:
        """Return the fixed R̂."""
        return self._returns


def _read_only(x: Array) -> Array:
    view = x.view()
    view.flags.writeable = False
    return view


def _check_shape(part: AdvantagePart, symbol: str, x: Array | float, rollout: Rollout) -> None:
    if np.shape(x) not in ((), rollout.shape):
        raise PluginError(
            f"{part.kind} {part.name!r}: {symbol} has shape {np.shape(x)}; it must be a number or {rollout.shape}"
        )


def _check_positive(scale: Scale, c: Array | float, rollout: Rollout) -> None:
    """Refuse c ≤ 0 and nan. An infinite c is allowed."""
    refused = ~(np.broadcast_to(c, rollout.shape) > 0) & rollout.mask
    if refused.any():
        _check_values(rollout)
        t, n = np.argwhere(refused)[0]
        number = np.broadcast_to(c, rollout.shape)[t, n]
        raise PluginError(
            f"scale {scale.name!r}: c is {number} at step {t} of environment {n}, but it must be positive"
        )


def _check(part: AdvantagePart, symbol: str, x: Array, rollout: Rollout) -> None:
    if x.shape != rollout.shape:
        raise PluginError(f"{part.kind} {part.name!r}: {symbol} has shape {x.shape}, not {rollout.shape}")
    not_finite = ~np.isfinite(x) & rollout.mask
    if not_finite.any():
        _check_values(rollout)
        t, n = np.argwhere(not_finite)[0]
        raise PluginError(
            f"{part.kind} {part.name!r}: {symbol} is {x[t, n]} at step {t} of environment {n} "
            f"(reward {rollout.rewards[t, n]})"
        )


def _check_values(rollout: Rollout) -> None:
    """Raise DivergenceError if V is not finite: then no part is to blame."""
    for name in ("values", "next_values"):
        values = getattr(rollout, name, None)
        if values is None or np.isfinite(values[rollout.mask]).all():
            continue
        t, n = np.argwhere(~np.isfinite(values) & rollout.mask)[0]
        raise DivergenceError(
            f"training diverged: V is {values[t, n]} at step {t} of environment {n}; lower learning_rate or vf_coef, "
            "or set max_grad_norm"
        )
