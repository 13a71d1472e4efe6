"""Hyperparameters that change during training, written as data."""

from __future__ import annotations

from typing import Any

from pgzoo.interface.hyperparameters import Schedule


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
