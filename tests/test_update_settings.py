"""Settings of an update: recomputed returns, scheduled coefficients, and passes that train the critic alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from command import pgzoo
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from pgzoo import ConfigError, PolicyGradient
from pgzoo.interface.rollout import Rollout

PPO: dict[str, Any] = {"n_steps": 32, "batch_size": None, "n_epochs": 3, "learning_rate": 3e-3, "seed": 0}


def trained(plugin: str = "ppo", steps: int = 128, callback: Any = None, **arguments: Any) -> PolicyGradient:
    return PolicyGradient("MlpPolicy", "CartPole-v1", plugin, device="cpu", **arguments).learn(steps, callback)


def parameters(model: PolicyGradient) -> dict[str, Any]:
    return {name: p.detach().numpy().copy() for name, p in model.policy.named_parameters()}


def assert_equal(a: PolicyGradient, b: PolicyGradient) -> None:
    for name, value in parameters(a).items():
        np.testing.assert_array_equal(value, parameters(b)[name], err_msg=name)


# ---------------------------------------------------------------- recompute


def gae(rollout: Rollout, gae_lambda: float) -> Any:
    """Return GAE by the recursion of Schulman et al. 2016, eq. 16, step by step."""
    advantages, carry = np.zeros(rollout.shape), np.zeros(rollout.shape[1])
    for t in reversed(range(rollout.shape[0])):
        ended = rollout.terminated[t] | rollout.truncated[t]
        delta = rollout.rewards[t] + rollout.gamma * rollout.next_values[t] - rollout.values[t]
        carry = delta + rollout.gamma * gae_lambda * np.where(ended, 0.0, carry)
        advantages[t] = carry
    return advantages


def test_later_epochs_get_advantages_of_the_current_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    """V of each epoch is that of the policy at its beginning, and the advantages are GAE of it."""
    seen: list[Any] = []
    compute = PolicyGradient._compute_advantages

    def recorded(model: Any, rollout: Rollout) -> None:
        compute(model, rollout)
        with torch.no_grad():
            observations: Any = rollout.observations
            values = model.policy.predict_values(torch.as_tensor(np.array(observations[:, 0])))
        seen.append((rollout.values[:, 0].copy(), values.numpy().flatten(), gae(rollout, 0.9),
                     model.rollout_buffer.advantages.copy()))  # fmt: skip

    monkeypatch.setattr(PolicyGradient, "_compute_advantages", recorded)
    settings = {"estimator": {"name": "lambda_return", "gae_lambda": 0.9, "recompute": "epoch"}, **PPO}
    trained(steps=32, **settings)
    assert len(seen) == 3  # once after sampling, and before the second and the third epoch
    for used, current, expected, advantages in seen:
        np.testing.assert_allclose(used, current, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(advantages, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(seen[0][0] - seen[2][0]).max() > 1e-3


@pytest.mark.parametrize("estimator", ["lambda_return", "td", "n_step"])
def test_recomputing_changes_nothing_but_later_epochs(estimator: str) -> None:
    plugin = f"{estimator}+value+ppo_clip"
    settings: dict[str, Any] = {"batch_size": 16, "learning_rate": 3e-3, "seed": 0, "n_steps": 32}
    for n_epochs in (1, 2):
        once, again = (
            trained(plugin, n_epochs=n_epochs, estimator={"recompute": recompute}, **settings)
            for recompute in ("rollout", "epoch")
        )
        if n_epochs == 1:
            assert_equal(once, again)
        else:
            assert any(np.abs(a - b).max() > 1e-6 for a, b in zip(parameters(once).values(), parameters(again).values(),
                                                                 strict=True))  # fmt: skip


def test_several_epochs_without_a_ratio_stay_refused() -> None:
    """Finds epochs of an objective that would use actions of another policy without correction."""
    with pytest.raises(ConfigError, match="n_epochs"):
        trained("gae", n_epochs=4, estimator={"recompute": "epoch"})
    trained("vtrace", n_epochs=2)


def test_the_command_takes_it(tmp_path: Path) -> None:
    pgzoo(
        "train",
        "--plugin",
        "ppo",
        "-n",
        "300",
        "-P",
        "recompute:epoch",
        "-P",
        "n_envs:1",
        "--no-progress",
        cwd=tmp_path,
    )
    (config,) = (tmp_path / "logs").rglob("config.yml")
    assert "recompute: epoch" in config.read_text()
    error = pgzoo("train", "--plugin", "ppo", "-P", "recompute:epohc", cwd=tmp_path, status=2).stderr
    assert "epoch" in error


# ---------------------------------------------------------------- coefficients


class SetAt(BaseCallback):
    """Sets attributes of the model from a step on."""

    def __init__(self, step: int, **values: Any) -> None:
        super().__init__()
        self.step, self.values = step, values

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == self.step:
            for name, value in self.values.items():
                setattr(self.model, name, value)

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("fast", ["auto", False])
@pytest.mark.parametrize(("name", "before", "after"), [("ent_coef", 0.5, 0.0), ("vf_coef", 0.25, 2.0)])
def test_a_schedule_equals_a_callback_that_sets_the_values(name: str, before: float, after: float, fast: Any) -> None:
    """Two rollouts with one value, two with another. The progress before the third rollout's update is 0.25."""
    settings: dict[str, Any] = {"fast": fast, **PPO}
    scheduled = trained(**settings, **{name: lambda p: before if p > 0.4 else after})  # type: ignore[arg-type]
    changed = trained(**{**settings, name: before, "callback": SetAt(64, **{name: after})})
    assert_equal(scheduled, changed)
    constant = trained(**{**settings, name: before})
    assert any(np.abs(a - b).max() > 0 for a, b in zip(parameters(scheduled).values(), parameters(constant).values(),
                                                      strict=True))  # fmt: skip


def test_a_schedule_of_a_coefficient_is_saved_and_checked(tmp_path: Path) -> None:
    model = trained(ent_coef={"schedule": "linear", "initial": 0.1}, **PPO)
    model.save(tmp_path / "model.zip")
    loaded: Any = PolicyGradient.load(tmp_path / "model.zip", device="cpu")
    assert loaded.ent_coef(0.5) == pytest.approx(0.05)
    with pytest.raises(ConfigError, match="ent_coef"):
        trained(ent_coef=lambda _: -1.0, **PPO)


# ---------------------------------------------------------------- the critic alone


class Shared(BaseFeaturesExtractor):
    """A layer that actor and critic share."""

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__(space, 8)
        self.layer = torch.nn.Linear(space.shape[0], 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).tanh()  # type: ignore[no-any-return]


def test_passes_of_the_critic_do_not_move_the_policy() -> None:
    """Finds a policy that changes through the layers that it shares with the critic."""
    settings = {"policy_kwargs": {"features_extractor_class": Shared}, "seed": 0, "n_steps": 32}
    without, with_passes = (trained("a2c", 32, n_critic_updates=n, **settings) for n in (0, 4))
    moved = set()
    for name, value in parameters(without).items():
        if not np.array_equal(value, parameters(with_passes)[name]):
            moved.add(name.split(".")[0] if name.startswith("value") else ".".join(name.split(".")[:2]))
    assert moved == {"value_net", "mlp_extractor.value_net"}
