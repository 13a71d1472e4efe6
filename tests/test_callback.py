"""Gradient noise while training: the logged numbers are right, and training does not change."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import pgzoo
from sizes import sizes
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
from pgzoo.lab.measure.exact import TabularMDP
from pgzoo.lab.measure.mdps import make_mdp
from pgzoo.lab.measure.noise_callback import GradientNoise
from pgzoo.lab.measure.score_gradients import PolicyScores
from pgzoo.lab.measure.tabular import TabularVecEnv
from pgzoo.registry.plugins import Source


class Rows(KVWriter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


def trained(
    plugin: str, callback: Any = None, *, updates: int = 3, steps: int = 1, **options: Any
) -> tuple[Any, list[dict[str, Any]]]:
    mdp = options.pop("mdp", None) or make_mdp("noise")
    env = TabularVecEnv(mdp, options.pop("columns", 8), seed=3)
    size = sizes(plugin, options.get("registry"), n_steps=32)
    if options.get("sampling") == "steps":
        size = {"n_steps": 32}
    model = PolicyGradient("MlpPolicy", env, plugin, seed=0, log_interval=1, **size, **options)
    log = Rows()
    model.set_logger(Logger(None, [log]))
    for _ in range(updates):
        model.learn(steps, callback=callback, reset_num_timesteps=False)
    return model, log.rows


@pytest.mark.parametrize("plugin", ["rtg_moving_average", "advantage", "ppo", "grpo"])
def test_training_is_not_changed(plugin: str) -> None:
    without, _ = trained(plugin)
    measured, rows = trained(plugin, GradientNoise(every_steps=1))
    for a, b in zip(without.policy.parameters(), measured.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(row["lab/gradient_variance"] > 0 for row in rows)


@pytest.mark.parametrize("n_episodes", [8, 7], ids=["two environments per part", "three environments are left out"])
def test_the_logged_numbers_by_hand(n_episodes: int) -> None:
    """The class docstring's formulas, from the gradient of each part, computed one at a time by autograd."""
    model, rows = trained(
        "full_return+none", GradientNoise(every_steps=1), updates=1, learning_rate=0.0, n_episodes=n_episodes,
        columns=n_episodes,
    )  # fmt: skip
    rollout, advantages = model.rollout, model.rollout_buffer.advantages
    size = n_episodes // 4
    n_used = int(rollout.mask[:, : 4 * size].sum())
    gradients = []
    for part in range(4):
        loss = torch.zeros(())
        for n in range(part * size, (part + 1) * size):
            steps = rollout.mask[:, n]
            observations = torch.as_tensor(rollout.observations[steps, n])
            log_probs = model.policy.evaluate_actions(observations, torch.as_tensor(rollout.actions[steps, n, 0]))[1]
            loss = loss + (torch.as_tensor(advantages[steps, n]) * log_probs).sum() * 4 / n_used
        actor = [p for name, p in model.policy.named_parameters() if "value" not in name]
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, actor)]).numpy())
    mean = np.mean(gradients, axis=0)
    variance = sum(np.sum((g - mean) ** 2) for g in gradients) / (4 * 3) * 4 * size / n_episodes
    assert rows[0]["lab/gradient_variance"] == pytest.approx(variance, rel=1e-4)
    assert rows[0]["lab/snr"] == pytest.approx(np.sqrt(max(mean @ mean - variance, 0) / variance), rel=1e-3, abs=1e-3)


def test_the_snr_is_positive_if_all_parts_agree() -> None:
    """If the rewards have a clear best action, the signal exceeds the noise: ‖g‖² is far above Var(g)."""
    transitions = np.array([[[0.0, 1.0], [0.0, 1.0]]])  # one state, one step
    bandit = TabularMDP("bandit", transitions, np.array([[[0.0, 1.0], [0.0, -1.0]]]), np.ones(1))
    _, rows = trained(
        "full_return+none", GradientNoise(every_steps=1), mdp=bandit, columns=400, n_episodes=400, updates=1
    )
    # At π ≈ ½ every step contributes the same gradient, 1·(½, −½): nearly no variance.
    assert rows[0]["lab/snr"] > 10


def compared(row: dict[str, Any]) -> set[str]:
    return {key.rpartition("/")[2] for key in row if key.startswith("lab/variance_if/")}


