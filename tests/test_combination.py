"""From names and values to a combination: what is chosen, and what is refused with which message."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from pgzoo_plugins.gradient_descent import GradientDescent
from pgzoo_plugins.group import Group
from pgzoo_plugins.lambda_return import LambdaReturn
from pgzoo_plugins.policy_gradient import PolicyGradientLoss
from pgzoo_plugins.steps import Steps
from pgzoo_plugins.vtrace import VTrace

from pgzoo import ConfigError, Need, Recipe, Registry
from pgzoo.registry.combination import NAMED_KINDS, Combination, resolve

REGISTRY = Registry.discover()
MINE = Recipe("mine", "", {"name": "lambda_return", "gae_lambda": 0.7}, defaults={"gamma": 0.8})


def names(combination: Combination) -> list[str]:
    return [combination.parts[kind].name for kind in NAMED_KINDS]


def test_limits_that_may_be_infinite() -> None:
    """V-trace without truncation: ρ̄ = c̄ = ∞ (Espeholt et al. 2018, sec. 4.1)."""
    estimator = resolve(REGISTRY, "vtrace", estimator={"rho_bar": "inf", "c_bar": math.inf}).estimator
    assert estimator == VTrace(rho_bar=math.inf, c_bar=math.inf)


def test_names() -> None:
    """Finds parts in the wrong order, and a recipe's defaults that leak into a combination of the same parts."""
    assert names(resolve(REGISTRY)) == ["lambda_return", "value", "ppo_clip"]
    assert names(resolve(REGISTRY, "td+none+ppo_clip")) == ["td", "none", "ppo_clip"]
    ppo = resolve(REGISTRY, "ppo")
    same_parts = resolve(REGISTRY, "lambda_return+value+ppo_clip")
    assert all(same_parts.parts[kind] == ppo.parts[kind] for kind in NAMED_KINDS)
    assert (ppo.update, same_parts.update) == (GradientDescent(batch_size=64, n_epochs=10), GradientDescent())
    assert isinstance(ppo.sampling, Steps)
    assert replace(ppo.sampling, n_steps=128) == same_parts.sampling
    assert resolve(REGISTRY, ppo) is ppo


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("lambda_return", LambdaReturn(0.7)),  # the same part keeps the recipe's fields
        ({"gae_lambda": 0.4}, LambdaReturn(0.4)),
        ({"name": "vtrace", "rho_bar": "2"}, VTrace(rho_bar=2.0)),
        (LambdaReturn(), LambdaReturn(0.95)),  # an instance is taken with all its fields
    ],
)
def test_the_estimator_of_a_recipe_is_replaced(registry_with: Any, estimator: Any, expected: Any) -> None:
    assert resolve(registry_with(MINE), "mine", estimator=estimator).estimator == expected


def test_resolving_changes_neither_the_recipe_nor_the_arguments(registry_with: Any) -> None:
    """Finds a second model that inherits the first one's overrides, and a prefix that is ignored."""
    registry, mapping, instance = registry_with(MINE), {"name": "lambda_return", "gae_lambda": 0.4}, LambdaReturn(0.3)
    overrides = {"estimator.gae_lambda": 0.1, "algorithm.gamma": 0.2, "gamma": 0.2}  # one value under two names
    for estimator in (mapping, instance, None):
        changed: Any = resolve(registry, "mine", estimator=estimator, overrides=overrides)
        assert (changed.estimator.gae_lambda, changed.algorithm.gamma) == (0.1, 0.2)
    assert mapping == {"name": "lambda_return", "gae_lambda": 0.4}
    assert instance.gae_lambda == 0.3
    again: Any = resolve(registry, "mine")
    assert (again.estimator.gae_lambda, again.algorithm.gamma) == (0.7, 0.8)


class Resampling(PolicyGradientLoss):
    """Resamples groups without a need for them."""

    name = "resampling"
    resample_budget = 2.0


