"""Search spaces: declared ranges, unused hyperparameters, valid combinations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import optuna
import pytest
from optuna.search_space.group_decomposed import _GroupDecomposedSearchSpace

from pgzoo import Baseline, ConfigError, PgzooError, Range, Registry, Search, hyperparams
from pgzoo.training.config import load_config, resolved_entry
from pgzoo.training.run_folder import plain
from pgzoo.training.yaml_files import read_yaml_mapping
from pgzoo.tuning.space import PLUGIN, Entries, combinations, make_space

REGISTRY = Registry.discover()
ENV = "CartPole-v1"


def drawn(space: Any, n: int) -> list[Any]:
    """Return (trial, combination, overrides) of n random trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(n)]
    return [(trial, *space.suggest(trial)) for trial in trials]


def test_the_space_of_a_recipe() -> None:
    names = set(make_space(REGISTRY, Entries(ENV), ["gae"]).describe())
    assert {"lambda_return.gae_lambda", "learning_rate", "gamma", "n_steps", "vf_coef", "ent_coef"} <= names
    assert names.isdisjoint({"n_epochs", "batch_size", "n_episodes", "group_size"})  # they have no effect in gae
    names = set(make_space(REGISTRY, Entries(ENV), ["reinforce"]).describe())
    assert "n_episodes" in names
    assert names.isdisjoint({"n_steps", "vf_coef", "n_critic_updates", "n_epochs"})
    assert {"n_epochs", "batch_size", "ppo_clip.clip_range"} <= set(
        make_space(REGISTRY, Entries(ENV), ["ppo"]).describe()
    )
    assert {"group_size", "group.scale", "grpo.kl_coef"} <= set(make_space(REGISTRY, Entries(ENV), ["grpo"]).describe())


def test_the_scale_is_searched_under_the_names_that_studies_had() -> None:
    """Finds a study that cannot be resumed, and a drawn value that trains another scale than its name says."""
    space = make_space(REGISTRY, Entries(ENV), ["grpo", "ppo"])
    described = space.describe()
    assert described["normalize_advantage"] == "{False, True}"
    assert described["group.scale"] == "{group, batch, none}"
    defaults = {plugin: space.default(plugin) for plugin in ("grpo", "ppo")}
    assert (defaults["grpo"]["normalize_advantage"], defaults["grpo"]["group.scale"]) == (False, "group")
    assert defaults["ppo"]["normalize_advantage"] is True
    assert "group.scale" not in defaults["ppo"]
    expected = {
        (False, "group"): "group_std",
        (False, "batch"): "batch_std",
        (False, "none"): "none",
        **{(True, scale): "minibatch_std" for scale in ("group", "batch", "none")},
    }
    for (normalize, scale), name in expected.items():
        overrides = {"algorithm.normalize_advantage": normalize, "baseline.scale": scale}
        assert load_config(REGISTRY, "grpo", ENV, overrides=overrides).combination.scale.name == name
    custom = make_space(REGISTRY, Entries(ENV), ["ppo"], fixed={"scale": "rollout_std"})
    assert "normalize_advantage" not in custom.describe()


