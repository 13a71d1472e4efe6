"""Settings of an update: recomputed returns, scheduled coefficients, and passes that train the critic alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from command import pgzoo
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from zips import members, write

from pgzoo import ConfigError, PolicyGradient
from pgzoo.interface.rollout import Rollout

SETTINGS: dict[str, Any] = {"n_steps": 32, "batch_size": None, "n_epochs": 3, "learning_rate": 3e-3, "seed": 0}


def trained(plugin: str = "ppo", steps: int = 128, callback: Any = None, **arguments: Any) -> PolicyGradient:
    return PolicyGradient("MlpPolicy", "CartPole-v1", plugin, device="cpu", **arguments).learn(steps, callback)


def parameters(model: PolicyGradient) -> dict[str, Any]:
    return {name: p.detach().numpy().copy() for name, p in model.policy.named_parameters()}


def assert_close(a: PolicyGradient, b: PolicyGradient, atol: float = 0.0) -> None:
    for name, value in parameters(a).items():
        np.testing.assert_allclose(value, parameters(b)[name], rtol=0, atol=atol, err_msg=name)


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
    settings = {"estimator": {"name": "lambda_return", "gae_lambda": 0.9, "recompute": "epoch"}, **SETTINGS}
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
            assert_close(once, again)
        else:
            assert any(np.abs(a - b).max() > 1e-6 for a, b in zip(parameters(once).values(), parameters(again).values(),
                                                                 strict=True))  # fmt: skip


@pytest.mark.parametrize("fast", ["auto", False])
@pytest.mark.parametrize("moment", ["_on_rollout_start", "_on_step", "_on_rollout_end"])
def test_a_callback_that_changes_what_parts_need_waits_for_the_next_rollout(moment: str, fast: Any) -> None:
    """V at the next observations was not recorded, or no critic was trained. The second rollout has everything."""

    class Change(BaseCallback):
        def _on_step(self) -> bool:
            return True

    def change(self: Any) -> bool:
        self.model.change_hyperparameter(*setting)
        return True

    setattr(Change, moment, change)
    settings: dict[str, Any] = {"fast": fast, **SETTINGS}
    setting: Any = "recompute", "epoch"
    by_callback = trained(steps=32, callback=Change(), **settings)
    assert by_callback.estimator.recompute == "epoch"
    by_callback.learn(32, reset_num_timesteps=False)
    between = trained(steps=32, **settings)
    between.change_hyperparameter(*setting)
    between.learn(32, reset_num_timesteps=False)
    assert_close(by_callback, between)

    class Stop(Change):
        def _on_step(self) -> bool:
            return False

    stopped = trained(steps=32, callback=Stop(), **settings)
    stopped.change_hyperparameter("recompute", "epoch")
    assert stopped.estimator.recompute == "epoch"
    setting = "bootstrap", True
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "rtg", seed=0, device="cpu", fast=fast).learn(100, Change())
    assert model.has_critic


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
    settings: dict[str, Any] = {"fast": fast, **SETTINGS}
    scheduled = trained(**settings, **{name: lambda p: before if p > 0.4 else after})  # type: ignore[arg-type]
    changed = trained(**{**settings, name: before, "callback": SetAt(64, **{name: after})})
    assert_close(scheduled, changed)
    constant = trained(**{**settings, name: before})
    assert any(np.abs(a - b).max() > 0 for a, b in zip(parameters(scheduled).values(), parameters(constant).values(),
                                                      strict=True))  # fmt: skip


def test_a_schedule_of_a_coefficient_is_saved_and_checked(tmp_path: Path) -> None:
    model = trained(ent_coef={"schedule": "linear", "initial": 0.1}, **SETTINGS)
    model.save(tmp_path / "model.zip")
    loaded: Any = PolicyGradient.load(tmp_path / "model.zip", device="cpu")
    assert loaded.ent_coef(0.5) == pytest.approx(0.05)
    with pytest.raises(ConfigError, match="ent_coef"):
        trained(ent_coef=lambda _: -1.0, **SETTINGS)


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


# ---------------------------------------------------------------- the critic's learning rate


class TwoRates(PPO):
    """SB3's PPO with two groups of parameters, whose learning rates nobody changes."""

    def _setup_model(self) -> None:
        super()._setup_model()
        critic = [p for name, p in self.policy.named_parameters() if "value_net" in name]
        actor = [p for name, p in self.policy.named_parameters() if "value_net" not in name]
        self.policy.optimizer = torch.optim.Adam(
            [{"params": actor, "lr": 1e-3}, {"params": critic, "lr": 5e-3}], eps=1e-5
        )

    def _update_learning_rate(self, optimizers: Any) -> None:
        pass


