"""Studies of several environments: scores, common dimensions, retrainings, entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from command import pgzoo
from ruamel.yaml import YAML
from tuning import REGISTRY, small

from pgzoo import ConfigError
from pgzoo.training.config import load_config
from pgzoo.training.random_policy import evaluate_random
from pgzoo.tuning.metrics import Point
from pgzoo.tuning.objective import Objective
from pgzoo.tuning.pruners import SEED_VALUES
from pgzoo.tuning.scores import measured_scores, parse_scores
from pgzoo.tuning.storage import open_storage
from pgzoo.tuning.trial_queue import claim

ENVS = ("CartPole-v1", "Acrobot-v1")
SCORES = {"CartPole-v1": (0.0, 500.0), "Acrobot-v1": (-500.0, -100.0)}


def test_the_score_of_random_actions_is_0_and_of_the_threshold_1() -> None:
    """CartPole's random actions earn 22 on average, and its registered threshold is 475."""
    low, high = measured_scores(load_config(REGISTRY, "gae", "CartPole-v1"))
    assert high == 475
    assert low == pytest.approx(22, abs=3)
    study_config = small(envs=ENVS, scores={"CartPole-v1": (low, high), "Acrobot-v1": (-500.0, -100.0)})
    assert study_config.score("CartPole-v1", low) == 0
    assert study_config.score("CartPole-v1", 475) == 1
    assert study_config.score("Acrobot-v1", -200) == 0.75
    assert small().score("CartPole-v1", 321.5) == 321.5


def test_random_actions_earn_what_is_known_of_pendulum() -> None:
    config = load_config(REGISTRY, "gae", "Pendulum-v1")
    found = evaluate_random(config, 40, n_envs=4, seed=5, actions=1)
    assert len(found.returns) == 40
    assert found.mean == pytest.approx(-1230, abs=120)  # θ is uniform at the start, and the torque averages to 0


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("CartPole-v1", "takes ENV:low..high, such as .*, not 'CartPole-v1'"),
        ("CartPole-v1:5,7", "takes ENV:low..high"),
        ("CartPole-v1:9..5", "--score-range CartPole-v1: the range 9..5 is empty or infinite"),
        ("CartPole-v1:a..5", "--score-range CartPole-v1: a range has the form"),
    ],
)
def test_refused_score_ranges(pair: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_scores([pair])


def test_the_environment_of_a_score_range_may_name_a_module() -> None:
    assert parse_scores(["my.envs:Maze-v0:-1..2.5"]) == {"my.envs:Maze-v0": (-1.0, 2.5)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "CartPole-v1,Pendulum-v1"], "Pendulum-v1 has no reward threshold, and random actions earn -1"),
        (["--score-range", "CartPole-v1:0..500"], "this is not one of several environments of --env"),
        (["--env", "CartPole-v1,CartPol-v1"], "did you mean 'CartPole-v1'"),
    ],
)
def test_refusals(arguments: list[str], message: str, tmp_path: Path) -> None:
    assert message in pgzoo("tune", *arguments, cwd=tmp_path, status=2).stderr
    assert not list(tmp_path.iterdir())


def test_several_environments_need_scores() -> None:
    with pytest.raises(ConfigError, match="needs the returns of Acrobot-v1 that score 0 and 1"):
        small(envs=ENVS, scores={"CartPole-v1": (0.0, 1.0)}).check()
    with pytest.raises(ConfigError, match="an environment is named twice: CartPole-v1, CartPole-v1"):
        small(envs=("CartPole-v1", "CartPole-v1")).check()


def test_the_dimensions_are_those_that_all_environments_have(tmp_path: Path) -> None:
    """Finds a network that is searched although one of the environments has images."""
    (tmp_path / "mine.yml").write_text("default: {}\nAcrobot-v1: {policy: CnnPolicy}\n")
    spaces = small(envs=ENVS, scores=SCORES, plugins=("a2c",), conf_file=tmp_path / "mine.yml").spaces(REGISTRY)
    cart_pole, acrobot = spaces.values()
    assert cart_pole.dimensions == acrobot.dimensions
    names = {dimension.name for dimension in cart_pole.dimensions["a2c"]}
    assert "learning_rate" in names
    assert "net_arch" not in names
    alone = small(plugins=("a2c",), conf_file=tmp_path / "mine.yml").spaces(REGISTRY)["CartPole-v1"]
    assert {dimension.name for dimension in alone.dimensions["a2c"]} - names == {"net_arch", "activation_fn"}


