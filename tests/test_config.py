"""Values, YAML entries and name:value pairs: how they are read, and where errors are located."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from pgzoo_plugins.groups import Groups
from pgzoo_plugins.lambda_return import LambdaReturn
from pgzoo_plugins.steps import Steps

from pgzoo import Baseline, ConfigError, Estimator, Range, Registry
from pgzoo.interface.hyperparameters import declared
from pgzoo.registry.settings import AlgorithmConfig
from pgzoo.training.config import config_from_entry, load_config, parse_pairs, resolved_entry


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n_steps", "1e3", 1000),
        ("n_steps", 64.0, 64),
        ("learning_rate", "3e-4", 3e-4),
        ("learning_rate", 1, 1.0),
        ("learning_rate", "lin_3e-4", {"schedule": "linear", "initial": 3e-4}),
        ("group_options", "none", None),
        ("use_rms_prop", "False", False),
    ],
)
def test_values_are_read_as_people_write_them(name: str, value: Any, expected: Any) -> None:
    result = {**declared(Steps), **declared(Groups), **declared(AlgorithmConfig)}[name].validate(value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_steps", 0, r"n_steps must lie in \[1, ∞\), not 0"),
        ("n_steps", 2.5, "n_steps must be int, not 2.5"),
        ("n_steps", True, "must be int, not True"),
        ("n_steps", None, "must be int, not None"),
        ("gamma", float("nan"), "not nan"),
        ("gamma", 1.01, r"gamma must lie in \[0, 1\], not 1.01"),
        ("use_rms_prop", 1, "use_rms_prop must be bool, not 1"),
        ("learning_rate", {"schedule": "linear"}, "a schedule is written"),
        ("learning_rate", {"schedule": "linear", "initial": 1, "finl": 0}, "did you mean 'final'"),
        ("learning_rate", {"schedule": "linear", "initial": "x"}, "learning_rate.initial must be a number"),
        ("learning_rate", "lin_-1", r"must lie in \[0"),
        ("learning_rate", {"schedule": "linear", "initial": 1, "final": -1}, r"final must lie in \[0"),
        (
            "learning_rate",
            {"schedule": "linear", "initial": 1, "end_fraction": 0},
            r"end_fraction must lie in \(0, 1\]",
        ),
    ],
)
def test_wrong_values(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        {**declared(Steps), **declared(AlgorithmConfig)}[name].validate(value)


YAML = """\
default: &defaults
  n_timesteps: 1e5
  n_envs: 4
  learning_rate: {schedule: linear, initial: 3e-4}
CartPole-v1:
  <<: *defaults
  gae_lambda: 0.9
  policy_kwargs: {net_arch: [32, 32]}
atari:
  n_envs: 16