@pytest.mark.parametrize("env", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1"])
def test_every_trial_is_a_valid_configuration(env: str) -> None:
    recipes = list(REGISTRY.recipes())
    space = make_space(REGISTRY, Entries(env), recipes)
    trials = drawn(space, 150)
    assert {plugin for _, plugin, _ in trials} == set(recipes)
    for trial, plugin, overrides in trials:
        load_config(REGISTRY, plugin, env, overrides=overrides)  # raises if n_episodes is not a multiple of group_size
        assert set(trial.params) == {PLUGIN, *(d.coordinate for d in space.dimensions[plugin])}


def test_a_shared_part_has_one_name_and_different_ranges_have_two() -> None:
    space = make_space(REGISTRY, Entries(ENV), ["gae", "ppo", "rtg_value", "rloo"])
    named = {plugin: {d.name for d in dimensions} for plugin, dimensions in space.dimensions.items()}
    assert "lambda_return.gae_lambda" in named["gae"] & named["ppo"]
    assert "rtg_value.n_episodes" in named["rtg_value"]  # [1, 64]
    assert "rloo.n_episodes" in named["rloo"]  # [8, 256]


def test_ranges_and_fixed_values() -> None:
    space = make_space(
        REGISTRY, Entries(ENV), ["gae"],
        ranges={
            "gamma": Search(0.9, 0.999),
            "vf_coef": Search(0.1, 0.9),
            "target_kl": Search(0.01, 0.1, log=True),
            "n_steps": Search(16, 64, scale="linear"),
            "n_envs": Search(3, 9),
        },
        fixed={"learning_rate": 1e-3, "gae_lambda": 0.9},
    )  # fmt: skip
    described = space.describe()
    assert described["gamma"] == "[0.9, 0.999] log1m"  # without a scale, that of the declaration
    assert described["vf_coef"] == "[0.1, 0.9]"
    assert described["n_steps"] == "[16, 64]"
    assert described["n_envs"] == "[3, 9] pow2"
    assert described["target_kl"] == "[0.01, 0.1] log"  # does not declare a search range
    assert "learning_rate" not in described
    assert "lambda_return.gae_lambda" not in described
    for trial, plugin, overrides in drawn(space, 20):
        config = load_config(REGISTRY, plugin, ENV, overrides={"learning_rate": 1e-3, "gae_lambda": 0.9, **overrides})
        assert config.combination.algorithm.learning_rate == 1e-3
        assert isinstance(trial.params["n_steps"], int)
        sampling: Any = config.combination.sampling
        assert 16 <= sampling.n_steps <= 64
        assert config.run.n_envs in (4, 8)
    estimator: Any = space.bases["gae"].combination.estimator
    assert estimator.gae_lambda == 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranges": {"gama": Search(0.9, 1.0)}}, "did you mean 'gamma'"),
        ({"ranges": {"n_epochs": Search(1, 10)}}, "unknown hyperparameter to search 'n_epochs'"),
        ({"ranges": {"gamma": Search(0.9, 1.5)}}, r"search range of gamma must lie in \[0, 1\], not 1.5"),
        ({"ranges": {"gamma": Search(0.9, 1.0)}, "fixed": {"gamma": 0.99}}, "gamma is both fixed and given a range"),
        ({"ranges": {"gamma": Search(0.9, 1.0)}}, "search range of gamma: a log1m range must end below 1, not at 1"),
        (
            {"ranges": {"ent_coef": Search(0.0, 1.0)}},
            "search range of ent_coef: a log range must start above 0, not at 0",
        ),
        ({"ranges": {"n_steps": Search(5, 7)}}, "there is no power of two between 5 and 7"),
        ({"fixed": {"gama": 0.99}}, "did you mean 'gamma'"),
        ({"fixed": {"gamma": 2}}, "gamma must lie in"),
    ],
)
def test_refusals(options: Any, message: str) -> None:
    with pytest.raises(PgzooError, match=message):
        make_space(REGISTRY, Entries(ENV), ["gae"], **options)


@pytest.mark.parametrize("env", [ENV, "Pendulum-v1"])
def test_the_settings_of_a_trial_as_hyperparameters(env: str) -> None:
    """What a study stores gives the same configuration to `pgzoo.train`: nothing of the entry comes back."""
    for recipe in ("ppo", "grpo", "trpo", "vine", "reward_to_go+batch_mean+ppo_clip+none"):
        space = make_space(REGISTRY, Entries(env), [recipe])
        for _, plugin, overrides in drawn(space, 3):
            config = load_config(REGISTRY, plugin, env, overrides=overrides)
            again = load_config(REGISTRY, plugin, env, overrides=plain(resolved_entry(config)))
            assert again.run == config.run
            assert again.combination == config.combination


ENTRIES = [
    (recipe, env)
    for recipe in REGISTRY.recipes()
    for env in read_yaml_mapping(Path(hyperparams.__path__[0]) / f"{recipe}.yml")
    if env not in ("default", "atari")
]


@pytest.mark.parametrize(("recipe", "env"), ENTRIES)
def test_every_default_is_a_point_of_its_space(recipe: str, env: str) -> None:
    """Finds a default outside of the space, which splits the joint model of TPE into groups that it learns apart."""
    space = make_space(REGISTRY, Entries(env), [recipe])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(space.default(recipe))
    for _ in range(3):
        trial = study.ask()
        space.suggest(trial)
        study.tell(trial, 0.0)
    assert study.trials[0].params == space.default(recipe)
    (group,) = _GroupDecomposedSearchSpace().calculate(study).search_spaces
    assert set(group) == {dimension.coordinate for dimension in space.dimensions[recipe]}


def test_recipes_share_their_common_parameters() -> None:
    space = make_space(REGISTRY, Entries(ENV), ["ppo", "gae"])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for plugin in ("ppo", "gae"):
        study.enqueue_trial(space.default(plugin))
        space.suggest(trial := study.ask())
        study.tell(trial, 0.0)
    groups = [set(group) for group in _GroupDecomposedSearchSpace().calculate(study).search_spaces]
    assert len(groups) == 2  # what both have, and what only ppo has
    assert {PLUGIN, "learning_rate", "lambda_return.one_minus_gae_lambda"} <= max(groups, key=len)


