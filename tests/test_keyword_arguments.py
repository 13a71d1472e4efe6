"""Keyword arguments that a run passes on are checked against what they are passed to."""

from __future__ import annotations

import inspect
import math
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from command import pgzoo
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize

from pgzoo import ConfigError
from pgzoo.interface.hyperparameters import declared
from pgzoo.registry.policy_arguments import SET_BY_THE_ALGORITHM, PolicyArguments, checked_policy_kwargs
from pgzoo.training.keyword_arguments import (
    MonitorArguments,
    NormalizeArguments,
    check_norm_obs_keys,
    checked_arguments,
    load_policy,
    policy_arguments,
)


@pytest.mark.parametrize(
    ("cls", "callee", "not_offered"),
    [
        (NormalizeArguments, VecNormalize, {"venv", "training"}),
        (MonitorArguments, Monitor, {"env", "filename"}),
        (PolicyArguments, ActorCriticPolicy, set(SET_BY_THE_ALGORITHM)),
    ],
)
def test_the_declared_arguments_are_those_of_sb3(cls: type, callee: type, not_offered: set[str]) -> None:
    """Finds an argument that a new version of SB3 adds, renames, or gives another default."""
    parameters = dict(inspect.signature(callee).parameters)
    assert set(declared(cls)) == set(parameters) - not_offered
    for name, param in declared(cls).items():
        default = parameters[name].default
        if not isinstance(default, type):  # classes are declared by name
            assert param.default == default, name


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({"normalize": {"clip_obs": "5", "norm_obs_keys": ["vec"]}}, {"clip_obs": 5.0, "norm_obs_keys": ["vec"]}),
        ({"normalize": {"clip_reward": math.inf}}, {"clip_reward": math.inf}),
        ({"normalize": True}, True),
        ({"monitor_kwargs": {"info_keywords": ["x"]}}, {"info_keywords": ("x",)}),
        ({"policy_kwargs": {"net_arch": [64.0, "32"]}}, {"net_arch": [64, 32]}),
        ({"policy_kwargs": {"net_arch": [{"pi": [8], "vf": []}]}}, {"net_arch": {"pi": [8], "vf": []}}),
        ({"policy_kwargs": {"log_std_init": -2, "ortho_init": False}}, {"log_std_init": -2.0, "ortho_init": False}),
        ({"policy_kwargs": {"mine": 1}, "policy": "my.Policy"}, {"mine": 1}),
    ],
)
def test_arguments_are_converted(run: dict[str, Any], expected: Any) -> None:
    """Finds a list where Monitor adds tuples, and an argument of a user's policy that is refused."""
    checked = checked_arguments(run)
    assert checked[next(iter(run))] == expected


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"normalize": {"clip_obs": 0}}, "normalize.clip_obs must lie in (0, ∞], not 0"),
        ({"normalize": {"clip_obs": -1}}, "normalize.clip_obs must lie in (0, ∞], not -1"),
        ({"normalize": {"gamma": 5}}, "normalize.gamma must lie in [0, 1], not 5"),
        ({"normalize": {"norm_obs": "x"}}, "normalize.norm_obs must be bool, not 'x'"),
        ({"normalize": {"epsilon": math.inf}}, "normalize.epsilon must lie in (0, ∞), not inf"),
        ({"normalize": {"norm_obs_keys": "vec"}}, "normalize.norm_obs_keys must be list | none, not 'vec'"),
        ({"normalize": {"norm_obs_keys": [3]}}, "normalize.norm_obs_keys[0] must be str, not 3"),
        ({"normalize": {"clip": 3}}, "normalize: unknown argument 'clip'; did you mean"),
        ({"normalize": {"training": False}}, "normalize: unknown argument 'training'"),
        ({"monitor_kwargs": {"info_keyword": ["x"]}}, "monitor_kwargs: unknown argument 'info_keyword'; did you mean"),
        ({"monitor_kwargs": {"info_keywords": "x"}}, "monitor_kwargs.info_keywords must be tuple, not 'x'"),
        ({"monitor_kwargs": {"allow_early_resets": 1}}, "monitor_kwargs.allow_early_resets must be bool, not 1"),
        ({"policy_kwargs": {"net_arc": [8]}}, "policy_kwargs: unknown argument 'net_arc'; did you mean 'net_arch'?"),
        ({"policy_kwargs": {"net_arch": {"foo": [4]}}}, "policy_kwargs.net_arch: unknown network 'foo'; known: pi, vf"),
        ({"policy_kwargs": {"net_arch": [0]}}, "policy_kwargs.net_arch[0] must lie in [1, 100000], not 0"),
        ({"policy_kwargs": {"net_arch": [8, "x"]}}, "policy_kwargs.net_arch[1] must be int, not 'x'"),
        ({"policy_kwargs": {"net_arch": {"pi": 8}}}, "policy_kwargs.net_arch.pi must be list, not 8"),
        ({"policy_kwargs": {"log_std_init": "x"}}, "policy_kwargs.log_std_init must be float, not 'x'"),
        ({"policy_kwargs": {"log_std_init": math.nan}}, "policy_kwargs.log_std_init must be a number, not nan"),
        ({"policy_kwargs": {"activation_fn": 3}}, "policy_kwargs.activation_fn must be str, not 3"),
        ({"policy_kwargs": {"ortho_init": 1}}, "policy_kwargs.ortho_init must be bool, not 1"),
        ({"policy_kwargs": {"use_sde": True}}, "policy_kwargs must not contain use_sde: use_sde is a hyperparameter"),
        (
            {"policy_kwargs": {"optimizer_kwargs": {"maximize": True}}},
            "policy_kwargs.optimizer_kwargs.maximize must be false: the update would increase the loss",
        ),
        (
            {"policy_kwargs": {"optimizer_kwargs": {"lr": 1}}},
            "policy_kwargs.optimizer_kwargs must not contain lr: learning_rate sets the step size",
        ),
        ({"policy": "MlpPolice"}, "unknown policy 'MlpPolice'; did you mean 'MlpPolicy'"),
        ({"env_wrapper": [3]}, "a wrapper or callback is an import path or {path: arguments}, not 3"),
        ({"callback": {"a.B": 3}}, "a.B takes its arguments as a mapping, not 3"),
    ],
)
def test_wrong_arguments_are_refused(run: dict[str, Any], message: str) -> None:
    """Each of these was passed on. Some were ignored silently, and others ended in a traceback of SB3 or torch."""
    with pytest.raises(ConfigError) as error:
        checked_arguments(run)
    assert str(error.value).startswith(message)


