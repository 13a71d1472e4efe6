"""Environments made from a run's configuration: wrappers, statistics, stacks, monitor files, and refusals."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from envs import Clock
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecEnv, VecFrameStack, VecNormalize

import pgzoo.envs  # noqa: F401 (registers the environments of pgzoo)
from pgzoo import ConfigError, Registry
from pgzoo.model_file.normalizer import Normalizer
from pgzoo.training.config import load_config
from pgzoo.training.environments import make_env
from pgzoo.training.guarded import GuardedVecEnv

REGISTRY = Registry.discover()
TIME_LIMIT = "gymnasium.wrappers.TimeLimit"
CHECK_NAN = "stable_baselines3.common.vec_env.VecCheckNan"
CLOCK = "TestEnvironments/Clock-v0"
gym.register(CLOCK, f"{Clock.__module__}:Clock")


def made(env: str = CLOCK, n_envs: int = 1, overrides: dict[str, Any] | None = None, **arguments: Any) -> VecEnv:
    """Return the VecEnv of a run of `rtg` with the given settings."""
    config = load_config(REGISTRY, "rtg", env, overrides=overrides)
    return make_env(config, n_envs=n_envs, seed=0, **arguments)


def stepped(venv: VecEnv, n: int) -> list[Any]:
    """Return the infos of n steps with action 0 after a reset."""
    venv.reset()
    return [venv.step(np.zeros(venv.num_envs, dtype=int))[3] for _ in range(n)]


def test_wrappers_are_applied_in_order() -> None:
    """Finds wrappers in reverse order or without their arguments: the limit of 2 is inside that of 7."""
    venv = made("CartPole-v1", overrides={"env_wrapper": [{TIME_LIMIT: {"max_episode_steps": n}} for n in (2, 7)]})
    assert isinstance(venv, GuardedVecEnv)
    assert isinstance(venv.venv, DummyVecEnv)
    outer = venv.venv.envs[0]
    assert isinstance(outer, TimeLimit)
    assert isinstance(outer.env, TimeLimit)
    assert (outer._max_episode_steps, outer.env._max_episode_steps) == (7, 2)


def test_vec_env_wrappers_lie_between_the_environments_and_their_normalisation() -> None:
    """Finds another order than RL Zoo's: wrappers, then VecNormalize, then the stack of normalised observations."""
    venv = made(n_envs=2, overrides={"vec_env_wrapper": CHECK_NAN, "normalize": True, "frame_stack": 3})
    assert isinstance(venv, VecFrameStack)
    assert isinstance(venv.venv, VecNormalize)
    kinds = []
    inner: Any = venv.venv.venv
    while not isinstance(inner, DummyVecEnv):
        kinds.append(type(inner))
        inner = inner.venv
    assert kinds == [GuardedVecEnv, VecCheckNan, GuardedVecEnv]  # each layer that may raise has its border
    assert venv.observation_space.shape == (2 * 3,)


def test_arguments_of_normalize_replace_the_defaults() -> None:
    """Finds a discount that differs from the recipe's, and arguments that are ignored."""
    default = made(overrides={"normalize": True, "gamma": 0.9})
    chosen = made(overrides={"normalize": {"norm_obs": False, "gamma": 0.5, "clip_reward": 3}, "gamma": 0.9})
    assert isinstance(default, VecNormalize)
    assert isinstance(chosen, VecNormalize)
    assert (default.gamma, default.norm_obs, default.norm_reward, default.training) == (0.9, True, True, True)
    assert (chosen.gamma, chosen.norm_obs, chosen.clip_reward) == (0.5, False, 3)


def test_evaluation_takes_the_statistics_of_training_and_keeps_them() -> None:
    """Finds an evaluation that updates the statistics or reports normalised rewards. Clock's rewards are 1, 2, 3."""
    training: Any = made(overrides={"normalize": True})
    stepped(training, 5)
    evaluation: Any = made(overrides={"normalize": True}, statistics=Normalizer.of(training), training=False)
    evaluation.reset()
    rewards = [evaluation.step(np.zeros(1, dtype=int))[1][0] for _ in range(3)]
    assert rewards == [1, 2, 3]
    assert evaluation.obs_rms.mean == pytest.approx(training.obs_rms.mean)