def test_the_critic_has_its_own_learning_rate() -> None:
    """Like SB3's PPO with two groups of parameters: bit by bit with its own calls, to rounding on the numpy backend."""
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 0}
    peer: Any = TwoRates("MlpPolicy", "CartPole-v1", device="cpu", **settings).learn(96)
    for fast in ("auto", False):
        model = trained(steps=96, learning_rate=1e-3, critic_learning_rate=5e-3, fast=fast, **settings)
        assert model.backend.name == ("sb3" if fast is False else "numpy")
        for name, value in parameters(model).items():
            np.testing.assert_allclose(value, parameters(peer)[name], rtol=0, atol=1e-5 if fast else 0, err_msg=name)


@pytest.mark.parametrize("fast", ["auto", False])
@pytest.mark.parametrize("plugin", ["ppo", "a2c"])
def test_equal_learning_rates_change_nothing(plugin: str, fast: Any) -> None:
    settings: dict[str, Any] = {"learning_rate": 2e-3, "fast": fast, "seed": 0, "n_steps": 32}
    common, equal = (trained(plugin, critic_learning_rate=rate, **settings) for rate in (None, 2e-3))
    assert_close(common, equal, atol=1e-6 if fast else 0)


@pytest.mark.parametrize("fast", ["auto", False])
def test_a_callback_gives_the_critic_a_learning_rate_and_takes_it_away(fast: Any) -> None:
    """A schedule that begins with one common rate equals a callback; after `None` there is one group again."""
    settings: dict[str, Any] = {"fast": fast, **SETTINGS}
    scheduled = trained(critic_learning_rate=lambda p: 3e-3 if p > 0.4 else 0.1, **settings)
    changed = trained(**settings, callback=SetAt(64, critic_learning_rate=0.1))
    assert_close(scheduled, changed, atol=1e-6 if fast else 0)
    model: Any = changed
    model.critic_learning_rate = None
    (group,) = model.policy.optimizer.param_groups
    assert [id(p) for p in group["params"]] == list(map(id, model.policy.parameters()))
    model.learn(32)
    assert group["lr"] == 3e-3


def test_a_saved_model_keeps_the_critics_learning_rate(tmp_path: Path) -> None:
    """The rates and the moments of both groups are saved."""
    settings = {"critic_learning_rate": {"schedule": "linear", "initial": 5e-3}, **SETTINGS}
    model = trained(**settings)
    model.save(tmp_path / "model.zip")
    loaded = PolicyGradient.load(tmp_path / "model.zip", env=model.env, device="cpu")
    states = [m.policy.optimizer.state_dict() for m in (model, loaded)]
    assert str(states[0]) == str(states[1])
    assert [len(group["params"]) for group in states[0]["param_groups"]] == [6, 6]


@pytest.mark.parametrize(("saved", "loaded"), [(5e-3, None), (None, 5e-3)])
@pytest.mark.parametrize("how", ["load", "set_parameters", "a dict"])
def test_moments_are_loaded_into_another_number_of_groups(saved: Any, loaded: Any, how: str, tmp_path: Path) -> None:
    """Each parameter keeps its moments, and the optimizer has the groups of the model that loads."""
    model = trained(steps=32, critic_learning_rate=saved, **SETTINGS)
    model.save(tmp_path / "model.zip")
    if how == "load":
        other = PolicyGradient.load(tmp_path / "model.zip", device="cpu", critic_learning_rate=loaded)
    else:
        other = PolicyGradient("MlpPolicy", "CartPole-v1", "ppo", device="cpu", critic_learning_rate=loaded)
        other.set_parameters(tmp_path / "model.zip" if how == "set_parameters" else model.get_parameters())
    assert_close(model, other)
    assert len(other.policy.optimizer.param_groups) == (1 if loaded is None else 2)
    moments = [
        {name: one.policy.optimizer.state[p]["exp_avg"] for name, p in one.policy.named_parameters()}
        for one in (model, other)
    ]
    torch.testing.assert_close(*moments)
    assert max(float(x.abs().max()) for x in moments[0].values()) > 0


def test_a_file_from_before_the_setting_loads(tmp_path: Path) -> None:
    model = trained(steps=32, **SETTINGS)
    model.save(tmp_path / "model.zip")
    contents = members(tmp_path / "model.zip")
    document = json.loads(contents["pgzoo.json"])
    assert document["settings"].pop("critic_learning_rate", "absent") is None
    write(tmp_path / "old.zip", {**contents, "pgzoo.json": json.dumps(document).encode()})
    assert_close(PolicyGradient.load(tmp_path / "old.zip", device="cpu"), model)


def test_without_a_critic_there_is_one_group() -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "rtg", critic_learning_rate=1e-3, device="cpu").learn(50)
    assert len(model.policy.optimizer.param_groups) == 1
    assert "train/critic_learning_rate" not in model.logger.name_to_value


