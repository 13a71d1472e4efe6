"""Gradient noise while training: what is logged is right, and training is the same."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.logger import KVWriter, Logger

from pgzoo import (
    Array,
    Baseline,
    Metrics,
    PluginError,
    PolicyGradient,
    Registry,
    Rollout,
    State,
    hookimpl,
)
from pgzoo.lab.measure.mdps import make_mdp
from pgzoo.lab.measure.noise_callback import GradientNoise
from pgzoo.lab.measure.tabular import TabularVecEnv
from pgzoo.registry.plugins import Source


class Kept(KVWriter):
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


def trained(
    plugin: str, callback: Any = None, *, updates: int = 3, steps: int = 1, **options: Any
) -> tuple[Any, list[dict[str, Any]]]:
    env = TabularVecEnv(make_mdp("noise"), options.pop("columns", 8), seed=3)
    model = PolicyGradient("MlpPolicy", env, plugin, seed=0, n_steps=32, log_interval=1, **options)
    kept = Kept()
    model.set_logger(Logger(None, [kept]))
    for _ in range(updates):
        model.learn(steps, callback=callback, reset_num_timesteps=False)
    return model, kept.rows


@pytest.mark.parametrize("plugin", ["rtg_moving_average", "advantage", "ppo", "grpo"])
def test_training_is_not_changed(plugin: str) -> None:
    alone, _ = trained(plugin)
    watched, rows = trained(plugin, GradientNoise(every_steps=1))
    for a, b in zip(alone.policy.parameters(), watched.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(row["lab/gradient_variance"] > 0 for row in rows)
    assert all(row["lab/snr"] >= 0 for row in rows)


def others(row: dict[str, Any]) -> set[str]:
    return {key.rpartition("/")[2] for key in row if key.startswith("lab/variance_if/")}


def test_which_baselines_are_compared() -> None:
    _, rows = trained("rtg", GradientNoise(every_steps=1))
    assert others(rows[0]) == {"none", "batch_mean", "time_mean", "moving_average", "leave_one_out", "optimal"}
    assert rows[0]["lab/variance_if/none"] == pytest.approx(rows[0]["lab/gradient_variance"])
    assert others(trained("grpo", GradientNoise(every_steps=1))[1][0]) == set()  # whose scale is its own
    _, rows = trained("gae", GradientNoise(every_steps=1))
    assert others(rows[0]) == {"none", "batch_mean", "time_mean", "moving_average", "value"}
    assert rows[0]["lab/variance_if/value"] == pytest.approx(rows[0]["lab/gradient_variance"], rel=1e-4)


def test_the_moving_average_learns_from_rollout_to_rollout() -> None:
    _, rows = trained("rtg", GradientNoise(every_steps=1))
    assert rows[0]["lab/variance_if/moving_average"] == pytest.approx(rows[0]["lab/variance_if/none"])  # b = 0 at first
    assert rows[2]["lab/variance_if/moving_average"] != pytest.approx(rows[2]["lab/variance_if/none"])


@pytest.mark.parametrize("n_episodes", [16, 7], ids=["four equal parts", "three episodes are left over"])
def test_the_variance_is_that_of_many_rollouts(n_episodes: int) -> None:
    """At learning rate 0 the mean of what is logged is the variance over rollouts of the gradient that SGD follows."""
    model, rows = trained(
        "full_return+none",
        GradientNoise(every_steps=1),
        updates=300,
        learning_rate=0.0,
        n_episodes=n_episodes,
        columns=n_episodes,
        policy_kwargs={"net_arch": [], "optimizer_class": torch.optim.SGD},
        max_grad_norm=None,
    )
    from pgzoo.lab.measure.score_gradients import PolicyScores

    scores = PolicyScores(model.policy)
    gradients = []
    for _ in range(300):
        model.learn(1, reset_num_timesteps=False)
        rollout = model.rollout
        gradients.append(scores.gradients(rollout, [model.rollout_buffer.advantages / rollout.mask.sum()])[0])
    logged = np.mean([row["lab/gradient_variance"] for row in rows[:300]])
    assert logged == pytest.approx(np.var(gradients, axis=0, ddof=1).sum(), rel=0.35)


def test_one_environment_is_split_by_time() -> None:
    _, rows = trained("a2c", GradientNoise(every_steps=1), columns=1)
    assert rows[0]["lab/gradient_variance"] > 0


@dataclass(frozen=True)
class Raising(Baseline):
    """It fails at its second call."""

    name = "raising"
    unbiased = True
    when: str = "call"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        if self.when == "call":
            raise ZeroDivisionError("by hand")
        return np.random.random(), 1.0

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        raise ZeroDivisionError("by hand")


@dataclass(frozen=True)
class RaisingLater(Raising):
    name = "raising_later"
    when: str = "update"


@dataclass(frozen=True)
class Drawing(Baseline):
    """It draws from every generator there is."""

    name = "drawing"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return np.random.random() + random.random() + torch.rand(()).item(), 1.0


class Others:
    @hookimpl
    def pgzoo_baselines(self) -> list[type[Baseline]]:
        return [Raising, RaisingLater, Drawing]


def test_what_other_baselines_do_is_no_harm() -> None:
    registry = Registry.discover()
    alone, _ = trained("rtg", registry=registry)
    after = np.random.random(), random.random()
    registry.register(Others(), Source("others", "here", "file"))
    with pytest.warns(UserWarning, match="left out: ZeroDivisionError: by hand") as warned:
        watched, rows = trained("rtg", GradientNoise(every_steps=1), registry=registry)
    assert (np.random.random(), random.random()) == after
    assert len([w for w in warned if "left out" in str(w.message)]) == 2  # each once
    for a, b in zip(alone.policy.parameters(), watched.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert "drawing" in others(rows[2])
    assert "raising" not in others(rows[0])
    assert "raising_later" in others(rows[0]) - others(rows[2])


def test_short_rollouts_are_not_all_measured() -> None:
    """256 steps each: the first, and the fifth, 1,024 steps later."""
    _, rows = trained("rtg", GradientNoise(), updates=1, steps=6 * 256, sampling="steps", estimator="td")
    assert ["lab/snr" in row for row in rows] == [True, False, False, False, True, False]


def test_only_for_policy_gradient() -> None:
    with pytest.raises(PluginError, match="needs a PolicyGradient, not A2C"):
        A2C("MlpPolicy", "CartPole-v1").learn(5, callback=GradientNoise(every_steps=1))


def test_the_command_logs_it(tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "pgzoo", "train", "-n", "600", "--no-progress", "--log-gradient-noise",
               "--eval-freq", "-1", "--eval-episodes", "1"]  # fmt: skip
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    (log,) = tmp_path.rglob("progress.csv")
    assert "lab/variance_if/leave_one_out" in log.read_text().splitlines()[0]
