"""Metrics of an update are computed when the logger is read, and every way to read it shows the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.logger import KVWriter, Logger

from pgzoo import Objective, PluginError, PolicyGradient
from pgzoo.updates.metrics import DeferredValues, UpdateMetrics, deferred_values

KEYS = {"train/loss", "train/approx_kl", "train/entropy_loss", "train/value_loss", "train/advantage_std"}


class Written(KVWriter):
    """Stores what an SB3 logger dumps."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


def make(logger: Logger, **options: Any) -> PolicyGradient:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", n_steps=8, seed=0, device="cpu", **options)
    model.set_logger(logger)
    return model


def test_every_way_to_read_the_logger_shows_the_same_numbers() -> None:
    """`model.logger`, `model._logger`, a logger that the user holds, and its writers, in mid-training."""
    written = Written()
    held = Logger(None, [written])
    seen: list[tuple[dict[str, Any], ...]] = []

    def read(local: dict[str, Any], _: Any) -> bool:
        model = local["self"]
        seen.append(tuple(dict(logger.name_to_value) for logger in (held, model._logger, model.logger)))
        return True

    make(held, log_interval=100).learn(24, callback=read)
    in_second_rollout = seen[8:16]
    assert len(in_second_rollout) == 8
    for first, second, third in in_second_rollout:
        assert set(first) >= KEYS
        assert first == second == third
        assert all(np.isfinite(value) for value in first.values())
    make(held, log_interval=1).learn(16)
    assert set(written.rows[-1]) >= KEYS
    assert all(isinstance(value, float) for key, value in written.rows[-1].items() if key in KEYS)


def test_at_the_end_of_learn_nothing_is_deferred() -> None:
    """So that tensors of the last update are not kept alive."""
    held = Logger(None, [])
    make(held, log_interval=100).learn(8)
    values = held.name_to_value
    assert isinstance(values, DeferredValues)
    assert not any(callable(value) for value in values._values.values())
    assert set(values) >= KEYS


def test_a_deferred_value_is_computed_once_and_only_if_read() -> None:
    calls: list[int] = []

    def compute() -> float:
        calls.append(1)
        return float(len(calls))

    logger = Logger(None, [])
    logger.record("before", 2.0)
    deferred_values(logger).defer("x", compute)
    assert calls == []
    assert [logger.name_to_value["x"], logger.name_to_value.get("x"), dict(logger.name_to_value)["x"]] == [
        1.0,
        1.0,
        1.0,
    ]
    assert calls == [1]
    assert logger.name_to_value["before"] == 2.0
    deferred_values(logger).defer("never", compute)
    logger.dump()
    assert calls == [1], "a dump without writers computes nothing"
    assert "absent" not in logger.name_to_value
    assert logger.name_to_value.get("absent") is None


def test_a_logger_that_overrides_record_gets_numbers() -> None:
    """It may send them elsewhere, so they are not deferred."""
    sent: dict[str, Any] = {}

    class Sending(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            sent[key] = value
            super().record(key, value, exclude)

    make(Sending(None, []), log_interval=100).learn(8)
    assert all(isinstance(sent[key], float) for key in KEYS)


def test_record_mean_works_as_in_sb3() -> None:
    """SB3 averages with the value that is there: (2 + 4 + 9) / 3 = 5."""
    logger = Logger(None, [])
    deferred_values(logger)
    for value in (2.0, 4.0, 9.0):
        logger.record_mean("m", value)
    assert logger.name_to_value["m"] == pytest.approx(5.0)


@pytest.mark.parametrize("value", ["text", np.zeros(2), None])
def test_a_metric_that_is_not_a_number_is_refused_at_once(value: Any) -> None:
    with pytest.raises(PluginError, match="the metric 'mine'"):
        UpdateMetrics("own").add({"mine": value})


def test_a_metric_of_the_whole_update_replaces_that_of_the_minibatches() -> None:
    """A plugin may use any name, also `approx_kl`, which every minibatch adds: here 1 and 3, and then 7."""
    logger, metrics = Logger(None, []), UpdateMetrics("own")
    for value in (1.0, 3.0):
        metrics.add({"approx_kl": value, "other": value})
    metrics.set({"approx_kl": 7.0}, "baseline 'own'")
    metrics.write(logger)
    assert dict(logger.name_to_value) == {"train/approx_kl": 7.0, "train/other": 2.0}


def test_a_plugins_metric_is_logged_as_the_mean_over_minibatches(registry_with: Any) -> None:
    """Two minibatches with 1 and 3: 2."""
    from pgzoo_plugins.policy_gradient import PolicyGradientLoss

    values = iter([1.0, 3.0])

    class Counting(PolicyGradientLoss):
        name = "counting"

        def __call__(self, batch: Any, state: Any = None) -> Any:
            return super().__call__(batch, state)[0], {"count": next(values)}

    assert issubclass(Counting, Objective)
    model = PolicyGradient(
        "MlpPolicy", "CartPole-v1", "lambda_return+value+counting", registry=registry_with(Counting), n_steps=8,
        batch_size=4, seed=0, device="cpu",
    )  # fmt: skip
    model.learn(8)
    assert model.logger.name_to_value["train/count"] == 2.0