@pytest.mark.parametrize(
    ("vec_env", "keywords", "n_files"),
    [
        ("dummy", ("is_success",), 2),
        ("vector", ["is_success"], 1),
    ],
)  # fmt: skip
def test_monitor_files_contain_every_episode(vec_env: str, keywords: Any, n_files: int, tmp_path: Path) -> None:
    """Finds a missing file, a lost column, and normalised returns. Clock's episodes have 1 + 2 + 3 = 6 and length 3."""
    overrides = {"monitor_kwargs": {"info_keywords": keywords}, "normalize": True}
    venv = made(n_envs=2, overrides=overrides, vec_env=vec_env, monitor_dir=tmp_path / "monitor")
    infos = stepped(venv, 7)
    venv.close()
    assert infos[2][1]["episode"]["r"] == 6
    names = sorted(path.name for path in (tmp_path / "monitor").iterdir())
    assert names == [f"{i}.monitor.csv" for i in range(n_files)]
    lines = [line for name in names for line in (tmp_path / "monitor" / name).read_text().splitlines()[1:]]
    rows = [row for row in csv.DictReader(lines) if row["r"] != "r"]  # each file has its own header
    assert [(float(row["r"]), row["l"], row["is_success"]) for row in rows] == [(6, "3", "True")] * 4
    assert isinstance(venv, VecNormalize)
    assert isinstance(venv.venv, GuardedVecEnv)


def test_arguments_of_the_call_replace_those_of_the_run() -> None:
    """Finds arguments of a run that are lost if a call adds one, such as the render mode of `pgzoo enjoy`."""
    run = {"env_kwargs": {"digits": 3, "base": 5}}
    venv = made("pgzoo/Addition-v0", overrides=run, env_kwargs={"base": 2, "render_mode": "ansi"})
    assert venv.get_attr("unwrapped")[0].digits == 3
    assert venv.get_attr("unwrapped")[0].base == 2
    assert venv.render_mode == "ansi"


@pytest.mark.parametrize(
    ("overrides", "arguments", "message"),
    [
        ({"env_wrapper": "Nodots"}, {}, r"^cannot import 'Nodots': an import path has the form module.Name"),
        ({"env_wrapper": "gymnasium.wrappers.TimeLimi"}, {}, r"^cannot import 'gymnasium.wrappers.TimeLimi': Attr"),
        ({"env_wrapper": "absent_module.Wrapper"}, {}, r"^cannot import 'absent_module.Wrapper': ModuleNot"),
        ({"env_wrapper": {TIME_LIMIT: 3}}, {}, rf"^{TIME_LIMIT} takes its arguments as a mapping, not 3$"),
        ({"env_wrapper": [3]}, {}, r"^a wrapper or callback is an import path or {path: arguments}, not 3$"),
        ({"env_wrapper": {TIME_LIMIT: {"steps": 3}}}, {}, rf"^{TIME_LIMIT}: unknown argument 'steps'"),
        ({"env_kwargs": {"colour": 1}}, {}, rf"^cannot make {CLOCK}: .*'colour'"),
        ({"monitor_kwargs": {"colour": 1}}, {}, r"^monitor_kwargs: unknown argument 'colour'"),
        ({"vec_env_wrapper": {CHECK_NAN: {"colour": 1}}}, {}, rf"^{CHECK_NAN}: .*'colour'"),
        ({"normalize": {"clip": 3}}, {}, r"^normalize: .*'clip'"),
        (
            {"env_wrapper": {TIME_LIMIT: {"max_episode_steps": 3}}}, {"vec_env": "vector"},
            r"^--vec-env vector steps arrays, which env_wrapper cannot wrap \(TimeLimit\); use --vec-env dummy or",
        ),
        (
            {"env_wrapper": {TIME_LIMIT: {"max_episode_steps": -1}}}, {},
            rf"^cannot make {CLOCK}: (Assertion|Value)Error: .*max_episode_steps",
        ),
    ],
)  # fmt: skip
def test_refusals(overrides: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    """Finds foreign exceptions, and messages that do not name the setting that caused them."""
    with pytest.raises(ConfigError, match=message):
        made(overrides=overrides, **arguments)


def test_a_stack_of_discrete_observations_is_refused() -> None:
    with pytest.raises(ConfigError, match="frame_stack"):
        made("FrozenLake-v1", overrides={"frame_stack": 4})


def test_unusable_statistics_are_refused() -> None:
    """Finds a traceback from `pgzoo eval` if the statistics are of another environment or not finite."""
    of_cart_pole = Normalizer.of(VecNormalize(made("CartPole-v1")))
    with pytest.raises(ConfigError, match=r"the model has statistics of the shape \(4,\), not \(2,\)"):
        made(overrides={"normalize": True}, statistics=of_cart_pole)
    infinite = VecNormalize(made())
    infinite.ret_rms.mean = np.array(np.nan)
    with pytest.raises(ConfigError, match="the model has statistics that are not finite"):
        made(overrides={"normalize": True}, statistics=Normalizer.of(infinite))
