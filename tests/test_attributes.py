"""SB3's attributes of a model: they show the current value, take effect when they are set, and refuse nonsense."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from same import assert_same
from sizes import sizes
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from pgzoo import ConfigError, PgzooError, PolicyGradient, Registry

SIZES: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "n_epochs": 3}


class At(BaseCallback):
    """Calls a function with the model before the second rollout."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.n_rollouts = function, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.n_rollouts += 1
        if self.n_rollouts == 2:
            self.function(self.model)


def ours(plugin: str = "ppo", **options: Any) -> PolicyGradient:
    env = make_vec_env("CartPole-v1", 2, seed=0)
    size = SIZES if plugin == "ppo" else sizes(plugin, n_steps=64)
    return PolicyGradient("MlpPolicy", env, plugin, seed=0, device="cpu", **{"fast": False, **size, **options})


def theirs(**options: Any) -> PPO:
    return PPO("MlpPolicy", make_vec_env("CartPole-v1", 2, seed=0), seed=0, device="cpu", **{**SIZES, **options})


def assert_equal(a: Any, b: Any) -> None:
    ours, theirs = a.policy.state_dict(), b.policy.state_dict()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6, msg=name)


def set_all(**values: Any) -> Any:
    def function(model: Any) -> None:
        for name, value in values.items():
            setattr(model, name, value)

    return function


# ---------------------------------------------------------------- values that a callback sets


@pytest.mark.parametrize(
    "values",
    [
        {"clip_range": lambda _: 0.01},
        {"clip_range_vf": lambda _: 0.05},
        {"ent_coef": 0.5},
        {"vf_coef": 3.0},
        {"max_grad_norm": 0.01},
        {"n_epochs": 1},
        {"batch_size": 128},
        {"target_kl": 1e-9},
        {"normalize_advantage": False},
    ],
    ids=lambda values: "+".join(values),
)
def test_what_a_callback_sets_takes_effect_as_in_sb3(values: dict[str, Any]) -> None:
    model = ours().learn(4 * 128, callback=At(set_all(**values)))
    assert_equal(model, theirs().learn(4 * 128, callback=At(set_all(**values))))
    unchanged = ours().learn(4 * 128)
    assert not torch.equal(unchanged.policy.action_net.weight, model.policy.action_net.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gamma", "gae_lambda"])
def test_what_sb3_does_not_read_again_takes_effect_at_the_next_rollout(name: str) -> None:
    """SB3's buffer keeps γ and λ. Here, training with another value from the start of the third rollout on equals
    `load` with that value."""
    model = ours().learn(2 * 128)
    stream = io.BytesIO()
    model.save(stream)
    stream.seek(0)
    value: dict[str, Any] = {name: 0.3}
    loaded = PolicyGradient.load(stream, device="cpu", **value)
    setattr(model, name, 0.3)
    for one in (model, loaded):
        one.set_env(make_vec_env("CartPole-v1", 2, seed=5))
        one.set_random_seed(5)
        one.learn(128, reset_num_timesteps=False)
    assert_equal(model, loaded)
    assert getattr(model, name) == 0.3


def test_learning_rate() -> None:
    """SB3 reads `lr_schedule` only; here both attributes count."""
    model = ours()
    model.learning_rate = 0.0
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(128)
    assert all(torch.equal(before[name], x) for name, x in model.policy.state_dict().items())
    model.learning_rate = lambda left: 1e-3 * left
    model.learn(256)
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize("plugin", ["a2c", "ppo"])
def test_n_steps_takes_effect_at_the_next_rollout(plugin: str) -> None:
    model = ours(plugin)
    shapes: list[Any] = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 10:
                self.model.n_steps = 16  # type: ignore[attr-defined]
            return True

        def _on_rollout_end(self) -> None:
            shapes.append(self.model.rollout_buffer.advantages.shape)  # type: ignore[attr-defined]

    model.learn(128 + 32, callback=Look())
    assert shapes == [(64, 2), (16, 2)]


def test_episodes_and_groups_take_effect_at_the_next_rollout() -> None:
    model = PolicyGradient("MlpPolicy", make_vec_env("CartPole-v1", 2, seed=0), "reinforce", n_episodes=4, device="cpu")
    model.learn(1)
    assert model.rollout.n_episodes == 4
    model.n_episodes = 2  # type: ignore[attr-defined]
    model.learn(1)
    assert model.rollout.n_episodes == 2
    with pytest.raises(ConfigError, match="n_episodes must lie in"):
        model.n_episodes = 0  # type: ignore[attr-defined]
    assert model.n_episodes == 2  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="no part of 'reinforce' has the hyperparameter group_size"):
        model.group_size = 2
    model.learn(1)