def test_the_nearest_points_of_defaults_outside_of_the_space() -> None:
    """By hand. A schedule counts with its first value, None as the range says, and a wide network as the medium one."""
    point = make_space(REGISTRY, Entries("HalfCheetah-v5"), ["ppo"]).default("ppo")
    assert point["n_steps_pow"] == 9
    assert point["net_arch"] == "medium"
    assert point["activation_fn"] == "relu"
    assert point["normalize"] is True
    assert point["one_minus_gamma"] == pytest.approx(0.02)
    point = make_space(REGISTRY, Entries("LunarLander-v3"), ["ppo"]).default("ppo")
    assert point["learning_rate"] == 6e-4  # a schedule
    point = make_space(REGISTRY, Entries("LunarLander-v3"), ["rtg_value"], fixed={"max_grad_norm": "none"}).default(
        "rtg_value"
    )
    assert "max_grad_norm" not in point
    point = make_space(REGISTRY, Entries(ENV), ["rtg_value"]).default("rtg_value")
    assert point["max_grad_norm"] == 5.0  # none: do not clip
    point = make_space(REGISTRY, Entries(ENV), ["a2c"]).default("a2c")
    assert (point["n_steps_pow"], point["ent_coef"]) == (2, 1e-6)  # 5 and 0
    assert point["lambda_return.one_minus_gae_lambda"] == pytest.approx(1e-4)  # λ = 1
    episodes = make_space(REGISTRY, Entries(ENV), ["reinforce"], fixed={"n_episodes": 3}, ranges={}).default(
        "reinforce"
    )
    assert "n_episodes_pow" not in episodes


def test_no_minibatch_is_larger_than_its_rollout_and_groups_are_complete() -> None:
    """Finds a search that draws the same configuration under many names, or one that no training accepts."""
    sizes = set()
    for _, plugin, overrides in drawn(make_space(REGISTRY, Entries(ENV), ["ppo"]), 200):
        config = load_config(REGISTRY, plugin, ENV, overrides=overrides)
        sampling: Any = config.combination.sampling
        update: Any = config.combination.update
        assert update.batch_size <= sampling.n_steps * config.run.n_envs
        sizes.add(update.batch_size)
    assert (min(sizes), max(sizes)) == (4, 1024)
    for _, _, overrides in drawn(
        make_space(REGISTRY, Entries(ENV), ["ppo"], fixed={"n_timesteps": 4000, "n_envs": 8}), 50
    ):
        assert overrides["sampling.n_steps"] <= 4000 / 8 / 10
    groups = make_space(REGISTRY, Entries(ENV), ["grpo"], ranges={"group_size": Search(choices=(3, 6))})
    for _, plugin, overrides in drawn(groups, 50):
        assert overrides["sampling.n_episodes"] % overrides["sampling.group_size"] == 0
        load_config(REGISTRY, plugin, ENV, overrides=overrides)


def test_discounts_are_drawn_by_their_distance_from_one() -> None:
    """Half of the draws of γ in [0.9, 0.9999] lie above 1 − √(0.1 · 0.0001) ≈ 0.9968."""
    gammas = [
        overrides["algorithm.gamma"] for _, _, overrides in drawn(make_space(REGISTRY, Entries(ENV), ["ppo"]), 400)
    ]
    assert 0.9 <= min(gammas) < max(gammas) <= 0.9999
    assert 0.42 < np.mean(np.array(gammas) > 1 - math.sqrt(0.1 * 0.0001)) < 0.58


def test_the_network_keeps_the_other_arguments_of_the_policy() -> None:
    space = make_space(REGISTRY, Entries("HalfCheetah-v5"), ["ppo"])
    for _, plugin, overrides in drawn(space, 10):
        kwargs = overrides["policy_kwargs"]
        assert (kwargs["log_std_init"], kwargs["ortho_init"]) == (-2, False)
        assert kwargs["net_arch"] in ([64], [64, 64], [256, 256])
        load_config(REGISTRY, plugin, "HalfCheetah-v5", overrides=overrides)
    fixed = make_space(REGISTRY, Entries(ENV), ["ppo"], fixed={"policy_kwargs": {"net_arch": [8]}})
    assert {"net_arch", "activation_fn"}.isdisjoint(fixed.describe())