"""


def gae_lambda(estimator: Estimator) -> float:
    assert isinstance(estimator, LambdaReturn)
    return estimator.gae_lambda


def test_entries(tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / "gae.yml"
    file.write_text(YAML)
    cartpole = load_config(registry, "gae", "CartPole-v1", file=file)
    assert (cartpole.run.n_timesteps, cartpole.run.n_envs) == (100_000, 4)
    assert cartpole.run.policy_kwargs == {"net_arch": [32, 32]}
    assert gae_lambda(cartpole.combination.estimator) == 0.9
    acrobot = load_config(registry, "gae", "Acrobot-v1", file=file)
    assert gae_lambda(acrobot.combination.estimator) == 0.95
    assert load_config(registry, "gae", "ALE/Pong-v5", file=file).run.n_envs == 16
    changed = load_config(registry, "gae", "CartPole-v1", file=file, overrides={"gae_lambda": 0.5, "n_envs": 2})
    assert (gae_lambda(changed.combination.estimator), changed.run.n_envs) == (0.5, 2)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"estimator.gae_lambda": 0.5}, ("lambda_return", 0.5)),
        ({"gae_lambda": 0.5}, ("lambda_return", 0.5)),
        ({"estimator": "n_step"}, ("n_step", None)),
        ({"estimator": {"name": "lambda_return"}, "gae_lambda": 0.7}, ("lambda_return", 0.7)),
    ],
)
def test_the_command_line_beats_the_file(
    tmp_path: Path, registry: Registry, overrides: dict[str, Any], expected: Any
) -> None:
    file = tmp_path / "gae.yml"
    file.write_text(YAML)
    estimator = load_config(registry, "gae", "CartPole-v1", file=file, overrides=overrides).combination.estimator
    assert (estimator.name, getattr(estimator, "gae_lambda", None)) == expected


@dataclass(frozen=True)
class Discounts(Baseline):
    """A baseline with a γ of its own."""

    name = "discounts"
    gamma: Annotated[float, Range(0, 1), "a discount factor"] = 0.5

    def __call__(self, rollout: Any, returns: Any, state: Any = None) -> float:
        return self.gamma


def test_a_field_of_a_part_leaves_the_algorithms_of_that_name(tmp_path: Path, registry_with: Any) -> None:
    """Finds a file's γ that is lost because another γ, a baseline's, is replaced."""
    file = tmp_path / "mine.yml"
    file.write_text("default:\n  algorithm.gamma: 0.9\n  baseline.gamma: 0.1\n")

    def gammas(**overrides: Any) -> list[Any]:
        keys = {name.replace("_", "."): value for name, value in overrides.items()}
        combination = load_config(
            registry_with(Discounts), "td+discounts", "CartPole-v1", file=file, overrides=keys
        ).combination
        return [combination.algorithm.gamma, getattr(combination.baseline, "gamma", None)]

    assert gammas() == [0.9, 0.1]
    assert gammas(baseline_gamma=0.2) == [0.9, 0.2]
    assert gammas(algorithm_gamma=0.8) == [0.8, 0.1]
    assert gammas(baseline={"gamma": 0.3}) == [0.9, 0.3]
    assert gammas(baseline="none") == [0.9, None]
    registry = registry_with(Discounts)
    config = load_config(registry, "td+discounts", "CartPole-v1", overrides={"algorithm.gamma": 0.9})
    saved = config_from_entry(registry, "td+discounts", "CartPole-v1", resolved_entry(config))
    assert saved.combination == config.combination
    with pytest.raises(ConfigError, match=r"gamma belongs to algorithm and baseline; write algorithm.gamma or"):
        gammas(gamma=0.7)


def test_a_combination_is_resolved_once(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with a YAML entry and overrides, from the configuration to the model."""
    from stable_baselines3.common.env_util import make_vec_env

    from pgzoo.registry import combination
    from pgzoo.training.experiment import TrainConfig, make_model

    file = tmp_path / "gae.yml"
    file.write_text(YAML)
    checked: list[str] = []
    check = combination._check_update

    def watched(checking: Any) -> None:
        checked.append(checking.plugin)
        check(checking)

    monkeypatch.setattr(combination, "_check_update", watched)
    config = load_config(registry, "gae", "CartPole-v1", file=file, overrides={"gae_lambda": 0.5})
    env = make_vec_env("CartPole-v1", config.run.n_envs)
    model = make_model(config, registry, env, TrainConfig(seed=0, device="cpu"))
    assert checked == ["gae"]
    assert model.combination is config.combination
    assert gae_lambda(model.estimator) == 0.5


def test_an_error_in_the_file_is_located_although_a_value_is_overridden(tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / "gae.yml"
    file.write_text("default:\n  n_envs: 4\n  gae_lambda: 1.9\n")
    with pytest.raises(ConfigError, match=r"gae.yml:3: estimator.gae_lambda must lie in"):
        load_config(registry, "gae", "CartPole-v1", file=file, overrides={"n_envs": 2})
    assert load_config(registry, "gae", "CartPole-v1", file=file, overrides={"gae_lambda": 0.9}).run.n_envs == 4
    file.write_text("default:\n  n_envs: 4\n")
    with pytest.raises(ConfigError, match=r"^estimator.gae_lambda must lie in"):
        load_config(registry, "gae", "CartPole-v1", file=file, overrides={"gae_lambda": 1.9})


def test_a_resolved_entry_reads_back_as_the_same_run(tmp_path: Path, registry: Registry) -> None:
    from pgzoo.training.run_folder import write_yaml
    from pgzoo.training.yaml_files import read_yaml_mapping

    config = load_config(registry, "ppo", "LunarLander-v3", overrides={"clip_range": "lin_0.2"})
    write_yaml(tmp_path / "config.yml", resolved_entry(config))
    again = config_from_entry(registry, "ppo", "LunarLander-v3", read_yaml_mapping(tmp_path / "config.yml"))
    assert (again.combination, again.run) == (config.combination, config.run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            YAML.replace("gae_lambda: 0.9", "gae_lamda: 0.9"),
            "gae.yml:7: unknown hyperparameter 'gae_lamda'; did you mean",
        ),
        (YAML.replace("gae_lambda: 0.9", "gae_lambda: 1.9"), r"gae.yml:7: estimator.gae_lambda must lie in \[0, 1\]"),
        (YAML.replace("n_envs: 4", "n_envs: four"), r"gae.yml:\d: n_envs must be int, not 'four'"),
        (
            YAML.replace("gae_lambda: 0.9", "n_epochs: 4"),
            "gae.yml:7: objective 'policy_gradient' is correct for one epoch",
        ),
        (YAML.replace("gae_lambda: 0.9", "baseline: valu"), "unknown baseline 'valu'; did you mean 'value'"),
        (
            YAML.replace("{net_arch: [32, 32]}", "dict(net_arch=open(1))"),
            "gae.yml:8: policy_kwargs.net_arch: .open. is not",
        ),
        (YAML.replace("[32, 32]}", "[32, 32}"), r"gae.yml:8: "),
        ("CartPole-v1: 3", "gae.yml:1: the entry 'CartPole-v1' must be a mapping, not 3"),
        ("- 1\n- 2", "must be a mapping, for example from environments to hyperparameters"),
        ("Acrobot-v1: {n_envs: 2}", "no entry for 'CartPole-v1' and no 'default'; its entries: Acrobot-v1"),
    ],
)
def test_wrong_yaml_is_located(tmp_path: Path, registry: Registry, text: str, message: str) -> None:
    file = tmp_path / "gae.yml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(registry, "gae", "CartPole-v1", file=file)


