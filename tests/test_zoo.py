"""The zoo from Python does what the commands do: `from_zoo`, `train`, `evaluate` and `tune`; and a whole notebook."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command import pgzoo as command
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize

import pgzoo
from pgzoo import ConfigError, PluginError, PolicyGradient
from pgzoo.registry.combination import DEFAULT_RECIPE, resolve
from pgzoo.registry.plugins import default_registry
from pgzoo.training.config import load_config

SMALL: dict[str, Any] = {
    "n_timesteps": 512,
    "n_envs": 2,
    "seed": 3,
    "device": "cpu",
    "fast": False,
    "eval_freq": -1,
    "eval_episodes": 1,
}
FLAGS = [
    "-n",
    "512",
    "--n-envs",
    "2",
    "--seed",
    "3",
    "--device",
    "cpu",
    "--no-fast",
    "--eval-freq",
    "-1",
    "--eval-episodes",
    "1",
]


def parameters(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.policy.state_dict())


def assert_same(first: Any, second: Any) -> None:
    for name, tensor in parameters(first).items():
        assert torch.equal(tensor, parameters(second)[name]), name


def test_train_and_evaluate_do_what_the_commands_do(tmp_path: Path) -> None:
    """The same parameters and files as `pgzoo train`, and the same returns as `pgzoo eval`."""
    run = pgzoo.train(
        "a2c", "Pendulum-v1", log_folder=tmp_path / "python", hyperparams={"n_steps": 16, "use_sde": False}, **SMALL
    )
    command("train", "--plugin", "a2c", "--env", "Pendulum-v1", "-f", "command", *FLAGS, "-P", "n_steps:16", "-P",
            "use_sde:false", "--no-progress", cwd=tmp_path)  # fmt: skip
    folder = tmp_path / "command" / "a2c" / "Pendulum-v1_1"
    assert_same(run.model, PolicyGradient.load(folder / "Pendulum-v1.zip", device="cpu"))
    files = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert files == {str(path.relative_to(run.folder.path)) for path in run.folder.path.rglob("*")}
    assert (folder / "Pendulum-v1" / "config.yml").read_text() == (run.folder.details / "config.yml").read_text()

    evaluation = pgzoo.evaluate(run.folder, n_episodes=2, device="cpu")
    printed = command("eval", str(folder), "-n", "2", "--device", "cpu", "--json", cwd=tmp_path).stdout
    assert json.loads(printed)["mean_return"] == evaluation.mean
    assert len(evaluation.returns) == 2
    assert run.final is not None
    assert run.n_timesteps == 512
    by_name = pgzoo.evaluate(plugin="a2c", env="Pendulum-v1", log_folder=tmp_path / "python", n_episodes=2)
    assert by_name == evaluation
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.n_timesteps = 0  # type: ignore[misc]


def test_from_zoo_is_the_model_of_train(tmp_path: Path) -> None:
    """With its vector environment and wrappers: Pendulum's entry normalises."""
    changes: dict[str, Any] = {"n_steps": 16, "n_envs": 2, "n_timesteps": 512}
    model = PolicyGradient.from_zoo("a2c", "Pendulum-v1", seed=3, device="cpu", fast=False, **changes)
    assert (model.gamma, model.n_steps, model.n_envs, model.n_timesteps) == (0.9, 16, 2, 512)
    assert isinstance(unwrap_vec_normalize(model.env), VecNormalize)  # type: ignore[arg-type]
    model.learn(model.n_timesteps)  # type: ignore[arg-type]
    run = pgzoo.train("a2c", "Pendulum-v1", log_folder=tmp_path, hyperparams={"n_steps": 16}, **SMALL)
    assert_same(model, run.model)

    class Mine(PolicyGradient):
        pass

    assert type(Mine.from_zoo("rtg_value", n_envs=1, n_episodes=1)) is Mine


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="unknown recipe 'pppo'; did you mean 'ppo'"):
        PolicyGradient.from_zoo("pppo")
    with pytest.raises(ConfigError, match="unknown environment 'CartPole-v7'"):
        pgzoo.train(env="CartPole-v7", log_folder=tmp_path)
    with pytest.raises(ConfigError, match="unknown hyperparameter 'gama'; did you mean 'gamma'"):
        pgzoo.train(hyperparams={"gama": 1}, log_folder=tmp_path)
    with pytest.raises(ConfigError, match="unknown vec_env 'dumy'; did you mean 'dummy'"):
        PolicyGradient.from_zoo(vec_env="dumy")
    with pytest.raises(ConfigError, match="no run of gae on CartPole-v1"):
        pgzoo.evaluate(plugin="gae", log_folder=tmp_path)
    with pytest.raises(ConfigError, match="unknown sampler 'tp'"):
        pgzoo.tune(sampler="tp", log_folder=tmp_path)
    assert not list(tmp_path.iterdir())


CELLS = """
from typing import Annotated
import numpy as np
import pgzoo
from pgzoo import Range, Search

@pgzoo.baseline(bias="the median contains the return itself")
def median(rollout, returns, *, share: Annotated[float, Range(0, 1), Search(0.1, 0.9), "share of the median"] = 0.5):
    return share * float(np.median(returns[rollout.mask]))

run = pgzoo.train("reward_to_go+median", n_timesteps=400, n_envs=2, seed=0, eval_freq=-1, eval_episodes=2)
run.model.save("model")
result = pgzoo.tune(
    "reward_to_go+median", n_timesteps=200, n_trials=2, best=0, n_evaluations=1, eval_episodes=1,
    fix={"n_envs": 2},
)
drawn = result.study.trials[1].params["median.share"]
print(run.model.baseline.share, result.best.plugin, result.best.number in (0, 1), 0.1 <= drawn <= 0.9)
"""