@pytest.mark.parametrize(
    ("plugin", "options", "message"),
    [
        (3, {}, "plugin must be a recipe or estimator+baseline[+objective], not 3"),
        ("td+none+ppo_clip+trop", {},
         "plugin 'td+none+ppo_clip+trop': unknown scale, update or sampling 'trop'; did you mean 'trpo'"),
        ("td+none+ppo_clip+none+batch_std", {},
         "plugin 'td+none+ppo_clip+none+batch_std' names two parts of kind scale: 'none', 'batch_std'"),
        (resolve(REGISTRY), {"baseline": "none"}, "a Combination already has its parts and hyperparameters"),
        ("gae", {"estimator": Group()}, "estimator must be a name, a mapping or an instance, not Group("),
        ("gae", {"baseline": {"name": 1}}, "baseline.name must be a name, not 1"),
        ("gae", {"estimator": {"gae_lamda": 1}}, "unknown hyperparameter of the estimator 'gae_lamda'; did you mean"),
        ("gae", {"estimator": LambdaReturn(1.5)}, "estimator.gae_lambda must lie in [0, 1], not 1.5"),
        ("gae", {"overrides": {"baseline.x": 1}}, "unknown hyperparameter of the baseline 'x'; known: none"),
        ("gae", {"overrides": {"objectiv.x": 1}}, "unknown part 'objectiv'; did you mean 'objective'?"),
        ("gae", {"overrides": {"algorithm.gamma": 0.9, "gamma": 0.8}}, "gamma is given twice, as 0.9 and 0.8"),
        pytest.param(
            "gae", {"overrides": {"gamma": float("nan")}}, "gamma must be a number, not nan",
        ),
        ("grpo", {"overrides": {"sampling": "episodes"}},
         "baseline 'group' compares episodes from the same initial state, which sampling='episodes' does not provide"),
        ("rloo", {"overrides": {"sampling": "steps"}}, "estimator 'full_return' needs complete episodes, which"),
        ("gae", {"overrides": {"group_options": {"level": 1}}},
         "group_options has no effect here: 'gae' samples steps, set by n_steps"),
        ("rtg", {"overrides": {"n_steps": 8}}, "n_steps has no effect here: 'rtg' samples episodes, set by n_episodes"),
        ("grpo", {"overrides": {"n_steps": 8}},
         "n_steps has no effect here: 'grpo' samples groups, set by n_episodes and group_size"),
        ("grpo", {"overrides": {"n_episodes": 19}},
         "n_episodes must be a multiple of group_size=8, because every group must be complete; got 19, the nearest is "
         "16"),
        ("gae", {"objective": Resampling()},
         "objective 'resampling' drops and resamples groups, but sampling='steps' has none; use sampling='groups'"),
        ("full_return+group", {"baseline": Group(form="process")},
         "baseline 'group' needs one return per step with these settings, but estimator 'full_return' gives all"),
        ("reward_to_go+group+gspo", {},
         "objective 'gspo' needs one advantage per episode, but estimator 'reward_to_go' gives each step its own"),
        ("full_return+value+gspo", {}, "objective 'gspo' needs one advantage per episode, but baseline 'value' gives"),
    ],
)  # fmt: skip
def test_refusals(plugin: Any, options: dict[str, Any], message: str) -> None:
    """Finds a combination that trains something else than its name says, and a message that blames the wrong part."""
    with pytest.raises(ConfigError) as error:
        resolve(REGISTRY, plugin, **options)
    assert str(error.value).startswith(message)


CRITIC = {"vf_coef", "n_critic_updates", "critic_learning_rate"}


@pytest.mark.parametrize(
    ("plugin", "sampling", "unused"),
    [
        ("gae", "steps", {"n_epochs"}),
        ("ppo", "steps", set()),
        ("vtrace", "steps", set()),  # R̂ is recomputed before each epoch
        ("rtg", "episodes", {"n_epochs", *CRITIC}),
        ("grpo", "groups", CRITIC),
        ("vine", "vine", {"n_epochs", *CRITIC}),
    ],
)
def test_sampling_and_the_settings_without_effect(plugin: str, sampling: str, unused: set[str]) -> None:
    """The tuner does not search them. Finds one that matters and is left out, or the reverse."""
    combination = resolve(REGISTRY, plugin)
    assert combination.sampling.name == sampling
    assert set(combination.unused) == unused


def test_needs() -> None:
    """V-trace evaluates the current V of successors, which its class does not declare."""
    assert resolve(REGISTRY, "vtrace").needs == {Need.VALUES, Need.RATIOS, Need.NEXT_OBSERVATIONS}
    combination = resolve(REGISTRY, "full_return+value")
    assert combination.part_that_needs(Need.VALUES) is combination.baseline
    assert combination.part_that_needs(Need.SCORES) is None


@pytest.mark.parametrize("key", [".gamma", "gamma.", "..", "."])
def test_half_a_name_is_not_a_name(key: str) -> None:
    """Finds `.gamma` that is taken for `gamma`, from `-P .gamma:0.9`."""
    with pytest.raises(ConfigError, match=r"^a hyperparameter is written name or owner\.name, such as gamma or"):
        resolve(REGISTRY, "gae", overrides={key: 0.9})


def test_arguments_of_other_types_are_refused() -> None:
    """Finds AttributeError and TypeError of a caller in Python."""
    wrong: Any = 3
    with pytest.raises(ConfigError, match=r"^registry must be a Registry, such as Registry.discover\(\), not 3$"):
        resolve(wrong)
    with pytest.raises(ConfigError, match=r"^hyperparameters must be a mapping from names to values, not \[3\]$"):
        resolve(REGISTRY, overrides=[wrong])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^plugin must be a recipe or estimator\+baseline\[\+objective\], not 3$"):
        resolve(REGISTRY, wrong)