def test_python_users_may_pass_classes_and_other_names() -> None:
    """Finds a refusal of what SB3 accepts: classes, tuples, numpy's integers, and arguments of another policy."""
    kwargs = {"activation_fn": torch.nn.ReLU, "net_arch": (np.int64(8),), "mine": 1, "optimizer_class": torch.optim.SGD}
    checked = checked_policy_kwargs(kwargs, other_names=True)
    assert checked == {**kwargs, "net_arch": [8]}
    with pytest.raises(ConfigError, match=r"^policy_kwargs must be a mapping, not \[3\]$"):
        checked_policy_kwargs([3])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"activation_fn": "relu"}, {"activation_fn": torch.nn.ReLU}),
        ({"activation_fn": "nn.ELU"}, {"activation_fn": torch.nn.ELU}),
        ({"activation_fn": "torch.nn.modules.activation.GELU"}, {"activation_fn": torch.nn.GELU}),
        ({"optimizer_class": "sgd"}, {"optimizer_class": torch.optim.SGD}),
        ({"optimizer_class": "th.optim.AdamW"}, {"optimizer_class": torch.optim.AdamW}),
        ({"optimizer_kwargs": {"betas": [0.5, 0.9]}}, {"optimizer_kwargs": {"betas": (0.5, 0.9)}}),
        (
            {"features_extractor_class": "stable_baselines3.common.torch_layers.FlattenExtractor"},
            {"features_extractor_class": __import__("stable_baselines3").common.torch_layers.FlattenExtractor},
        ),
    ],
)
def test_classes_are_found_by_name(kwargs: dict[str, Any], expected: dict[str, Any]) -> None:
    assert policy_arguments(kwargs) == expected


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"activation_fn": "Rellu"}, "policy_kwargs.activation_fn: unknown activation_fn 'Rellu'; did you mean 'ReLU'"),
        (
            {"activation_fn": "collections.Counter"},
            "policy_kwargs.activation_fn: collections.Counter is not a subclass",
        ),
        ({"optimizer_class": "Adamm"}, "policy_kwargs.optimizer_class: unknown optimizer_class 'Adamm'; did you mean"),
        ({"optimizer_class": "absent_module.Adam"}, "cannot import 'absent_module.Adam': ModuleNotFoundError"),
        ({"optimizer_class": "LBFGS"}, "policy_kwargs.optimizer_class: LBFGS evaluates the loss several times"),
        ({"optimizer_kwargs": {"momentun": 1}}, "policy_kwargs.optimizer_kwargs of Adam: unknown argument 'momentun'"),
        ({"optimizer_kwargs": {"eps": "x"}}, "policy_kwargs.optimizer_kwargs.eps must be float, not 'x'"),
        ({"optimizer_kwargs": {"eps": math.inf}}, "policy_kwargs.optimizer_kwargs.eps must lie in (-∞, ∞), not inf"),
        ({"optimizer_kwargs": {"betas": [0.9]}}, "policy_kwargs.optimizer_kwargs.betas must have 2 elements, not 1"),
        ({"optimizer_kwargs": {"amsgrad": 1}}, "policy_kwargs.optimizer_kwargs.amsgrad must be bool, not 1"),
        (
            {
                "features_extractor_class": "stable_baselines3.common.torch_layers.NatureCNN",
                "features_extractor_kwargs": {"feature_dim": 8},
            },
            "stable_baselines3.common.torch_layers.NatureCNN: unknown argument 'feature_dim'; did you mean",
        ),
    ],
)
def test_wrong_classes_and_their_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        policy_arguments(kwargs)
    assert str(error.value).startswith(message)