def test_the_value_is_the_mean_score_over_environments_and_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seeds on two environments, by hand: scores 0.2 and 0.25, then 0.6 and 0.75; by seed 0.225 and 0.675."""
    returns = {("CartPole-v1", 0): 100, ("Acrobot-v1", 0): -400, ("CartPole-v1", 1): 300, ("Acrobot-v1", 1): -200}
    trained: list[Any] = []
    gammas: set[float] = set()

    def train(self: Any, trial: Any, config: Any, seed: int, on_evaluation: Any) -> list[Point]:
        trained.append((config.env, seed))
        gammas.add(config.combination.algorithm.gamma)
        points = [Point(400, 0.0, float(returns[config.env, seed]))]
        on_evaluation(points, [])
        return points

    monkeypatch.setattr("pgzoo.tuning.objective.as_data", lambda points, _: [point.value for point in points])
    monkeypatch.setattr(Objective, "_train", train)
    study_config = small(envs=ENVS, scores=SCORES, plugins=("a2c",), n_seeds=2, defaults=False, fixed={})
    study = optuna.create_study(direction="maximize", pruner=study_config.make_pruner())
    planned = study_config.planned_trials(1, REGISTRY)
    trial = claim(study, planned, study_config.make_sampler)
    assert trial is not None
    (value,) = Objective(study_config, planned, REGISTRY, tmp_path, "cpu", lambda: None)(trial)
    assert value == pytest.approx((0.2 + 0.25 + 0.6 + 0.75) / 4)
    assert trained == [(env, seed) for seed in (0, 1) for env in ENVS]
    assert len(gammas) == 1  # one draw, on both environments
    assert trial.user_attrs[SEED_VALUES] == pytest.approx([0.225, 0.675])
    steps = study.trials[0].intermediate_values
    assert list(steps) == [4, 8, 12, 16]  # the only evaluation of a training is its last one
    assert list(steps.values()) == pytest.approx([0.2, 0.225, 0.35, 0.45])
    assert trial.user_attrs["evaluations:Acrobot-v1:1"] == [0.75]


@pytest.mark.slow
def test_two_environments_from_the_command_line_to_their_entries(tmp_path: Path) -> None:
    command = [
        "tune", "--plugin", "a2c", "--env", "CartPole-v1,Acrobot-v1", "--score-range", "Acrobot-v1:-500..-100", "-n",
        "2000", "--n-trials", "4", "--n-evaluations", "2", "--eval-episodes", "2", "--best", "1", "--fresh-seeds", "2",
        "--n-startup-trials", "3", "--study-name", "two",
    ]  # fmt: skip
    out = pgzoo(*command, "--report", "out", cwd=tmp_path).stdout
    # (One trial with one default, then the winner and its default) on two seeds of two environments.
    assert "and up to 16 retrainings; at most 24 trainings and 48,000 steps" in out
    assert "Acrobot-v1: a return of -500 scores 0, and -100 scores 1" in out
    study = optuna.load_study(study_name="two", storage=open_storage(f"{tmp_path}/logs/studies.db"))
    complete = [trial for trial in study.trials if trial.values]
    trial = complete[-1]
    assert set(trial.user_attrs["configs"]) == set(ENVS)
    last = {env: trial.user_attrs[f"evaluations:{env}:0"][-1] for env in ENVS}
    assert trial.values == [pytest.approx(sum(point["mean"] for point in last.values()) / 2)]
    raw = sum(last["Acrobot-v1"]["returns"]) / 2
    assert last["Acrobot-v1"]["mean"] == pytest.approx((raw + 500) / 400)
    assert (tmp_path / "out" / "curves.png").exists()
    pgzoo("train", "--trial", f"two:{trial.number}", "--env", "Acrobot-v1", "--no-progress", "--eval-freq", "-1",
          cwd=tmp_path)  # fmt: skip
    (config,) = (tmp_path / "logs").glob("*/Acrobot-v1_1/Acrobot-v1/config.yml")
    assert YAML(typ="safe").load(config.read_text()) == trial.user_attrs["configs"]["Acrobot-v1"]
    error = pgzoo("train", "--trial", f"two:{trial.number}", "--env", "Pendulum-v1", cwd=tmp_path, status=2).stderr
    assert "--trial brings its own --env, CartPole-v1 or Acrobot-v1" in error
    written = pgzoo("tune", "show", "two", "--write", "a2c.yml", "--force", cwd=tmp_path, status=None)
    if written.returncode == 0:
        assert "is now the entry of CartPole-v1 and Acrobot-v1 in a2c.yml" in written.stdout
        assert set(YAML(typ="safe").load((tmp_path / "a2c.yml").read_text())) == set(ENVS)
    else:  # the default was the best
        assert "there is nothing to write" in written.stderr
