"""RL Zoo's files, commands and folders are read, and RL Zoo reads those of pgzoo."""

from __future__ import annotations

import base64
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from command import pgzoo as command
from rl_zoo_run import ARGUMENTS, write_run
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecNormalize
from zips import members, write

import pgzoo
import pgzoo.rl_zoo3
from pgzoo import ConfigError, PgzooError, PolicyGradient
from pgzoo.cli.rl_zoo_spellings import translated
from pgzoo.registry.plugins import Registry, default_registry
from pgzoo.rl_zoo3.__main__ import main as rl_zoo_main
from pgzoo.training.config import load_config
from pgzoo.training.keyword_arguments import policy_arguments
from pgzoo.training.python_literals import read_expression
from pgzoo.training.yaml_files import read_yaml_mapping

needs_rl_zoo = pytest.mark.skipif(importlib.util.find_spec("rl_zoo3") is None, reason="rl_zoo3 is not installed")

CONFIGURATION = """
Pendulum-v1:
  normalize: "{'norm_obs': True, 'norm_reward': False}"
  n_timesteps: !!float 1.6e2
  policy: 'MlpPolicy'
  n_steps: 40
  learning_rate: lin_7e-4
  use_sde: True
  policy_kwargs: "dict(log_std_init=-2, ortho_init=False,
                       activation_fn=nn.ReLU,
                       net_arch=dict(pi=[16], vf=[16, 16]),
                       )"
"""
"""An entry in RL Zoo's style. It has one environment, because it does not say how many."""

IN_PYTHON = """
import numpy as np
from torch import nn

hyperparams = {
    "Pendulum-v1": dict(
        normalize={"norm_obs": True, "norm_reward": False}, n_timesteps=1.6e2, policy="MlpPolicy",
        n_steps=np.int64(40), learning_rate=f"lin_{7e-4}", use_sde=True,
        policy_kwargs=dict(
            log_std_init=-2, ortho_init=False, activation_fn=nn.ReLU, net_arch=dict(pi=(16,), vf=[16] * 2)
        ),
    ),
}
"""
"""The same entry as RL Zoo reads it from a file that ends with `.py`."""


def python(*arguments: str, cwd: Path, status: int = 0) -> str:
    """Run Python and return its output. rl_zoo3 patches Gymnasium when it is imported, so it has its own process."""
    environment = {
        **os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "SDL_VIDEODRIVER": "dummy"
    }  # fmt: skip
    command = [sys.executable, *arguments]
    process = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=200, check=False
    )
    assert process.returncode == status, process.stdout + process.stderr
    return process.stdout + process.stderr