def test_the_entry_of_a_file_or_of_another_environment(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("Acrobot-v1: {n_envs: 3, gamma: 0.5}\n")
    for entries in (
        Entries("Acrobot-v1", tmp_path / "mine.yml"),
        Entries(ENV, tmp_path / "mine.yml", begin_with="Acrobot-v1"),
    ):
        base = make_space(REGISTRY, entries, ["a2c"]).bases["a2c"]
        assert (base.env, base.run.n_envs, base.combination.algorithm.gamma) == (entries.env, 3, 0.5)
    base = make_space(REGISTRY, Entries("Acrobot-v1", begin_with=ENV), ["ppo"]).bases["ppo"]
    assert (base.env, base.run.n_timesteps) == ("Acrobot-v1", 50_000)
    with pytest.raises(ConfigError, match=r"mine.yml has no entry for 'CartPole-v1' and no 'default'"):
        make_space(REGISTRY, Entries(ENV, tmp_path / "mine.yml"), ["a2c"])


def test_combinations_omit_contradictions() -> None:
    valid = combinations(REGISTRY, Entries(ENV), "gae", ["estimator", "baseline", "objective"])
    assert "lambda_return+value+ppo_clip" in valid
    assert "full_return+group+dapo" in valid
    assert "full_return+group+gspo" in valid
    assert "reward_to_go+group+gspo" not in valid  # gspo needs one advantage per episode
    assert len(valid) == len(set(valid))
    for combination in valid[::20]:
        load_config(REGISTRY, combination, ENV)
    only = combinations(REGISTRY, Entries(ENV), "ppo", ["baseline"])
    assert all(c.startswith("lambda_return+") and c.endswith("+ppo_clip") for c in only)
    with pytest.raises(ConfigError, match="did you mean 'baseline'"):
        combinations(REGISTRY, Entries(ENV), "gae", ["baselin"])
    with pytest.raises(ConfigError, match="does not name a kind of part"):
        combinations(REGISTRY, Entries(ENV), "gae", [])


def test_every_kind_is_searched() -> None:
    """Scales, updates and samplings follow the objective. What the others need decides which are allowed."""
    prefix = "reward_to_go+value+policy_gradient"
    samplings = combinations(REGISTRY, Entries(ENV), "rtg_value", ["sampling"])
    assert samplings == [f"{prefix}+{name}" for name in ("episodes", "groups", "vine")]  # steps cut episodes
    pairs = combinations(REGISTRY, Entries(ENV), "rtg_value", ["update", "scale"])
    assert len(pairs) == len(REGISTRY.names("scale")) * len(REGISTRY.names("update"))
    for name in (f"{prefix}+rollout_std+trpo", f"{prefix}+trpo+rollout_std"):
        parts = load_config(REGISTRY, name, ENV).combination.parts
        assert [parts[kind].name for kind in ("scale", "update")] == ["rollout_std", "trpo"]
    assert f"{prefix}+rollout_std+trpo" in pairs
    grouped = combinations(REGISTRY, Entries(ENV), "grpo", ["scale", "sampling"])
    assert all(name.endswith("+groups") for name in grouped)  # what grpo compares


def test_a_searched_scale_has_no_other_spelling() -> None:
    """Finds a trial whose plugin names one scale while normalize_advantage or group.scale sets another."""
    space = make_space(REGISTRY, Entries(ENV), combinations(REGISTRY, Entries(ENV), "grpo", ["scale"]))
    assert {"normalize_advantage", "group.scale"}.isdisjoint(space.describe())
    for _, plugin, overrides in drawn(space, 20):
        config = load_config(REGISTRY, plugin, ENV, overrides=overrides)
        assert config.combination.scale.name == plugin.split("+")[3]


def test_combinations_share_the_hyperparameters_of_their_parts() -> None:
    """Finds a search of scales and updates in which the sampler learns nothing from one combination about another."""
    names = set(
        make_space(
            REGISTRY, Entries(ENV), combinations(REGISTRY, Entries(ENV), "rtg_value", ["scale", "update"])
        ).describe()
    )
    assert {"trpo.n_critic_updates", "gradient_descent.n_critic_updates", "trpo.cg_damping", "learning_rate"} <= names
    assert not any("+" in name for name in names)


def test_parts_that_are_not_searched_stay_the_recipes() -> None:
    """Finds a search of baselines for TRPO whose trials take steps of gradient descent."""
    for recipe, part in (("trpo", "trpo"), ("vine", "vine")):
        names = combinations(REGISTRY, Entries(ENV), recipe, ["baseline"])
        assert names
        assert all(name.endswith(f"+{part}") for name in names)


@dataclass(frozen=True)
class Shrunk(Baseline):
    """A baseline of another author, with a search range."""

    name = "shrunk"
    shrink: Annotated[float, Range(0, 1), Search(0.25, 0.75), "how far"] = 0.5

    def __call__(self, rollout: Any, returns: Any, state: Any = None) -> float:
        return self.shrink * float(np.mean(returns))


def test_a_third_party_plugin_is_searched_by_its_declaration(registry_with: Any) -> None:
    space = make_space(registry_with(Shrunk), Entries(ENV), ["reward_to_go+shrunk"])
    values = [trial.params["shrunk.shrink"] for trial, _, _ in drawn(space, 30)]
    assert 0.25 <= min(values) < max(values) <= 0.75