def test_the_forms_of_sb3() -> None:
    model, sb3 = ours(clip_range=0.3), theirs(clip_range=0.3)
    assert model.clip_range(0.5) == sb3.clip_range(0.5) == 0.3  # type: ignore[attr-defined,operator]
    assert model.clip_range_vf is sb3.clip_range_vf is None  # type: ignore[attr-defined]
    for name in ("gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "n_epochs", "batch_size", "target_kl",
                 "normalize_advantage", "n_steps", "learning_rate"):  # fmt: skip
        assert getattr(model, name) == getattr(sb3, name), name
    assert not hasattr(ours("a2c"), "clip_range")
    assert ours("a2c").gae_lambda == 1.0


@pytest.mark.parametrize(
    ("plugin", "name", "value", "message"),
    [
        ("ppo", "n_epochs", 0, "n_epochs must lie in"),
        ("ppo", "n_epochs", "x", "n_epochs must be int"),
        ("ppo", "clip_range", -1, "clip_range must lie in"),
        ("ppo", "batch_size", 1, "batch_size above 1"),
        ("ppo", "gamma", 1.5, "gamma must lie in"),
        ("a2c", "n_epochs", 2, "correct for one epoch only"),
        ("a2c", "clip_range", 0.2, "no part of 'a2c' has the hyperparameter clip_range"),
        ("a2c", "use_rms_prop", False, "use_rms_prop cannot change, because the optimizer was built with it"),
        ("a2c", "use_sde", True, "use_sde cannot change, because the policy was built with it"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(plugin: str, name: str, value: Any, message: str) -> None:
    model = ours(plugin)
    before = model.combination
    with pytest.raises(ConfigError, match=message):
        setattr(model, name, value)
    assert model.combination is before
    assert model.parts["objective"]["fields"] == ours(plugin).parts["objective"]["fields"]


def test_a_changed_value_is_saved(tmp_path: Path) -> None:
    model = ours()
    model.clip_range, model.n_epochs = 0.07, 5  # type: ignore[attr-defined]
    model.save(tmp_path / "model")
    loaded: Any = PolicyGradient.load(tmp_path / "model", device="cpu")
    assert (loaded.objective.clip_range, loaded.clip_range(1.0), loaded.n_epochs) == (0.07, 0.07, 5)
    sb3 = PPO.load(tmp_path / "model", device="cpu")
    assert sb3.clip_range(1.0) == 0.07  # type: ignore[operator]


# ---------------------------------------------------------------- load


def test_custom_objects_take_effect(tmp_path: Path) -> None:
    """The idiom of SB3's documentation. A2C has no clip range, and ignores it."""
    custom = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.05, "ent_coef": 0.1}
    ours().save(tmp_path / "ppo")
    loaded: Any = PolicyGradient.load(tmp_path / "ppo", device="cpu", custom_objects=custom)
    assert loaded.clip_range(1.0) == loaded.objective.clip_range(1.0) == 0.05
    assert (loaded.learning_rate, loaded.ent_coef, loaded.lr_schedule(1.0)) == (0.0, 0.1, 0.0)
    ours("a2c").save(tmp_path / "a2c")
    loaded = PolicyGradient.load(tmp_path / "a2c", device="cpu", custom_objects=custom)
    assert loaded.learning_rate == 0.0
    assert not hasattr(loaded, "clip_range")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_epoch": 3}, "unknown argument of load 'n_epoch'; did you mean 'n_epochs'"),
        ({"foo": 3}, "unknown argument of load 'foo'"),
        ({"n_epochs": 0}, "n_epochs must lie in"),
        ({"clip_range": -1}, "clip_range must lie in"),
        ({"plugin_kwargs": [1]}, "plugin_kwargs must be a mapping"),
        ({"registry": 3}, "registry must be a Registry"),
        ({"seed": "x"}, "seed must be an integer"),
        ({"fast": 3}, "fast must be 'auto', True or False, not 3"),
        ({"plugin": "a2c"}, "plugin cannot change on load"),
    ],
)
def test_what_load_refuses(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    ours().save(tmp_path / "model")
    with pytest.raises(PgzooError, match=message):
        PolicyGradient.load(tmp_path / "model", device="cpu", **arguments)


def test_what_load_takes(tmp_path: Path) -> None:
    ours().save(tmp_path / "model")
    loaded: Any = PolicyGradient.load(
        tmp_path / "model", device="cpu", verbose=0, tensorboard_log=None, num_timesteps=7, stats_window_size=3,
        plugin_kwargs={"gamma": 0.5}, registry=Registry.discover(),
    )  # fmt: skip
    assert (loaded.num_timesteps, loaded._stats_window_size, loaded.gamma) == (7, 3, 0.5)


# ---------------------------------------------------------------- arguments from Python


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plugin_kwargs": [("gamma", 0.9)]}, "plugin_kwargs must be a mapping"),
        ({"registry": 3}, "registry must be a Registry or None, not 3"),
        ({"seed": "x"}, "seed must be an integer or None, not 'x'"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"seed": True}, "seed must be an integer"),
        ({"seed": -1}, r"seed must lie in \[0, 2\^32 - 1\]"),
        ({"seed": 2**32}, "seed must lie in"),
        ({"fast": 3}, "fast must be 'auto', True or False, not 3"),
        ({"fast": "yes"}, "fast must be"),
        ({"policy": "MlpPolice"}, "unknown policy 'MlpPolice'; did you mean 'MlpPolicy'"),
        ({"policy": 3}, "policy must be one of MlpPolicy"),
        ({"policy": dict}, "policy must be one of MlpPolicy"),
        ({"env": 3}, "cannot make the model"),
        ({"env": "CartPol-v1"}, "cannot make the model: NameNotFound"),
        ({"device": "foo"}, "cannot make the model: RuntimeError"),
        ({"policy_kwargs": {"net_arch": {"foo": [4]}}}, "net_arch: unknown network 'foo'"),
        ({"policy_kwargs": {"nope": 3}}, "policy_kwargs: unknown argument 'nope'"),
        ({"policy_kwargs": {"optimizer_kwargs": {"maximize": True}}}, "maximize must be false"),
        ({"policy_kwargs": {"log_std_init": "x"}}, "log_std_init must be float, not 'x'"),
        ({"policy_kwargs": {"activation_fn": "ReLU"}}, "activation_fn must be a class, not 'ReLU'"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.LBFGS}}, "LBFGS evaluates the loss several times"),
        ({"policy_kwargs": 3}, "policy_kwargs must be a mapping, not 3"),
        ({"rollout_buffer_kwargs": {"nope": 3}}, "cannot build the policy"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    arguments = {"policy": "MlpPolicy", "env": "CartPole-v1", "plugin": "a2c", **arguments}
    with pytest.raises(PgzooError, match=message):
        PolicyGradient(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_timesteps": float("nan")}, "total_timesteps must be 0 or more, not nan"),
        ({"total_timesteps": "many"}, "total_timesteps must be a number, not 'many'"),
        ({"total_timesteps": -5}, "total_timesteps must be 0 or more, not -5"),
        ({"total_timesteps": 5, "log_interval": 0}, "log_interval must lie in"),
        ({"total_timesteps": 5, "log_interval": "x"}, "log_interval must be int"),
    ],
)
def test_wrong_arguments_of_learn(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ours("a2c").learn(**arguments)


# ---------------------------------------------------------------- progress


@pytest.mark.parametrize("plugin", ["reinforce", "a2c", "ppo"])
def test_schedules_never_see_negative_progress(plugin: str) -> None:
    """The last rollout exceeds total_timesteps: by SB3's formula, the progress is far below zero."""
    seen: list[float] = []

    def schedule(left: float) -> float:
        seen.append(left)
        return 1e-3 * left

    def clip_range(left: float) -> float:
        return 0.1 + schedule(left)

    options: dict[str, Any] = {"clip_range": clip_range} if plugin == "ppo" else {}
    model = ours(plugin, learning_rate=schedule, **options)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(3)
    assert min(seen) == 0.0
    assert model._current_progress_remaining == 0.0
    assert all(torch.equal(before[name], x) for name, x in model.policy.state_dict().items())


# ---------------------------------------------------------------- the buffer, and copies of the model


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("fast", [False, "auto"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_callback_may_read_the_buffer_and_change_it(when: str, fast: Any, n_envs: int) -> None:
    """`RolloutBuffer.get` flattens the arrays in place. What is changed before or after counts, as without `get`."""

    def trained(read: bool) -> PolicyGradient:
        def use(buffer: Any) -> None:
            if read:
                generator = np.random.get_state()
                for batch in buffer.get(16):
                    assert len(batch.advantages) <= 16
                np.random.set_state(generator)

        class Change(BaseCallback):
            def _on_step(self) -> bool:
                return True

            def _on_rollout_end(self) -> None:
                buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
                if when == "after":
                    use(buffer)
                buffer.advantages *= 3
                buffer.advantages -= buffer.returns
                buffer.returns += 1
                if when == "before":
                    use(buffer)

        env = make_vec_env("CartPole-v1", n_envs, seed=0)
        model = PolicyGradient("MlpPolicy", env, "ppo", seed=0, device="cpu", fast=fast, clip_range_vf=0.1, **SIZES)
        return model.learn(3 * 64 * n_envs, callback=Change())

    read, not_read = trained(True), trained(False)
    for name, value in not_read.policy.state_dict().items():
        assert torch.equal(read.policy.state_dict()[name], value)
    values = [dict(model.logger.name_to_value) for model in (read, not_read)]
    assert {k: v for k, v in values[0].items() if "time" not in k} == {
        k: v for k, v in values[1].items() if "time" not in k
    }


def pickled(model: Any) -> Any:
    return pickle.loads(cloudpickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("fast", [False, "auto"])
@pytest.mark.parametrize("plugin", ["a2c", "ppo", "rtg_value", "rtg_moving_average", "advantage", "grpo"])
def test_a_copy_learns_as_the_original_does(plugin: str, fast: Any, copied: Any) -> None:
    size = sizes(plugin, n_steps=32, n_episodes=4, group_size=2)
    model = ours(plugin, fast=fast, batch_size=32, **size).learn(200)
    twin = copied(model)
    before = copy.deepcopy(model.get_parameters())
    results = []
    for one in (twin, model):
        one.set_random_seed(7)
        one.learn(200, reset_num_timesteps=False)
        results.append({name: x.clone() for name, x in one.policy.state_dict().items()})
        if one is twin:  # it shares no memory with the original
            assert_same(model.get_parameters(), before)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert twin.parts == model.parts


def test_copies_in_the_middle_of_learning_and_before_it() -> None:
    """A callback that keeps copies, as for a population or a target."""
    copies: list[Any] = []

    class Keep(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps in (2, 150):
                copies.append(copy.deepcopy(self.model))
            return True

    model = ours("a2c", fast="auto")
    fresh = copy.deepcopy(model)
    model.set_logger(Logger(None, []))
    model.learn(300, callback=Keep())
    for one in [*copies, fresh]:
        one.learn(130)
    assert [one.backend.name for one in copies] == ["numpy", "numpy"]


def test_a_copied_registry_takes_further_plugins(registry_with: Any) -> None:
    registry = copy.deepcopy(registry_with())
    assert registry.recipes() == Registry.discover().recipes()
    assert pickle.loads(pickle.dumps(registry)).names("baseline") == registry.names("baseline")


def test_sb3_opens_a_model_with_new_attributes(tmp_path: Path) -> None:
    ours("a2c").save(tmp_path / "model")
    assert A2C.load(tmp_path / "model", device="cpu").n_steps == 64
