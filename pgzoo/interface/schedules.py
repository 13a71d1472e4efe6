"""Hyperparameters that change during training, written as data or as functions."""

from __future__ import annotations

from typing import Any

from pgzoo.errors import ConfigError, describe
from pgzoo.interface.hyperparameters import Param, Range, Schedule, shown


def as_schedule(value: Any) -> Schedule:
    """Return a function of the remaining progress (1 → 0) from a number, a function, or a mapping.

    `{"schedule": "linear", "initial": a, "final": b, "end_fraction": f}` decreases from a to b (default 0) and
    reaches b after the fraction f (default 1) of training.
    """
    from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

    if isinstance(value, dict):
        initial = float(value["initial"])
        final = float(value.get("final", 0.0)) if value["schedule"] == "linear" else initial
        return FloatSchedule(LinearSchedule(initial, final, float(value.get("end_fraction", 1.0))))
    return FloatSchedule(value)


def value_at(param: Param, schedule: Schedule, progress_remaining: float) -> float:
    """Return a schedule's current value.

    Args:
        param: the hyperparameter that the schedule sets.
        schedule: a function of the remaining progress.
        progress_remaining: from 1 to 0.

    Raises:
        ConfigError: the schedule raises, returns something else than a number, or leaves the hyperparameter's range.
    """
    try:
        value = schedule(progress_remaining)
    except Exception as error:  # the function is the user's
        raise ConfigError(f"{_label(param, progress_remaining)}: {describe(error)}") from error
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{_label(param, progress_remaining)} must be a number, not {shown(value)}") from error
    if number not in (param.range or Range()):
        param.check_number(number, _label(param, progress_remaining), endpoint=True)
    return number


def _label(param: Param, progress_remaining: float) -> str:
    return f"{param.name} (its schedule, with {progress_remaining:.3g} of training remaining)"