def test_a_critic_without_parameters_of_its_own_has_no_learning_rate() -> None:
    class AllShared(ActorCriticPolicy):
        """V is the mean of the logits."""

        def evaluate_actions(self, obs: Any, actions: Any) -> Any:
            distribution: Any = self.get_distribution(obs)
            return distribution.distribution.logits.mean(1), distribution.log_prob(actions), distribution.entropy()

    with pytest.raises(ConfigError, match="critic_learning_rate has no effect"):
        PolicyGradient(AllShared, "CartPole-v1", "ppo", critic_learning_rate=1e-3)
    model: Any = PolicyGradient(AllShared, "CartPole-v1", "ppo")
    with pytest.raises(ConfigError, match="critic_learning_rate has no effect"):
        model.critic_learning_rate = 1e-3
    assert model.critic_learning_rate is None


def test_the_command_refuses_a_learning_rate_of_no_critic(tmp_path: Path) -> None:
    error = pgzoo("train", "--plugin", "rtg", "-P", "critic_learning_rate:1e-3", cwd=tmp_path, status=2).stderr
    assert "critic_learning_rate has no effect here" in error


# ---------------------------------------------------------------- target_entropy


@pytest.mark.parametrize(("env", "target", "exponent"), [("CartPole-v1", 0.5, -0.03), ("Pendulum-v1", 2.0, 0.03)])
def test_the_coefficient_moves_towards_the_target_entropy(env: str, target: float, exponent: float) -> None:
    """New policies have log 2 = 0.69 and log √(2πe) = 1.42 nats. Adam's first step has the length 0.03."""
    model: Any = PolicyGradient("MlpPolicy", env, "ppo", ent_coef=0.2, target_entropy=target, **SETTINGS).learn(32)
    expected = pytest.approx(0.2 * math.exp(exponent), rel=1e-4)
    assert model.part_states["update"].current == expected
    assert model.logger.name_to_value["train/ent_coef"] == expected


def test_the_current_coefficient_is_used() -> None:
    """While it still has its first value, the policy is that of a fixed coefficient; later it is not."""
    adaptive, fixed = (trained(steps=32, ent_coef=0.2, target_entropy=x, **SETTINGS) for x in (0.5, None))
    assert_close(adaptive, fixed, atol=1e-6)
    adaptive, fixed = (trained(steps=128, ent_coef=0.2, target_entropy=x, **SETTINGS) for x in (0.5, None))
    assert any(np.abs(value - parameters(fixed)[name]).max() > 1e-5 for name, value in parameters(adaptive).items())


def test_a_callback_begins_to_adapt_the_coefficient(tmp_path: Path) -> None:
    model: Any = trained(steps=64, ent_coef=0.2, callback=SetAt(32, target_entropy=0.5), **SETTINGS)
    assert model.part_states["update"].current == pytest.approx(0.2 * math.exp(-0.03), rel=1e-4)
    model.save(tmp_path / "model.zip")
    loaded: Any = PolicyGradient.load(tmp_path / "model.zip", device="cpu")
    assert loaded.target_entropy == 0.5
    assert loaded.part_states["update"].log == model.part_states["update"].log


def test_a_changed_coefficient_begins_again() -> None:
    model: Any = trained(steps=64, ent_coef=0.2, target_entropy=0.5, **SETTINGS)
    before = model.part_states["update"].current
    model.ent_coef = 0.7
    model.learn(32, reset_num_timesteps=False)
    assert model.part_states["update"].current == pytest.approx(0.7, rel=0.05)
    assert before == pytest.approx(0.2, rel=0.1)
    model.target_entropy = 5.0
    with pytest.raises(ConfigError, match=r"target_entropy=5.0 cannot be reached: the actions have at most 0.693 nats"):
        model.learn(32, reset_num_timesteps=False)
    small: Any = trained(steps=32, ent_coef=1e-6, target_entropy=0.5, **SETTINGS)
    assert small.part_states["update"].current == pytest.approx(1e-6, rel=1e-3)  # it does not fall below its beginning


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_entropy": 0.7, "ent_coef": 0.1}, "at most 0.693 nats"),
        ({"target_entropy": 0.5}, "must begin at a number above 0"),
        ({"target_entropy": 0.5, "ent_coef": lambda p: p}, "must begin at a number above 0"),
    ],
)
def test_an_impossible_target_entropy_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trained(**settings)
    model: Any = trained(steps=32, **SETTINGS)
    if "ent_coef" in settings:
        model.ent_coef = settings["ent_coef"]
    with pytest.raises(ConfigError, match=message):
        model.target_entropy = settings["target_entropy"]
    assert model.target_entropy is None


@pytest.mark.slow
def test_training_reaches_the_target_entropy() -> None:
    """The entropy begins at 0.69 and would fall to 0.3."""
    settings: dict[str, Any] = {"n_steps": 256, "batch_size": 64, "learning_rate": 1e-3, "ent_coef": 0.01, "seed": 0}
    entropies = []

    class Record(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            rollout = self.model.rollout  # type: ignore[attr-defined]
            entropies.append(-rollout.mean(rollout.log_probs))

    trained(steps=80_000, target_entropy=0.5, callback=Record(), **settings)
    assert min(entropies) < 0.4
    assert np.mean(entropies[-50:]) == pytest.approx(0.5, abs=0.05)
