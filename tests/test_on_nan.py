"""`on_nan="skip"` leaves out a step whose loss or gradient is not finite, and counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command import pgzoo
from pgzoo_plugins.policy_gradient import PolicyGradientLoss
from pgzoo_plugins.surrogate import Surrogate
from same import assert_same

import pgzoo as zoo
from pgzoo import ConfigError, PluginError, PolicyGradient
from pgzoo.errors import DivergenceError

N_ROLLOUTS = 3
BROKEN = 1
"""The rollout, from 0, whose loss is not finite."""


def learned(monkeypatch: pytest.MonkeyPatch, on_nan: str, factor: float, **arguments: Any) -> PolicyGradient:
    """Train on three rollouts. The loss of the second one is multiplied."""
    call, n_calls = PolicyGradientLoss.__call__, 0

    def broken(self: Any, batch: Any, state: Any = None) -> Any:
        nonlocal n_calls
        loss, metrics = call(self, batch, state)
        n_calls += 1
        return loss * (factor if n_calls == BROKEN + 1 else 1.0), metrics

    monkeypatch.setattr(PolicyGradientLoss, "__call__", broken)
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", n_steps=8, seed=0, device="cpu", **arguments)
    model.on_nan = on_nan
    model.learn(8 * N_ROLLOUTS, log_interval=None)
    monkeypatch.undo()
    return model


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(fast: bool, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds moments of the optimizer that a skipped step changes: RMSprop counts the steps that it takes."""
    skipped = learned(monkeypatch, "skip", factor, fast=fast)
    assert skipped.skipped_updates == 1
    assert skipped.logger.name_to_value["train/skipped_updates"] == 1
    steps = [state["step"] for state in skipped.policy.optimizer.state_dict()["state"].values()]
    assert all(step == N_ROLLOUTS - 1 for step in steps)
    assert all(torch.isfinite(x).all() for x in skipped.policy.parameters())


def test_the_parameters_before_and_after_a_skipped_update_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[Any] = []
    train = PolicyGradient.train

    def recorded(self: PolicyGradient) -> None:
        before.append({name: x.clone() for name, x in self.policy.state_dict().items()})
        train(self)

    monkeypatch.setattr(PolicyGradient, "train", recorded)
    learned(monkeypatch, "skip", float("nan"))
    assert_same(before[BROKEN], before[BROKEN + 1])
    assert not torch.equal(before[0]["action_net.weight"], before[BROKEN]["action_net.weight"])


@pytest.mark.parametrize(("plugin", "objective"), [("trpo", Surrogate), ("npg", PolicyGradientLoss)])
@pytest.mark.parametrize("fast", ["auto", False])
def test_an_update_of_second_order_is_skipped(
    plugin: str, objective: Any, fast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finds a policy that a line search leaves somewhere, and a critic that is trained in an update that is skipped."""
    before: list[Any] = []
    train, call = PolicyGradient.train, objective.__call__

    def recorded(self: PolicyGradient) -> None:
        before.append({name: x.clone() for name, x in self.policy.state_dict().items()})
        train(self)

    def broken(self: Any, batch: Any, state: Any = None) -> Any:
        loss, metrics = call(self, batch, state)
        return loss * (float("nan") if len(before) == BROKEN + 1 else 1.0), metrics

    monkeypatch.setattr(PolicyGradient, "train", recorded)
    monkeypatch.setattr(objective, "__call__", broken)
    model = PolicyGradient("MlpPolicy", "CartPole-v1", plugin, n_steps=16, seed=0, device="cpu", fast=fast)
    model.on_nan = "skip"
    model.learn(16 * (N_ROLLOUTS + 1), log_interval=None)
    assert model.skipped_updates == 1
    assert_same(before[BROKEN], before[BROKEN + 1])
    for i in (0, 2):
        for name in ("action_net.weight", "value_net.weight"):
            assert not torch.equal(before[i][name], before[i + 1][name]), name
    assert all(torch.isfinite(x).all() for x in model.policy.parameters())


@pytest.mark.parametrize("fast", [True, False])
def test_by_default_training_stops(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((DivergenceError, PluginError)):
        learned(monkeypatch, "stop", float("nan"), fast=fast)


def test_nothing_is_logged_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "train/skipped_updates" not in learned(monkeypatch, "stop", 1.0).logger.name_to_value


def test_the_flag(tmp_path: Path) -> None:
    arguments = ("train", "--plugin", "a2c", "-n", "100", "--eval-freq", "-1", "--eval-episodes", "1", "--no-progress")
    pgzoo(*arguments, "-P", "log_interval:1", "--on-nan", "skip", cwd=tmp_path)
    assert "train/skipped_updates" in (tmp_path / "logs/a2c/CartPole-v1_1/progress.csv").read_text()
    assert "'never' is not one of" in pgzoo(*arguments, "--on-nan", "never", cwd=tmp_path, status=2).stderr
    with pytest.raises(ConfigError, match="unknown on_nan 'skp'; did you mean 'skip'"):
        zoo.train("a2c", on_nan="skp", log_folder=tmp_path)