def test_arguments_of_an_optimizer_that_is_replaced_are_refused() -> None:
    """`use_rms_prop` replaces the optimizer's arguments unless a class is named, as in SB3."""
    with pytest.raises(ConfigError, match="no effect with use_rms_prop"):
        policy_arguments({"optimizer_kwargs": {"eps": 1e-3}}, use_rms_prop=True)
    named = {"optimizer_class": "RMSprop", "optimizer_kwargs": {"eps": 1e-3}}
    assert policy_arguments(named, use_rms_prop=True)["optimizer_kwargs"] == {"eps": 1e-3}


BOX = spaces.Box(-1, 1, (2,))
DICT = spaces.Dict({"vec": BOX, "word": spaces.Discrete(3)})


@pytest.mark.parametrize(
    ("arguments", "space", "message"),
    [
        ({}, BOX, None),
        ({"norm_obs": False}, spaces.Discrete(3), None),
        ({"norm_obs_keys": ["vec"]}, DICT, None),
        ({"norm_obs_keys": ["vek"]}, DICT, "unknown key of the observation 'vek'; did you mean 'vec'?"),
        ({"norm_obs_keys": ["word"]}, DICT, "but 'word' is Discrete"),
        ({}, DICT, "but 'word' is Discrete; name the keys to normalise in norm_obs_keys"),
        ({"norm_obs_keys": ["vec"]}, BOX, "is for Dict observations; this environment has Box"),
        ({}, spaces.Discrete(3), "normalize works on Box observations; this environment has Discrete"),
    ],
)
def test_observations_that_cannot_be_normalised(arguments: Any, space: Any, message: str | None) -> None:
    if message is None:
        check_norm_obs_keys(arguments, space)
        return
    with pytest.raises(ConfigError) as error:
        check_norm_obs_keys(arguments, space)
    assert message in str(error.value)


def test_policies() -> None:
    assert load_policy("CnnPolicy") == "CnnPolicy"
    assert load_policy("stable_baselines3.common.policies.ActorCriticPolicy") is ActorCriticPolicy
    with pytest.raises(ConfigError, match=r"collections.Counter is not a subclass of ActorCriticPolicy"):
        load_policy("collections.Counter")


MODULE = """
import gymnasium as gym
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor

class Wrapper(gym.Wrapper):
    pass
class Callback(BaseCallback):
    def _on_step(self):
        return True
class Policy(ActorCriticPolicy):
    def __init__(self, *args, depth=1, **kwargs):
        super().__init__(*args, net_arch=[4] * depth, **kwargs)
class Extractor(FlattenExtractor):
    pass
class Optimizer(torch.optim.Adam):
    pass
"""


def test_classes_in_a_file_next_to_the_user(tmp_path: Path) -> None:
    """Finds a class that is found only through PYTHONPATH, in training and in the evaluation of what was saved."""
    (tmp_path / "beside_me.py").write_text(MODULE)
    (tmp_path / "gymnasium.py").write_text("raise SystemExit('a local file replaces an installed module')\n")
    (tmp_path / "a.yml").write_text(
        "default:\n"
        "  n_timesteps: 64\n  n_envs: 1\n  n_steps: 64\n"
        "  env_wrapper: beside_me.Wrapper\n  callback: beside_me.Callback\n  policy: beside_me.Policy\n"
        "  policy_kwargs:\n    depth: 3\n    features_extractor_class: beside_me.Extractor\n"
        "    optimizer_class: beside_me.Optimizer\n"
    )
    common = ["--eval-episodes", "1", "--no-progress", "--device", "cpu"]
    script = Path(sysconfig.get_path("scripts")) / "pgzoo"  # unlike `python -m`, it does not look into the folder
    for arguments in (["train", "--conf-file", "a.yml", *common], ["eval", "-n", "1", "--trust"]):
        result = subprocess.run([script, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr


def test_lists_reach_monitor(tmp_path: Path) -> None:
    """`info_keywords` is a list in YAML, and Monitor adds it to a tuple."""
    gym.register("Informed-v0", f"{__name__}:Informed")
    pairs = ["-P", "monitor_kwargs:{info_keywords: [height]}", "-P", "n_envs:1", "-P", "n_steps:8"]
    common = ["--env", "Informed-v0", "-n", "20", "--eval-episodes", "1", "--eval-freq", "-1", "--no-progress"]
    pgzoo("train", *common, *pairs, cwd=tmp_path)
    lines = (tmp_path / "logs/ppo/Informed-v0_1/0.monitor.csv").read_text().splitlines()
    assert lines[1] == "r,l,t,height"
    assert lines[2].endswith(",7")


class Informed(gym.Env[Any, Any]):
    """Episodes of one step, each with the info height = 7."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 1.0, True, False, {"height": 7}