def test_which_baselines_are_compared() -> None:
    _, rows = trained("rtg", GradientNoise(every_steps=1))
    of_episodes = {"leave_one_out", "length_weighted", "optimal", "optimal_token", "step_group"}
    assert compared(rows[0]) == {"none", "batch_mean", "time_mean", "moving_average", *of_episodes}
    assert rows[0]["lab/variance_if/none"] == pytest.approx(rows[0]["lab/gradient_variance"])
    assert compared(trained("grpo", GradientNoise(every_steps=1))[1][0]) == set()  # it has a scale
    _, rows = trained("gae", GradientNoise(every_steps=1))
    assert compared(rows[0]) == {"none", "batch_mean", "time_mean", "moving_average", "value"}
    assert rows[0]["lab/variance_if/value"] == pytest.approx(rows[0]["lab/gradient_variance"], rel=1e-4)


def test_the_moving_average_learns_from_rollout_to_rollout() -> None:
    _, rows = trained("rtg", GradientNoise(every_steps=1))
    assert rows[0]["lab/variance_if/moving_average"] == pytest.approx(rows[0]["lab/variance_if/none"])  # b = 0 at first
    assert rows[2]["lab/variance_if/moving_average"] != pytest.approx(rows[2]["lab/variance_if/none"])


@pytest.mark.parametrize("n_episodes", [16, 7], ids=["four equal parts", "three episodes are left out"])
def test_the_variance_is_that_of_many_rollouts(n_episodes: int) -> None:
    """At learning rate 0, the mean logged variance is the variance over rollouts of the gradient that SGD follows."""
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
    """It raises when it is called, or when it learns."""

    name = "raising"
    unbiased = True
    when: str = "call"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        if self.when == "call":
            raise ZeroDivisionError("planted")
        return np.random.random()

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        raise ZeroDivisionError("planted")


@dataclass(frozen=True)
class RaisingLater(Raising):
    name = "raising_later"
    when: str = "update"


@dataclass(frozen=True)
class Drawing(Baseline):
    """It draws from every global random number generator."""

    name = "drawing"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return np.random.random() + random.random() + torch.rand(()).item()


class FurtherBaselines:
    @hookimpl
    def pgzoo_plugins(self) -> list[type[Baseline]]:
        return [Raising, RaisingLater, Drawing]


def test_other_baselines_cannot_disturb_training() -> None:
    registry = Registry.discover()
    without, _ = trained("rtg", registry=registry)
    random_numbers = np.random.random(), random.random()
    registry.register(FurtherBaselines(), Source("further", "tests", "file"))
    with pytest.warns(UserWarning, match="left out: ZeroDivisionError: planted") as warned:
        measured, rows = trained("rtg", GradientNoise(every_steps=1), registry=registry)
    assert (np.random.random(), random.random()) == random_numbers
    assert len([w for w in warned if "left out" in str(w.message)]) == 2  # one warning for each
    for a, b in zip(without.policy.parameters(), measured.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert "drawing" in compared(rows[2])
    assert "raising" not in compared(rows[0])
    assert "raising_later" in compared(rows[0]) - compared(rows[2])


def test_short_rollouts_are_not_all_measured() -> None:
    """With 256 steps per rollout, the first is measured, and the fifth, 1,024 steps later."""
    _, rows = trained("rtg", GradientNoise(), updates=1, steps=6 * 256, sampling="steps", estimator="td")
    assert ["lab/snr" in row for row in rows] == [True, False, False, False, True, False]


def test_only_for_policy_gradient() -> None:
    with pytest.raises(PluginError, match="needs a PolicyGradient, not A2C"):
        A2C("MlpPolicy", "CartPole-v1").learn(5, callback=GradientNoise(every_steps=1))


def test_the_command_logs_it(tmp_path: Path) -> None:
    options = [
        "--plugin",
        "rtg_value",
        "-n",
        "600",
        "--no-progress",
        "--eval-freq",
        "-1",
        "--eval-episodes",
        "1",
        "--log-gradient-noise",
    ]
    pgzoo("train", *options, cwd=tmp_path)
    (log,) = tmp_path.rglob("progress.csv")
    assert "lab/variance_if/leave_one_out" in log.read_text().splitlines()[0]