@pytest.mark.parametrize(("algorithm", "file"), [(A2C, "conf.yml"), (PPO, "conf.yml"), (PPO, "conf.py")])
def test_an_entry_of_rl_zoo_trains_as_sb3_does(algorithm: Any, file: str, tmp_path: Path) -> None:
    """Finds a text that is read as something else than Python evaluates it to, and another number of environments."""
    (tmp_path / file).write_text(IN_PYTHON if file.endswith(".py") else CONFIGURATION)
    model = pgzoo.train(
        algorithm.__name__.lower(), "Pendulum-v1", conf_file=tmp_path / file, seed=5, fast=False, device="cpu",
        eval_freq=-1, eval_episodes=1, log_folder=tmp_path / "logs",
    ).model  # fmt: skip
    env = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=5), norm_reward=False)
    kwargs = eval(  # as RL Zoo does
        "dict(log_std_init=-2, ortho_init=False, activation_fn=nn.ReLU, net_arch=dict(pi=[16], vf=[16, 16]),)",
        {"nn": torch.nn},
    )
    expected = algorithm(
        "MlpPolicy", env, n_steps=40, learning_rate=lambda progress: progress * 7e-4, use_sde=True, seed=5,
        device="cpu", policy_kwargs=kwargs,
    ).learn(160)  # fmt: skip
    assert model.num_timesteps == expected.num_timesteps == 160
    for name, value in expected.policy.state_dict().items():
        torch.testing.assert_close(model.policy.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dict(a=__import__('os').system('touch bomb'))", "is not called; only dict"),
        ("dict(a=open('bomb', 'w'))", "policy_kwargs.a: 'open' is not called; only dict"),
        ("dict(a=nn.ReLU())", "'nn.ReLU' is not called"),
        ("dict(a=[x for x in ().__class__.__mro__])", "is not allowed; write numbers"),
        ("dict(a=os.system)", "unknown name 'os.system'"),
        ("dict(a=relu)", "policy_kwargs.a: unknown name 'relu'; did you mean 'nn.ReLU'"),
        ("dict(a=1, **{})", "dict takes name=value"),
        ("{'a': 1, 'a': 2}", "'a' is given twice"),
        ("dict(a=1", "was never closed"),
        ("{**x}", "is not allowed"),
        ("{" * 3000, "nested|is not valid"),
        ("dict(a=" + "-" * 4000 + "1)", "nested too deeply"),
        ("dict(a=" + "x." * 2000 + "y)", "nested too deeply|unknown name"),
        ("dict(a='" + "x" * 5000 + "')", "more than 5,000 characters"),
    ],
)
def test_expressions_are_never_evaluated(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_expression(text, "policy_kwargs")
    (tmp_path / "conf.yml").write_text(f"CartPole-v1:\n  n_envs: 1\n  policy_kwargs: {text!r}\n")
    with pytest.raises(ConfigError, match=r"conf.yml:3: "):
        load_config(default_registry(), "ppo", "CartPole-v1", file=tmp_path / "conf.yml")


WRONG_PYTHON = {
    "hyperparams = 3": "conf.py must define hyperparams, a mapping",
    "settings = {}": "conf.py must define hyperparams, a mapping",
    "1 / 0": "cannot read conf.py: ZeroDivisionError: division by zero",
    "hyperparams = {": "cannot read conf.py: SyntaxError",
    "raise SystemExit(0)": "conf.py ends the program",
    "hyperparams = {1: {}}": "a key must be text, not 1",
    "hyperparams = {'CartPole-v1': [3]}": "conf.py: the entry 'CartPole-v1' must be a mapping",
    "hyperparams = {'CartPole-v1': {'gama': 0.9}}": "conf.py: unknown hyperparameter 'gama'; did you mean 'gamma'",
    "hyperparams = {'CartPole-v1': {'gamma': object()}}": "hyperparams['CartPole-v1']['gamma'] must be numbers, text",
    "hyperparams = {'CartPole-v1': {'learning_rate': lambda p: p}}": "<lambda> has no import path",
}


@pytest.mark.parametrize("text", WRONG_PYTHON)
def test_wrong_configurations_in_python(text: str, tmp_path: Path) -> None:
    """Finds a traceback, a line number that does not exist, and a folder that is left behind."""
    (tmp_path / "conf.py").write_text(text)
    result = command("train", "-conf", "conf.py", cwd=tmp_path, status=2)
    assert WRONG_PYTHON[text] in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf.py"]


def test_a_configuration_in_a_module(tmp_path: Path) -> None:
    """RL Zoo imports what does not end with .py or .yml."""
    (tmp_path / "settings_of_a_lab").mkdir()
    (tmp_path / "settings_of_a_lab" / "small.py").write_text(
        "hyperparams = {'default': {'n_envs': 1, 'n_steps': 8, 'policy_kwargs': {'net_arch': [4]}}}\n"
    )
    small = ["-n", "16", "--eval-freq", "-1", "--eval-episodes", "1", "--device", "cpu"]
    result = command("train", "-conf", "settings_of_a_lab.small", *small, cwd=tmp_path)
    assert "hyperparameters from settings_of_a_lab.small, default" in result.stdout
    model = PolicyGradient.load(tmp_path / "logs/ppo/CartPole-v1_1/CartPole-v1.zip", device="cpu")
    assert (model.policy_kwargs, model.n_steps, model.n_envs) == ({"net_arch": [4]}, 8, 1)
    result = command("train", "-conf", "settings_of_a_lab.absent", *small, cwd=tmp_path, status=2)
    assert "cannot read settings_of_a_lab.absent: ModuleNotFoundError" in result.stderr


def test_a_folder_never_runs_the_configuration_that_it_names(tmp_path: Path) -> None:
    """The command line consents to the code of `-conf`; args.yml of somebody else's folder does not."""
    (tmp_path / "conf.py").write_text(
        "open('ran', 'w')\nhyperparams = {'default': {'n_envs': 1, 'n_steps': 16, 'n_timesteps': 32}}\n"
    )
    small = ["--eval-freq", "-1", "--eval-episodes", "1", "--device", "cpu", "--seed", "0", "--checkpoint-every", "16"]
    command("train", "-conf", "conf.py", *small, cwd=tmp_path)
    (tmp_path / "ran").unlink()
    folder = tmp_path / "logs" / "ppo" / "CartPole-v1_1"
    assert "conf_file: conf.py" in (folder / "CartPole-v1" / "args.yml").read_text()
    command("eval", str(folder), "-n", "1", cwd=tmp_path)
    command("enjoy", str(folder), "--no-render", "--n-episodes", "1", cwd=tmp_path)
    (folder / "checkpoints" / "finished").unlink()
    command("train", "--resume", str(folder), cwd=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_an_optimizer_that_rl_zoo_names(tmp_path: Path) -> None:
    text = "atari: {n_timesteps: 9, policy: CnnPolicy, policy_kwargs: 'dict(optimizer_class=RMSpropTFLike, " \
        "optimizer_kwargs=dict(eps=1e-5))'}"  # fmt: skip
    (tmp_path / "a2c.yml").write_text(text)
    config = load_config(default_registry(), "a2c", "ALE/Pong-v5", file=tmp_path / "a2c.yml")
    arguments = policy_arguments(config.run.policy_kwargs or {}, use_rms_prop=True)
    assert arguments == {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}


@needs_rl_zoo
@pytest.mark.parametrize("algorithm", ["a2c", "ppo", "trpo"])
def test_every_entry_of_rl_zoo_is_read(algorithm: str) -> None:
    spec = importlib.util.find_spec("rl_zoo3")  # without importing it
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "hyperparams" / f"{algorithm}.yml"
    registry, entries = Registry.discover(), read_yaml_mapping(file)
    assert len(entries) > 15
    for env, entry in entries.items():
        config = load_config(registry, algorithm, env, file=file)
        assert config.run.n_envs == entry.get("n_envs", 1)
        assert config.run.n_timesteps == int(entry["n_timesteps"])
        if "policy_kwargs" in entry:
            assert isinstance(config.run.policy_kwargs, dict)


RUN_OF_RL_ZOO = """
import argparse, sys, pgzoo, torch
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.utils import set_random_seed

algorithm, env, n, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
set_random_seed(3)
manager = ExperimentManager(argparse.Namespace(), algorithm, env, folder, n_timesteps=n, eval_freq=-1, seed=3,
                            log_interval=-1, device="cpu")
theirs, _ = manager.setup_experiment()
manager.learn(theirs)
ours = pgzoo.train(algorithm, env, conf_file=manager.config, n_timesteps=n, seed=3, log_folder=folder + "/ours",
                   device="cpu", fast=False, eval_freq=-1, eval_episodes=1).model
for name, value in theirs.policy.state_dict().items():
    torch.testing.assert_close(ours.policy.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)
print("equal")
"""


@pytest.mark.slow
@needs_rl_zoo
@pytest.mark.parametrize(
    ("algorithm", "env", "n_timesteps"),
    [("a2c", "Pendulum-v1", 640), ("ppo", "MountainCarContinuous-v0", 64), ("ppo", "CartPole-v1", 1024)],
)
def test_a_run_equals_rl_zoos(algorithm: str, env: str, n_timesteps: int, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(RUN_OF_RL_ZOO)
    assert "equal\n" in python("run.py", algorithm, env, str(n_timesteps), "logs", cwd=tmp_path)


@pytest.mark.slow
@needs_rl_zoo
def test_rl_zoos_enjoy_plays_a_run_of_pgzoo(tmp_path: Path) -> None:
    """Finds a key of config.yml or args.yml that RL Zoo reads otherwise, such as an empty frame_stack."""
    pgzoo.train(
        "ppo", "CartPole-v1", n_timesteps=256, seed=1, hyperparams={"normalize": True, "n_steps": 32}, eval_freq=-1,
        eval_episodes=1, env_kwargs={"sutton_barto_reward": True}, log_folder=tmp_path,
    )  # fmt: skip
    output = python(
        *("-m", "rl_zoo3.enjoy", "--algo", "ppo", "--env", "CartPole-v1", "-f", ".", "--no-render", "-n", "300"),
        cwd=tmp_path,
    )
    assert "Loading running average" in output
    assert "Mean reward: -1.00 +/- 0.00" in output  # as env_kwargs have it: -1 for a fall, and otherwise 0


WITHOUT_PGZOO = """
import sys

sys.modules["pgzoo"] = sys.modules["pgzoo_plugins"] = None  # importing them raises ModuleNotFoundError
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env

ppo = PPO.load("ppo", env=make_vec_env("CartPole-v1", 1, seed=0), device="cpu")
print(ppo.clip_range(1.0), ppo.clip_range_vf(0.5), ppo.n_epochs, ppo.batch_size, ppo.target_kl, ppo.ent_coef)
print(ppo.learn(64).num_timesteps)
for algorithm in (A2C, PPO):
    model = algorithm.load("rtg_value", env=make_vec_env("CartPole-v1", 1, seed=0), device="cpu")
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(256)
    print(model.max_grad_norm, any((a != b).any() for a, b in zip(before, model.policy.parameters())))
"""


def test_sb3_loads_a_model_right_where_pgzoo_cannot_be_imported(tmp_path: Path) -> None:
    """Finds an attribute that comes back as SB3's default, a class of pgzoo in the file, and max_grad_norm=None."""
    PolicyGradient(
        "MlpPolicy", "CartPole-v1", "ppo", clip_range=0.05, n_steps=64, batch_size=32, n_epochs=3, target_kl=0.5,
        ent_coef=0.125, clip_range_vf={"schedule": "linear", "initial": 0.5, "final": 0.25}, device="cpu",
    ).save(tmp_path / "ppo")  # fmt: skip
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "rtg_value", max_grad_norm=None, device="cpu")
    assert model.max_grad_norm is None
    model.save(tmp_path / "rtg_value")
    assert PolicyGradient.load(tmp_path / "rtg_value", device="cpu").max_grad_norm is None
    lines = python("-W", "ignore", "-c", WITHOUT_PGZOO, cwd=tmp_path).splitlines()
    assert lines == ["0.05 0.375 3 32 0.5 0.125", "64", "inf True", "inf True"]


def test_load_takes_the_policy_arguments_of_the_constructor(tmp_path: Path) -> None:
    """Finds that a2c refuses them, because the saved ones contain the RMSprop of use_rms_prop."""
    given = {"net_arch": [8]}
    PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", policy_kwargs=given, device="cpu").save(tmp_path / "a2c")
    model = PolicyGradient.load(tmp_path / "a2c", device="cpu", policy_kwargs=given)
    assert isinstance(model.policy.optimizer, torch.optim.RMSprop)
    with pytest.raises(ConfigError, match=r"policy_kwargs|policy kwargs"):
        PolicyGradient.load(tmp_path / "a2c", device="cpu", policy_kwargs={"net_arch": [9]})


def test_a_negative_clip_range_of_the_values() -> None:
    """SB3 raises an AssertionError, which its users catch as such or as a failed argument."""
    with pytest.raises(ValueError, match="clip_range_vf must lie in"):
        PolicyGradient("MlpPolicy", "CartPole-v1", "ppo", clip_range_vf=-0.1)


# ---------------------------------------------------------------- python -m pgzoo.rl_zoo3


@pytest.fixture
def rl_zoo(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tables of RL Zoo that `register` fills, without RL Zoo."""
    utils, opt = ModuleType("rl_zoo3.utils"), ModuleType("rl_zoo3.hyperparams_opt")
    utils.ALGOS = {"a2c": A2C, "ppo": PPO}  # type: ignore[attr-defined]
    opt.HYPERPARAMS_SAMPLER, opt.HYPERPARAMS_CONVERTER = {}, {}  # type: ignore[attr-defined]
    for module in (ModuleType("rl_zoo3"), utils, opt):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return SimpleNamespace(**{**vars(utils), **vars(opt)})


def test_recipes_are_registered_beside_rl_zoos_algorithms(rl_zoo: Any) -> None:
    """Finds that SB3's PPO is replaced, or that a second call takes another name."""
    names = pgzoo.rl_zoo3.register("td+value")
    assert pgzoo.rl_zoo3.register("td+value") == names
    assert rl_zoo.ALGOS["ppo"] is PPO
    assert (names["pgzoo"], names["pgzoo-ppo"], names["rloo"], names["td+value"]) == ("ppo", "ppo", "rloo", "td+value")
    assert set(names) == set(rl_zoo.HYPERPARAMS_SAMPLER) == set(rl_zoo.HYPERPARAMS_CONVERTER) == set(rl_zoo.ALGOS) - {
        "a2c", "ppo"
    }  # fmt: skip


def test_a_registered_recipe_is_built_as_rl_zoo_builds_it(rl_zoo: Any) -> None:
    """RL Zoo replaces the keyword arguments of the configuration by those of -params, one by one."""
    pgzoo.rl_zoo3.register()
    entry = importlib.import_module(pgzoo.rl_zoo3.configuration("pgzoo")).hyperparams["CartPole-v1"]
    assert (entry.pop("n_timesteps"), entry.pop("n_envs"), entry["clip_range"]) == (50000, 8, 0.4)
    custom = {"clip_range": 0.125, "batch_size": 32, "learning_rate": lambda progress: progress}
    env = make_vec_env("CartPole-v1", 2, seed=0)
    model = rl_zoo.ALGOS["pgzoo"](env=env, seed=0, verbose=0, device="cpu", **{**entry, **custom})
    assert (model.plugin, model.clip_range(1.0), model.batch_size, model.n_steps) == ("ppo", 0.125, 32, 64)
    assert model.update.n_critic_updates == 5  # pgzoo's tuned value
    assert model.learning_rate(0.5) == 0.5


@pytest.mark.parametrize("plugin", ["pgzoo", "rtg_moving_average", "pgzoo-a2c", "rloo"])
def test_a_study_draws_from_the_declared_ranges(plugin: str, rl_zoo: Any) -> None:
    """Finds a drawn value that the model does not get, and a converter that differs from the sampler."""
    names = pgzoo.rl_zoo3.register()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    trial = study.ask()
    drawn = rl_zoo.HYPERPARAMS_SAMPLER[plugin](trial, 0, 2, {"using_her_replay_buffer": False, "her_kwargs": {}})
    assert rl_zoo.HYPERPARAMS_CONVERTER[plugin](dict(trial.params)) == drawn
    assert "learning_rate" in drawn
    model = rl_zoo.ALGOS[plugin]("auto", make_vec_env("CartPole-v1", 2), device="cpu", **drawn)
    assert model.plugin == names[plugin]
    network = drawn.pop("policy_kwargs")
    assert model.policy_kwargs["net_arch"] == network["net_arch"]
    assert model.policy_kwargs["activation_fn"].__name__ == network["activation_fn"].rpartition(".")[2]
    for name, value in drawn.items():
        owner, _, field = name.rpartition(".")
        now = getattr(getattr(model, owner), field) if owner else getattr(model, name)
        assert (now(1.0) if callable(now) else now) == value, name


def test_rl_zoo_loads_a_registered_recipe(rl_zoo: Any, tmp_path: Path) -> None:
    """`-i` passes the hyperparameters, and `enjoy` passes custom_objects with a step size of 0."""
    pgzoo.rl_zoo3.register()
    cls = rl_zoo.ALGOS["rtg_value"]
    cls("MlpPolicy", make_vec_env("CartPole-v1", 2), device="cpu", n_episodes=4).save(tmp_path / "model")
    env = make_vec_env("CartPole-v1", 2)
    model = cls.load(tmp_path / "model", env=env, device="cpu", seed=1, n_episodes=2, tensorboard_log=None, verbose=0)
    assert (model.n_episodes, model.seed) == (2, 1)
    objects = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    assert cls.load(tmp_path / "model", custom_objects=objects, device="cpu", seed=0).plugin == "rtg_value"
    with pytest.raises(ConfigError, match="has its own plugin and policy"):
        cls.load(tmp_path / "model", plugin="rtg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown script 'trian'; did you mean 'train'?"),
        ([], "usage: python -m pgzoo.rl_zoo3 SCRIPT"),
        (
            ["train", "--algo", "pgzoo", "-optimize", "-params", "plugin:'rtg'"],
            "-optimize searches the space of --algo",
        ),
        (["train", "--algo=valeu+value"], "unknown estimator 'valeu'"),
    ],
)
def test_wrong_commands_for_rl_zoo(rl_zoo: Any, arguments: list[str], message: str) -> None:
    with pytest.raises(PgzooError, match=re.escape(message)):
        rl_zoo_main(arguments)


def test_without_rl_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    monkeypatch.delitem(sys.modules, "rl_zoo3.utils", raising=False)
    monkeypatch.delitem(sys.modules, "rl_zoo3.hyperparams_opt", raising=False)
    with pytest.raises(ConfigError, match=re.escape("pip install 'pgzoo[rl-zoo]'")):
        pgzoo.rl_zoo3.register()


@pytest.mark.slow
@needs_rl_zoo
def test_rl_zoos_scripts_with_a_recipe(tmp_path: Path) -> None:
    """Trains, continues, plays, searches, and trains with what was found, as RL Zoo's users do."""

    def script(name: str, *arguments: str) -> str:
        of_recipe = ("--algo", "rtg_value", "--env", "CartPole-v1", "-f", "logs", "--device", "cpu")
        return python("-W", "ignore", "-m", "pgzoo.rl_zoo3", name, *of_recipe, *arguments, cwd=tmp_path)

    def train(*arguments: str) -> str:
        return script("train", "-n", "400", "--eval-freq", "-1", "--seed", "1", *arguments)

    study = ("--storage", "sqlite:///s.db", "--study-name", "s")
    train("-params", "n_episodes:4", "learning_rate:'lin_0.001'")
    assert "Loading pretrained agent" in train("-i", "logs/rtg_value/CartPole-v1_1/CartPole-v1.zip")
    assert "Mean reward" in script("enjoy", "--no-render", "-n", "200")
    assert "Best trial" in train(*study, "-optimize", "--n-trials", "2", "--n-evaluations", "1", "--no-optim-plots")
    assert "Loading from Optuna study" in train(*study, "--trial-id", "1")
    model: Any = PolicyGradient.load(tmp_path / "logs/rtg_value/CartPole-v1_1/CartPole-v1.zip", device="cpu")
    assert (model.plugin, model.n_episodes, model.learning_rate(0.5)) == ("rtg_value", 4, 0.0005)
    found = optuna.load_study(storage=f"sqlite:///{tmp_path}/s.db", study_name="s").trials[1].params
    last = sorted((tmp_path / "logs" / "rtg_value").glob("CartPole-v1_*"))[-1]
    model = PolicyGradient.load(last / "CartPole-v1.zip", device="cpu")
    assert model.n_episodes == found["n_episodes"]


SCRIPTS = """
import importlib, runpy, sys
from pathlib import Path

import huggingface_hub
import matplotlib.pyplot as plt

from pgzoo.rl_zoo3.__main__ import SCRIPTS, main


class Api:  # a stand-in for the client of the Hub
    def create_repo(self, repo_id, token=None, private=None, exist_ok=False):
        return repo_id

    def snapshot_download(self, repo_id, local_dir):
        Path(local_dir).mkdir(parents=True)

    def upload_folder(self, repo_id, folder_path, commit_message):
        print("uploaded", repo_id, *sorted(path.name for path in Path(folder_path).iterdir()))


huggingface_hub.HfApi = Api
of_sb3 = importlib.import_module("huggingface_sb3.push_to_hub")
if not hasattr(of_sb3, "generate_metadata"):  # version 3.2 renames it, so that RL Zoo 2.9.2 cannot import it
    of_sb3.generate_metadata = lambda *values: of_sb3._generate_metadata(*values).to_dict()
plt.show = lambda: print("lines", *(len(line.get_xdata()) for line in plt.gca().lines))


def script(name, *arguments):
    print("==", name)
    if sys.argv[1] == "pgzoo.rl_zoo3":
        main([name, *arguments])
    else:
        script_argv, sys.argv[:] = list(sys.argv), [name, *arguments]
        runpy.run_module(SCRIPTS[name], run_name="__main__")
        sys.argv[:] = script_argv


_, module, algorithm = sys.argv
script("all_plots", "-a", algorithm, "-e", "CartPole-v1", "-f", "logs", "-o", "plots", "--no-display")
script("plot_from_file", "-i", "plots.pkl", "-o", "curve", "--format", "png")
plt.close("all")
script("plot_train", "-a", algorithm, "-e", "CartPole-v1", "-f", "logs", "-w", "2")
of_run = ("--algo", algorithm, "--env", "CartPole-v1", "-f", "logs", "--seed", "3")
script("enjoy", *of_run, "-n", "200", "--no-render")
script("enjoy", *of_run, "-n", "200", "--no-render", "--load-best")
script("enjoy", *of_run, "-n", "200", "--no-render", "--load-checkpoint", "160")
script("push_to_hub", *of_run, "-orga", "user", "--no-render")
script("record_video", *of_run, "-n", "20")
"""


def rl_zoo_plots() -> bool:
    """Whether RL Zoo's plots can be imported. Their package `arch` needs pandas 2."""
    names = ("rl_zoo3", "seaborn", "moviepy", "pandas")
    return all(importlib.util.find_spec(name) for name in names) and importlib.metadata.version("pandas")[0] == "2"


@pytest.mark.slow
@pytest.mark.skipif(not rl_zoo_plots(), reason="rl_zoo3[plots] or moviepy is not installed")
@pytest.mark.parametrize(("module", "algorithm"), [("rl_zoo3", "ppo"), ("pgzoo.rl_zoo3", "rtg_value")])
def test_rl_zoos_scripts_read_runs_of_pgzoo(module: str, algorithm: str, tmp_path: Path) -> None:
    """Finds a file that RL Zoo does not find or reads otherwise. The expected numbers are those of the run's files."""
    size: dict[str, Any] = {"n_steps": 20} if algorithm == "ppo" else {"n_episodes": 4}
    last_evaluations, lengths = [], []
    for seed in (1, 2):
        folder = pgzoo.train(
            algorithm, "CartPole-v1", n_timesteps=400, n_envs=4, seed=seed, hyperparams={"normalize": True, **size},
            eval_freq=160, eval_episodes=3, save_freq=160, log_folder=tmp_path / "logs", device="cpu",
        ).folder.path  # fmt: skip
        last_evaluations.append(np.load(folder / "evaluations.npz")["results"][-1].mean())
        lengths.append(sum(len(file.read_text().splitlines()) - 2 for file in folder.glob("*.monitor.csv")))
        if algorithm == "rtg_value":  # its checkpoints come after whole updates
            checkpoint = next(folder.glob("rl_model_[0-9]*_steps.zip"))
            for name in (checkpoint, *folder.glob(f"rl_model_vecnormalize_{checkpoint.stem.split('_')[2]}_steps.pkl")):
                name.rename(name.with_name(re.sub(r"\d+", "160", name.name)))
    (tmp_path / "scripts.py").write_text(SCRIPTS)
    output = python("-W", "ignore", "scripts.py", module, algorithm, cwd=tmp_path)
    sections = dict(re.findall(r"^== (\w+)\n(.*?)(?=^== |\Z)", output, flags=re.DOTALL | re.MULTILINE))
    assert f"{np.mean(last_evaluations):.0f} +/- " in sections["all_plots"]
    assert f"{np.mean(last_evaluations):.0f} +/- " in sections["plot_from_file"]
    assert sections["plot_train"].split() == [
        "lines",
        *(str(length - 1) for length in lengths),
    ]  # means of two episodes
    assert output.count("Mean reward: ") == 3
    assert output.count("Loading running average") == 5
    assert "uploaded user/" in sections["push_to_hub"]
    assert "vec_normalize.pkl" in sections["push_to_hub"]
    assert [path.suffix for path in (tmp_path / "logs" / algorithm / "CartPole-v1_2" / "videos").iterdir()] == [".mp4"]


# ---------------------------------------------------------------- RL Zoo's command lines


KNOWN = {
    "-P",
    "--hyperparams",
    "--progress",
    "--env-kwargs",
    "--tensorboard-log",
    "--gym-packages",
    "--wandb-tags",
    "-n",
}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("-params gamma:0.9 n_steps:8 -P", "--hyperparams gamma:0.9 --hyperparams n_steps:8 --progress"),
        ("-P gamma:0.9 n_steps:8", "-P gamma:0.9 -P n_steps:8"),
        ("-P --seed 3", "--progress --seed 3"),
        ("-P gamma", "-P gamma"),
        ("-tb logs -P", "--tensorboard-log logs --progress"),
        ("--gym-packages a b.c --seed 1", "--gym-packages a --gym-packages b.c --seed 1"),
        ("-tags a b-1", "--wandb-tags a --wandb-tags b-1"),
        ("-n -1 --env-kwargs a:-1 b:x:y", "--env-kwargs a:-1 --env-kwargs b:x:y"),
        ("-n 600", "-n 600"),
        ("--hyperparams=gamma:0.9", "--hyperparams=gamma:0.9"),
    ],
)
def test_spellings(typed: str, expected: str) -> None:
    assert translated(typed.split(), KNOWN) == expected.split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-optimize --n-trials 3", "-optimize searches hyperparameters, which `pgzoo tune` does"),
        ("--sampler tpe", "--sampler searches hyperparameters, which `pgzoo tune` does"),
        ("--trial-id 3", "--trial-id and --study-name are written --trial STUDY:NUMBER"),
        ("--truncate-last-trajectory True", "--truncate-last-trajectory is about the replay buffer of off-policy"),
        ("-P gamma", "-P takes name:value, such as gamma:0.98, not 'gamma'"),
        ("--log-interval 0", "log_interval must lie in [1, ∞), not 0"),
        ("--eval-env-kwargs x", "--eval-env-kwargs takes name:value"),
        ("-conf nothing.yml", "cannot read nothing.yml"),
    ],
)
def test_refusals_name_the_right_flag(arguments: str, message: str, tmp_path: Path) -> None:
    """Finds a refusal that leaves a folder behind."""
    assert message in command("train", *arguments.split(), cwd=tmp_path, status=2).stderr
    assert not list(tmp_path.iterdir())


