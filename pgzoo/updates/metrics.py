"""Metrics of an update. They are computed when the logger is read, because most updates are never logged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger

from pgzoo.errors import PluginError, converted
from pgzoo.interface.batch import Batch, approx_kl
from pgzoo.interface.types import Metrics


class DeferredValues(MutableMapping[str, Any]):
    """The values of an SB3 logger, some of which are functions that are called when they are first read.

    It replaces `Logger.name_to_value`. Everything that reads the logger, such as its writers and callbacks, therefore
    reads numbers. The value of a missing key is 0, as in SB3.
    """

    def __init__(self, values: MutableMapping[str, Any]) -> None:
        self._values = dict(values)

    def defer(self, key: str, function: Callable[[], float]) -> None:
        """Set a value that is computed when it is read."""
        self._values[key] = function

    def __getitem__(self, key: str) -> Any:
        value = self._values.get(key, 0.0)
        if callable(value):
            value = self._values[key] = value()
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default if there is none."""
        return self[key] if key in self else default  # noqa: SIM401 (that would call this method)

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def clear(self) -> None:
        """Remove all values. The inherited method would compute those that are deferred."""
        self._values.clear()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle numbers. The functions refer to the arrays of an update."""
        return type(self), (dict(self),)

    def __len__(self) -> int:
        return len(self._values)


def deferred_values(logger: Logger) -> DeferredValues:
    """Return the values of a logger as `DeferredValues`, which replace its dict at the first call."""
    if not isinstance(logger.name_to_value, DeferredValues):
        logger.name_to_value = DeferredValues(logger.name_to_value)  # type: ignore[assignment]
    return logger.name_to_value  # type: ignore[return-value]


def compute_deferred(logger: Logger) -> None:
    """Compute all values that are still deferred, which releases the arrays that they depend on."""
    values = getattr(logger, "name_to_value", None)
    if isinstance(values, DeferredValues):
        values.update(dict(values))


class UpdateMetrics:
    """The metrics of all minibatches of one update. Their means are logged.

    Args:
        objective: what the metrics of minibatches come from, for error messages.
    """

    def __init__(self, objective: str) -> None:
        self._objective = objective
        self._values: dict[str, list[Any]] = {}
        self._sources: dict[str, str] = {}

    def begin_epoch(self) -> None:
        """Discard the approximate KL of earlier epochs. As in SB3, only that of the last epoch is logged."""
        self._values.pop("approx_kl", None)

    def add(self, metrics: Metrics) -> None:
        """Add the metrics of a minibatch: numbers, tensors with one element, or functions that return a number.

        Raises:
            PluginError: a metric is not a number.
        """
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(_checked(name, value))

    def set(self, metrics: Metrics, source: str) -> None:
        """Set metrics of the whole update, instead of any that minibatches have added under the same names.

        Args:
            metrics: as `add` takes them.
            source: what they come from, for error messages.
        """
        self._sources.update(dict.fromkeys(metrics, source))
        self._values.update({name: [_checked(name, value)] for name, value in metrics.items()})

    def write(self, logger: Logger, **metrics: Callable[[], float]) -> None:
        """Log the mean of every metric, and the given additional metrics, under `train/`."""
        functions: dict[str, Callable[[], float]] = {
            name: partial(_mean, values, name, self._sources.get(name, self._objective))
            for name, values in self._values.items()
        }
        functions.update(metrics)
        if type(logger).record is not Logger.record:  # a subclass may do more than store the number
            for name, function in functions.items():
                logger.record(f"train/{name}", function())
            return
        values, excluded = deferred_values(logger), logger.name_to_excluded
        for name, function in functions.items():
            values.defer(f"train/{name}", function)
            excluded[f"train/{name}"] = logger.to_tuple(None)


def sb3_metrics(batch: Batch) -> dict[str, Callable[[], float]]:
    """Return functions that compute what SB3 logs of a minibatch. They hold no graph."""
    entropy = batch.entropy.detach()
    return {
        "entropy_loss": lambda: -entropy.mean().item(),
        "approx_kl": partial(approx_kl, batch.log_probs.detach(), batch.old_log_probs),
    }


def _mean(values: list[Any], name: str, source: str) -> float:
    """Return the mean. Values may be functions of a plugin, which may raise."""
    with converted(f"the metric {name!r} of {source}", PluginError):
        return sum(float(value() if callable(value) else value) for value in values) / len(values)


def _checked(name: str, value: Any) -> Any:
    """Return a metric without autograd's graph, or raise PluginError if it is not a number."""
    if callable(value) and not isinstance(value, torch.Tensor):
        return value
    shape = getattr(value, "shape", ())
    if max(shape, default=1) > 1:
        raise PluginError(f"the metric {name!r} has shape {tuple(shape)}; it must be one number")
    if not isinstance(value, (int, float, np.generic, np.ndarray, torch.Tensor)):
        raise PluginError(f"the metric {name!r} is {value!r}, not a number")
    return value.detach() if isinstance(value, torch.Tensor) else value