NEW_PROCESS = """
import sys
from pgzoo import PolicyGradient, PluginError
try:
    PolicyGradient.load("model")
except PluginError as error:
    print(str(error).splitlines()[0])
exec(open("definition.py").read())
print(PolicyGradient.load("model").baseline)
"""


def run_python(code: str, folder: Path) -> list[str]:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.slow
def test_a_notebook(tmp_path: Path) -> None:
    """A baseline in three lines: trained by name, saved, tuned in worker processes, and loaded in a new process."""
    assert run_python(CELLS, tmp_path)[-1] == "0.5 reward_to_go+median True True"
    (tmp_path / "definition.py").write_text(CELLS[: CELLS.index("run =")])
    missing, loaded = run_python(NEW_PROCESS, tmp_path)
    assert missing == "this model uses the baseline 'median' of module __main__, which is not installed"
    assert loaded == "median(share=0.5)"
    (tmp_path / "definition.py").rename(tmp_path / "plugin.py")
    pgzoo_eval = ["eval", "logs/reward_to_go+median/CartPole-v1_1", "-n", "1", "--plugin-file", "plugin.py", "--json"]
    assert json.loads(command(*pgzoo_eval, cwd=tmp_path).stdout)["n_episodes"] == 1


@pytest.mark.slow
def test_the_page_on_python_runs(tmp_path: Path) -> None:
    """Its blocks are the cells of one notebook. Only the budgets are smaller here."""
    page = Path(__file__).parents[1] / "docs" / "python.md"
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    for old, new in (("20_000", "300"), ("n_trials=20", "n_trials=1"), ("n_episodes=100", "n_episodes=1")):
        assert old in code
        code = code.replace(old, new)
    code = code.replace("learn(model.n_timesteps)", "learn(300)")
    assert run_python(code + "\nprint(run.model.baseline, winner.plugin)", tmp_path)[-1] == "median() ppo"


INSTANCES = """
from dataclasses import dataclass
import numpy as np
import pgzoo
from pgzoo import Baseline, PolicyGradient

@dataclass(frozen=True)
class Median(Baseline):
    \"\"\"A share of the median.\"\"\"
    name = "median"
    share: float = 0.5
    def __call__(self, rollout, returns, state=None):
        return self.share * float(np.median(returns[rollout.mask]))

small = dict(n_timesteps=200, n_envs=2, seed=0, eval_freq=-1, eval_episodes=1)
for refuse in (pgzoo.train, pgzoo.tune):
    try:
        name = "hyperparams" if refuse is pgzoo.train else "fix"
        refuse("rtg", n_timesteps=200, **{name: {"baseline": Median(0.25)}})
    except pgzoo.PluginError as error:
        print(error)
print(PolicyGradient.from_zoo("rtg", n_envs=1, baseline=Median(0.25)).baseline)
pgzoo.register(Median)
for baseline in (Median(0.25), Median):
    run = pgzoo.train("rtg", hyperparams={"baseline": baseline}, **small)
    pgzoo.evaluate(run.folder, n_episodes=1)
    print(run.model.baseline)
"""


def test_instances_and_classes_of_parts(tmp_path: Path) -> None:
    """They are saved by name, so only a registered class can be found again, by `evaluate` and by another process."""
    *refused, from_zoo, instance, class_ = run_python(INSTANCES, tmp_path)
    sentence = (
        "baseline Median of module __main__ is not registered under its name 'median', so the files of a run could not "
        "name it; call pgzoo.register(Median) first"
    )
    assert refused == [sentence, sentence]
    assert [from_zoo, instance, class_] == ["Median(share=0.25)", "Median(share=0.25)", "Median(share=0.5)"]
    folder = tmp_path / "logs" / "rtg" / "CartPole-v1_1"
    assert "baseline:{'name': 'median', 'share': 0.25}" in (folder / "CartPole-v1" / "args.yml").read_text()
    (tmp_path / "plugin.py").write_text(INSTANCES[: INSTANCES.index("small =")] + "pgzoo.register(Median)\n")
    printed = command("eval", str(folder), "-n", "1", "--plugin-file", "plugin.py", "--json", cwd=tmp_path).stdout
    assert json.loads(printed)["n_episodes"] == 1


def test_one_default_recipe_for_every_door() -> None:
    """On an environment without an entry of its own, the tuned settings are those of the constructor."""
    from pgzoo.cli import eval as eval_command
    from pgzoo.cli import train, tune

    functions: list[Any] = [PolicyGradient, PolicyGradient.from_zoo, pgzoo.train, pgzoo.evaluate, pgzoo.tune]
    defaults = [inspect.signature(function).parameters["plugin"].default for function in functions]
    for its_command in (train.command, tune.command, eval_command.command):
        defaults += [option.default for option in its_command.params if option.name == "plugin"]
    assert defaults == [DEFAULT_RECIPE] * 8
    registry = default_registry()
    assert load_config(registry, DEFAULT_RECIPE, "Unknown-v0").combination == resolve(registry)