COMMAND_LINE = """
train --algo ppo --env CartPole-v1 -params gamma:0.9 policy_kwargs:dict(net_arch=[8]) batch_size:8 -tb tb
--env-kwargs sutton_barto_reward:False --eval-env-kwargs sutton_barto_reward:True -uuid --eval-freq 48
--eval-episodes 2 --log-interval 3 --num-threads -1 -n -1 -conf conf.yml --seed 4 -P --device cpu
"""


def test_a_command_line_of_rl_zoo(tmp_path: Path) -> None:
    (tmp_path / "conf.yml").write_text("default: {policy: MlpPolicy, n_timesteps: 96, n_steps: 16}\n")
    result = command(*COMMAND_LINE.split(), cwd=tmp_path)
    assert "Saved in logs/ppo/CartPole-v1_1" in result.stdout
    folder = tmp_path / "logs" / "ppo" / "CartPole-v1_1"
    model = PolicyGradient.load(folder / "CartPole-v1.zip", device="cpu")
    assert (model.gamma, model.batch_size, model.num_timesteps) == (0.9, 8, 96)
    assert model.policy_kwargs == {"net_arch": [8]}
    assert np.load(folder / "evaluations.npz")["results"].tolist() == [[-1.0, -1.0]] * 2  # -1 for a fall, otherwise 0
    assert list((tmp_path / "tb").rglob("events.out.tfevents*"))
    logged = (folder / "progress.csv").read_text().splitlines()
    steps = logged[0].split(",").index("time/iterations")
    assert [line.split(",")[steps] for line in logged[1:] if line.split(",")[steps]] == ["3", "6"]