def test_pairs() -> None:
    pairs = ("gamma:0.98", "policy_kwargs:{net_arch: [64, 64]}", "n_steps:1e3", "normalize:true", "path:a:b")
    assert parse_pairs(pairs, "-P") == {
        "gamma": 0.98, "policy_kwargs": {"net_arch": [64, 64]}, "n_steps": 1000.0, "normalize": True, "path": "a:b",
    }  # fmt: skip
    for wrong in ("gamma", "gamma:", ":3"):
        with pytest.raises(ConfigError, match="takes name:value"):
            parse_pairs((wrong,), "-P")
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_pairs(("a:[1",), "-P")


def test_every_shipped_file_is_valid_for_every_entry(registry: Registry) -> None:
    """Each recipe has a file with a default entry, and each entry of the file is valid."""
    from importlib.resources import files

    from ruamel.yaml import YAML as Reader

    for recipe in registry.recipes():
        entries = Reader(typ="safe").load((files("pgzoo.hyperparams") / f"{recipe}.yml").read_text())
        assert "default" in entries, recipe
        for env in entries:
            load_config(registry, recipe, env)


@pytest.mark.parametrize(
    ("entry", "overrides", "expected"),
    [
        ("normalize_advantage: true", {"scale": "none"}, "none"),
        ("normalize_advantage: true", {"normalize_advantage": False}, "none"),
        ("normalize_advantage: true", {"scale": "rollout_std"}, "rollout_std"),
        ("scale: rollout_std", {"normalize_advantage": True}, "minibatch_std"),
        ("scale: rollout_std", {"algorithm.normalize_advantage": False}, "none"),
        ("scale: batch_std", {"normalize_advantage": False}, "batch_std"),
        ("baseline.scale: batch", {"scale": "none"}, "none"),
        ("scale: batch_std", {"baseline.scale": "none"}, "none"),
    ],
)
def test_an_override_of_the_scale_replaces_its_other_spellings(
    registry: Registry, entry: str, overrides: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    """Finds `-P scale:none` that is refused because the file says the same in another way."""
    (tmp_path / "mine.yml").write_text(f"default:\n  {entry}\n")
    config = load_config(registry, "dr_grpo", "CartPole-v1", file=tmp_path / "mine.yml", overrides=overrides)
    assert config.combination.scale.name == expected


def test_fields_of_a_part_leave_the_others_of_the_entry() -> None:
    """The tuned entry of ppo on CartPole-v1 has n_critic_updates and vf_coef. Finds a mapping that drops them."""
    registry = Registry.discover()
    tuned = load_config(registry, "ppo", "CartPole-v1").combination.update
    for update in ({"n_epochs": 3}, {"name": "gradient_descent", "n_epochs": 3}):
        changed = load_config(
            Registry.discover(), "ppo", "CartPole-v1", overrides={"update": update}
        ).combination.update
        assert changed == replace(tuned, n_epochs=3)  # type: ignore[type-var]