def test_no_log(tmp_path: Path) -> None:
    small = ["-n", "64", "--n-envs", "1", "--eval-freq", "-1", "--eval-episodes", "1", "-P", "n_steps:32"]
    command("train", *small, "--log-interval", "-2", "--device", "cpu", "--seed", "0", cwd=tmp_path)
    assert (tmp_path / "logs/ppo/CartPole-v1_1/progress.csv").read_text() == ""


# ---------------------------------------------------------------- runs of RL Zoo


@pytest.fixture
def run_of_rl_zoo(tmp_path: Path) -> Path:
    return write_run(tmp_path / "logs")


def test_a_run_of_rl_zoo_is_played_as_sb3_plays_it(run_of_rl_zoo: Path, tmp_path: Path) -> None:
    """Finds other weights, statistics, seeds or arguments of the environment."""
    env: Any = VecNormalize.load(
        str(run_of_rl_zoo / "CartPole-v1" / "vecnormalize.pkl"), make_vec_env("CartPole-v1", 1)
    )
    env.training = env.norm_reward = False
    model = PPO.load(run_of_rl_zoo / "CartPole-v1.zip", device="cpu")
    env.seed(5)
    observations, lengths, steps = env.reset(), [], 0
    for _ in range(100):
        observations, _, dones, _ = env.step(model.predict(observations, deterministic=True)[0])
        steps += 1
        if dones[0]:
            lengths.append(steps)
            steps = 0
    play = ("--no-render", "--seed", "5", "--device", "cpu", "--trust", str(run_of_rl_zoo))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as one of the size of minibatches
        lines = command("enjoy", "-n", "100", *play).stdout.splitlines()
    assert lines == [f"episode {i}: return -1, {length} steps" for i, length in enumerate(lengths, 1)]
    evaluated = command("eval", "-n", "2", "--json", "--trust", str(run_of_rl_zoo)).stdout
    assert '"mean_return": -1.0' in evaluated


@pytest.mark.parametrize("name", ["enjoy", "eval"])
def test_a_run_of_rl_zoo_needs_trust(name: str, run_of_rl_zoo: Path, tmp_path: Path) -> None:
    """A file of SB3 is a pickle. Without --trust, none is opened: this one would create a file."""
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "bomb").encode() + b"'\ntR."
    (run_of_rl_zoo / "CartPole-v1" / "vecnormalize.pkl").write_bytes(bomb)
    assert "if you trust them, add --trust" in command(name, str(run_of_rl_zoo), status=2).stderr
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize(
    "text",
    [
        ARGUMENTS.replace("- - - algo\n    - ppo", "- - - algo"),
        ARGUMENTS.replace("collections.OrderedDict", "os.system"),
        "!!python/object/apply:collections.OrderedDict [[[a, !!python/name:os.system x]]]",
        "!!python/object/apply:collections.OrderedDict 3",
    ],
)
def test_other_python_objects_in_yaml_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "args.yml").write_text(text)
    with pytest.raises(ConfigError, match=r"args.yml:1: |args.yml:2: |args.yml: it must be a mapping"):
        read_yaml_mapping(tmp_path / "args.yml")


def test_enjoy_plays_steps_and_checkpoints(tmp_path: Path) -> None:
    """Finds `-n` as episodes, and a checkpoint that is not the one that was asked for."""
    pgzoo.train("ppo", "CartPole-v1", n_timesteps=96, seed=1, hyperparams={"n_steps": 16, "n_envs": 1}, eval_freq=-1,
                eval_episodes=1, save_freq=32, log_folder=tmp_path / "logs", device="cpu")  # fmt: skip

    def enjoy(*arguments: str, status: int = 0) -> Any:
        return command("enjoy", "--no-render", "--device", "cpu", *arguments, cwd=tmp_path, status=status)

    steps = [int(line.split()[-2]) for line in enjoy("-n", "200").stdout.splitlines()]
    assert 100 < sum(steps) <= 200
    folder = "logs/ppo/CartPole-v1_1/"
    assert enjoy("--load-checkpoint", "32").stdout == enjoy(f"{folder}rl_model_32_steps.zip").stdout
    assert enjoy("--load-last-checkpoint").stdout == enjoy(f"{folder}rl_model_96_steps.zip").stdout
    assert "has no checkpoint after 7 steps, but" in enjoy("--load-checkpoint", "7", status=2).stderr
    output = enjoy("--n-envs", "2", "--n-episodes", "3", "--reward-log", "rewards", "--env-kwargs",
                   "sutton_barto_reward:True", "--deterministic", "--folder", "logs").stdout  # fmt: skip
    assert [line.split(": return ")[1].split(",")[0] for line in output.splitlines()] == ["-1"] * 3
    assert len(list((tmp_path / "rewards").glob("*.monitor.csv"))) == 2


def damage(model: Path, value: str, pickled: bytes) -> None:
    """Replace a pickled value of SB3's data, as one that another version of Python wrote."""
    content = members(model)
    data = json.loads(content["data"])
    data[value][":serialized:"] = base64.b64encode(pickled).decode()
    write(model, {**content, "data": json.dumps(data).encode()})


def test_custom_objects_of_a_run_of_rl_zoo(tmp_path: Path) -> None:
    """Its schedules are not unpickled. SB3 needs custom_objects for that, which RL Zoo passes."""
    folder = write_run(tmp_path / "logs", learning_rate=lambda progress: 1e-3 * progress)
    play = ("enjoy", "-n", "60", "--no-render", "--device", "cpu", str(folder), "--trust")
    before = command(*play).stdout
    for value in ("learning_rate", "lr_schedule", "clip_range"):
        damage(folder / "CartPole-v1.zip", value, b"damaged")
    assert command(*play, "--custom-objects").stdout == before
    assert "if you trust them, add --trust" in command(*play[:-1], "--custom-objects", status=2).stderr


@pytest.mark.parametrize("trust", [(), ("--trust",)])
def test_custom_objects_of_a_run_of_pgzoo(trust: tuple[str, ...], tmp_path: Path) -> None:
    """A function as learning rate is code. With --custom-objects, it is replaced and never unpickled."""
    file = pgzoo.train(
        "ppo", "CartPole-v1", n_timesteps=16, seed=1, hyperparams={"n_steps": 16, "n_envs": 1}, eval_freq=-1,
        eval_episodes=1, log_folder=tmp_path / "logs", device="cpu",
    ).folder.model  # fmt: skip
    play = ("enjoy", "-n", "60", "--no-render", "--device", "cpu", str(file.parent), *trust)
    before = command(*play).stdout
    PolicyGradient.load(file, learning_rate=lambda progress: 1e-3 * progress, device="cpu").save(file)
    damage(file, "learning_rate", b"cos\nsystem\n(S'touch " + str(tmp_path / "bomb").encode() + b"'\ntR.")
    assert command(*play, "--custom-objects").stdout == before
    assert not (tmp_path / "bomb").exists()
    command(*play, status=0 if trust else 2)
    assert (tmp_path / "bomb").exists() == bool(trust)


def test_a_recipe_that_rl_zoo_trained_needs_no_trust(tmp_path: Path) -> None:
    """Its model and statistics are data, although args.yml is RL Zoo's."""
    folder = write_run(tmp_path / "logs")
    model = PolicyGradient("MlpPolicy", VecNormalize(make_vec_env("CartPole-v1", 1)), "ppo", n_steps=32, device="cpu",
                           policy_kwargs={"net_arch": [8]}, verbose=1)  # fmt: skip
    model.save(folder / "CartPole-v1.zip")
    (folder / "CartPole-v1" / "vecnormalize.pkl").write_bytes(b"damaged")
    assert command("enjoy", "--n-episodes", "1", "--no-render", str(folder)).stdout.startswith("episode 1: return")
