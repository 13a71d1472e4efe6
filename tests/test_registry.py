"""The registry finds plugins by entry point and file, and explains those that it refuses."""

from __future__ import annotations

import importlib.metadata
import inspect
from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest

from pgzoo import (
    Baseline,
    ConfigError,
    Estimator,
    Objective,
    PlanContext,
    PluginError,
    PolicyGradient,
    Positive,
    Range,
    Recipe,
    Registry,
    Rollout,
    Scale,
    hookimpl,
)
from pgzoo.interface import hookspecs
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.parts import AdvantagePart
from pgzoo.interface.plans import Seeds
from pgzoo.registry.combination import NAMED_KINDS, resolve
from pgzoo.registry.plugins import PART_TYPES, RESERVED, Source, check_plugin
from pgzoo.registry.settings import SAMPLING_KEYWORDS, UPDATE_FIELDS, AlgorithmConfig
from pgzoo.training.config import RunConfig

GOOD = '''
"""Half of the value."""
from dataclasses import dataclass
from pgzoo import Baseline, Need, hookimpl

@dataclass(frozen=True)
class HalfValue(Baseline):
    """b = V/2."""
    name = "half_value"
    needs = frozenset({Need.VALUES})
    share: float = 0.5
    def __call__(self, rollout, returns, state=None):
        return self.share * rollout.values

@hookimpl
def pgzoo_plugins():
    return [HalfValue]
'''


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


BUILT_IN = {
    "estimator": ["full_return", "lambda_return", "n_step", "q_value", "reward_to_go", "td", "vtrace"],
    "baseline": [
        "batch_mean",
        "expected_q",
        "group",
        "james_stein",
        "leave_one_out",
        "length_weighted",
        "moving_average",
        "none",
        "optimal",
        "optimal_token",
        "step_group",
        "time_mean",
        "value",
    ],
    "objective": ["cispo", "dapo", "dr_grpo", "grpo", "gspo", "policy_gradient", "ppo_clip", "ppo_kl", "surrogate"],
    "scale": ["batch_std", "group_mean", "group_std", "minibatch_std", "none", "rollout_std"],
    "update": ["gradient_descent", "natural_gradient", "trpo"],
    "sampling": ["episodes", "groups", "steps", "vine"],
}
RECIPES = [
    "a2c", "advantage", "cispo", "dapo", "dr_grpo", "gae", "grpo", "gspo", "n_step_value", "npg", "ppo", "ppo_kl",
    "reinforce", "rloo", "rtg", "rtg_batch_mean", "rtg_moving_average", "rtg_optimal", "rtg_ppo", "rtg_value",
    "td_value", "trpo",
    "vine",
    "vtrace",
]  # fmt: skip


def test_the_built_in_plugins_are_found_by_entry_point() -> None:
    registry = Registry.discover()
    assert registry.failures == []
    assert {kind: registry.names(kind) for kind in PART_TYPES} == BUILT_IN
    assert registry.recipes() == RECIPES
    assert registry.source("baseline", "value").distribution == "pgzoo"


HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("pgzoo_"))


@dataclass(frozen=True)
class ZeroEstimator(Estimator):
    """R̂ = 0."""

    name = "new"

    def __call__(self, rollout: Any, state: Any = None) -> Any:
        return 0 * rollout.rewards


@dataclass(frozen=True)
class ZeroBaseline(Baseline):
    """b = 0."""

    name = "new"

    def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class ZeroObjective(Objective):
    """L = 0."""

    name = "new"

    def __call__(self, batch: Any, state: Any = None) -> Any:
        return 0 * batch.log_probs.sum(), {}


def test_the_hook_registers_what_it_returns() -> None:
    items: list[Any] = [ZeroEstimator, ZeroBaseline, ZeroObjective, Recipe("new", "a recipe", "td")]
    registry = Registry()
    registry.register(SimpleNamespace(pgzoo_plugins=hookimpl(lambda: items)), Source("new", "here", "file"))
    assert registry.failures == []
    assert [registry.part(kind, "new") for kind in NAMED_KINDS] == items[:3]
    assert registry.recipes() == ["new"]


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_is_documented(hook: str) -> None:
    guide = Path(__file__).parent.parent / "docs" / "write-a-plugin.md"
    assert getattr(hookspecs, hook).__doc__.startswith("Register ")
    assert f"`{hook}`" in guide.read_text(encoding="utf-8")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_raises_registers_nothing(hook: str) -> None:
    @hookimpl
    def broken() -> Any:
        raise RuntimeError("no network")

    registry = Registry()
    registry.register(SimpleNamespace(**{hook: broken}), Source("new", "here", "file"))
    (failure,) = registry.failures
    assert str(failure) == "plugin 'new' from file here cannot be used: RuntimeError: no network"


def test_every_part_has_a_docstring_and_a_reason_for_its_bias() -> None:
    registry = Registry.discover()
    for kind in PART_TYPES:
        for name in registry.names(kind):
            cls: Any = registry.part(kind, name)
            part = cls()
            assert cls.__doc__, name
            assert all(param.doc for param in declared(cls).values()), name
            if isinstance(part, AdvantagePart) and not part.unbiased:
                assert part.bias not in ("", "not declared unbiased"), name


def test_a_plugin_file_is_loaded(tmp_path: Path) -> None:
    registry = Registry.discover([write(tmp_path / "mine.py", GOOD)])
    assert registry.part("baseline", "half_value")
    assert str(registry.source("baseline", "half_value")) == f"file {tmp_path / 'mine.py'}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_to_be_found", "fails to import: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("x = 1", "registers nothing"),
        (GOOD.replace("def pgzoo_plugins", "def pgzoo_plugin"), "unknown hook 'pgzoo_plugin'"),
        (GOOD.replace("(frozen=True)", ""), "must be decorated with @dataclass\\(frozen=True\\)"),
        (GOOD.replace('    name = "half_value"\n', ""), "has no name"),
        (GOOD.replace("def __call__", "def call"), "HalfValue does not define __call__"),
        (GOOD.replace("share: float = 0.5", "share: float"), "share has no default"),
        (GOOD.replace("share: float", "share: complex"), "cannot have the type <class 'complex'>"),
        (
            GOOD.replace("[HalfValue]", "[3]"),
            "3 is none of Estimator, Baseline, .*, Sampling and Recipe",
        ),
        (GOOD.replace('"half_value"', '"half_value"\n    plugin_api = "1.0"'), "written for plugin API 1.0"),
        (
            GOOD.replace('"half_value"', '"value"'),
            "two plugins register the baseline 'value'.* from pgzoo .* from file ",
        ),
    ],
)
def test_the_error_explains_what_is_wrong_with_a_plugin_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        Registry.discover([write(tmp_path / "mine.py", text)])


def test_a_missing_plugin_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="does not exist"):
        Registry.discover([tmp_path / "nothing.py"])


def test_an_unknown_name_is_refused_with_the_nearest_names() -> None:
    registry = Registry.discover()
    with pytest.raises(PluginError, match="unknown estimator 'lambda_retrun'; did you mean 'lambda_return'"):
        registry.part("estimator", "lambda_retrun")
    with pytest.raises(PluginError, match="unknown recipe 'pppo'; did you mean 'ppo'"):
        registry.recipe("pppo")


class Distribution(importlib.metadata.Distribution):
    """A distribution with entry points that looks installed."""

    def __init__(self, name: str, entry_points: str) -> None:
        self._files = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n",
            "entry_points.txt": f"[pgzoo]\n{entry_points}\n",
        }

    def read_text(self, filename: str) -> str | None:
        return self._files.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(path)


def install(monkeypatch: pytest.MonkeyPatch, *more: Distribution) -> None:
    installed = importlib.metadata.entry_points(group="pgzoo")
    points = [*installed, *(point for distribution in more for point in distribution.entry_points)]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)


def test_the_error_for_a_name_clash_names_both_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Distribution("better-values", "pgzoo = better_values.value"))
    with pytest.raises(PluginError, match="two plugins are called 'pgzoo'") as error:
        Registry.discover()
    assert "pgzoo_plugins from pgzoo " in str(error.value)
    assert "better_values.value from better-values 1.2" in str(error.value)


def test_a_broken_distribution_is_reported_and_the_others_load(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Distribution("broken-thing", "shiny = no_such_package.shiny"))
    registry = Registry.discover()
    assert registry.recipes() == RECIPES
    (failure,) = registry.failures
    assert "plugin 'shiny' from broken-thing 1.2 cannot be used: ModuleNotFoundError" in str(failure)
    with pytest.raises(PluginError, match=r"unknown baseline 'shiny'.*\nplugin 'shiny' from broken-thing"):
        registry.part("baseline", "shiny")


def test_a_field_of_two_parts_must_be_qualified(registry_with: Any) -> None:
    @dataclass(frozen=True)
    class Shared(Baseline):
        name = "shared"
        gae_lambda: Annotated[float, Range(0, 1), "a field that the estimator has, too"] = 0.1

        def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
            return 0.0

    registry = registry_with(Shared)
    with pytest.raises(
        ConfigError, match=r"gae_lambda belongs to estimator and baseline; write estimator.gae_lambda or"
    ):
        resolve(registry, "lambda_return+shared", overrides={"gae_lambda": 0.5})
    combination: Any = resolve(registry, "lambda_return+shared", overrides={"baseline.gae_lambda": 0.5})
    assert (combination.estimator.gae_lambda, combination.baseline.gae_lambda) == (0.95, 0.5)


def test_registries_are_independent() -> None:
    registry = Registry()
    assert registry.recipes() == []

    @hookimpl
    def pgzoo_plugins() -> list[Any]:
        return [Registry.discover().recipe("ppo")]

    registry.register(SimpleNamespace(pgzoo_plugins=pgzoo_plugins), Source("only_ppo", "here", "file"))
    assert registry.recipes() == ["ppo"]
    assert Registry.discover().recipes() == RECIPES


def test_a_part_learns_if_it_overrides_update() -> None:
    registry = Registry.discover()
    learning = {name for kind in PART_TYPES for name in registry.names(kind) if registry.part(kind, name)().learns}
    assert learning == {"q_value", "moving_average", "grpo", "ppo_kl", "gradient_descent"}


def test_a_combination_is_checked_when_it_is_made() -> None:
    combination = resolve(Registry.discover(), "reward_to_go+none")
    update: Any = combination.update
    with pytest.raises(ConfigError, match="correct for one epoch only"):
        replace(combination, update=replace(update, n_epochs=2))


@pytest.mark.parametrize(
    ("sampling", "n_episodes", "n_envs", "expected"),
    [
        ("episodes", None, 3, 9),  # the smallest multiple of 3 that is at least 8
        ("episodes", None, 16, 16),
        ("episodes", 6, 3, 6),
        ("groups", None, 3, 20),  # 4 groups of 5
        ("groups", 10, 3, 10),
    ],
)
def test_the_number_of_episodes_per_update(sampling: str, n_episodes: int | None, n_envs: int, expected: int) -> None:
    sizes = {"group_size": 5} if sampling == "groups" else {}
    combination = resolve(
        Registry.discover(), "rtg", overrides={"sampling": sampling, "n_episodes": n_episodes, **sizes}
    )
    assert len(combination.sampling.plan(PlanContext(n_envs, 1.0, Seeds(0))).queue) == expected


def test_positive_excludes_zero() -> None:
    assert 0 not in Positive
    assert 1e-300 in Positive
    assert str(Positive) == "(0, ∞)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"needs": frozenset({"groups"})}, "needs must be a set of pgzoo.Need"),
        ({"unbiased": "yes"}, "unbiased must be True or False, not 'yes'"),
        ({"per_episode": 1}, "per_episode must be True or False, not 1"),
    ],
)
def test_declarations_have_their_types(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        check_plugin(type("Wrong", (ZeroBaseline,), changes))


def test_names_with_another_meaning_cannot_be_hyperparameters() -> None:
    """Finds a hyperparameter that the constructor, from_zoo or an entry would take for something else."""
    assert {field.name for field in fields(RunConfig)} <= RESERVED
    of_parts = {"gae_lambda", "clip_range", "clip_range_vf", *UPDATE_FIELDS, *SAMPLING_KEYWORDS, *PART_TYPES}
    for function in (PolicyGradient, PolicyGradient.from_zoo):
        arguments = {name for name in inspect.signature(function).parameters if not name.startswith("_")}
        assert arguments - of_parts - set(declared(AlgorithmConfig)) - {"hyperparams"} <= RESERVED
    for name in ("normalize", "seed", "scale"):
        cls = make_dataclass("Wrong", [(name, float, 1.0)], bases=(ZeroBaseline,), frozen=True)
        with pytest.raises(PluginError, match=f"{name} cannot be a hyperparameter"):
            check_plugin(cls)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe("a+b", "a recipe", "td"), "a recipe cannot be called 'a\\+b'"),
        (Recipe("r", "a recipe", "td", ZeroBaseline), "baseline must be a name"),  # type: ignore[arg-type]
    ],
)
def test_recipes_are_checked(recipe: Recipe, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        check_plugin(recipe)


def test_methods_take_the_arguments_with_which_they_are_called() -> None:
    """Finds a method that would fail in the first rollout, or in the first epoch of the first update."""

    @dataclass(frozen=True)
    class NoState(Baseline):
        name = "no_state"

        def __call__(self, rollout: Rollout, returns: Any) -> float:  # type: ignore[override]
            return 0.0

    @dataclass(frozen=True)
    class NoOver(Scale):
        name = "no_over"

        def rescaled(self, advantages: Any) -> Any:  # type: ignore[override]
            return advantages

    @dataclass(frozen=True)
    class Anything(Baseline):
        name = "anything"

        def __call__(self, *arguments: Any) -> float:
            return 0.0

    with pytest.raises(PluginError, match=r"NoState\.__call__ must take \(self, rollout, returns, state\)"):
        check_plugin(NoState)
    with pytest.raises(PluginError, match=r"NoOver\.rescaled must take \(self, advantages, over, state\)"):
        check_plugin(NoOver)
    check_plugin(Anything)
    with pytest.raises(PluginError, match=r"NoState\.__call__ must take"):
        resolve(Registry.discover(), "reward_to_go+none", baseline=NoState())


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            Recipe("r", "", "td", defaults={"sampling": "groups"}),
            r"sampling is not a default; write Recipe\(…, sampling=",
        ),
        (Recipe("r", "", "td", defaults={"normalize_advantage": True}), r"write Recipe\(…, scale=…\)"),
        (Recipe("r", "", "td", "value", "ppo_clip", {"gamma": 0.9}), "scale must be a name, or a mapping of name and"),
    ],
)
def test_recipes_of_1_x_are_refused(recipe: Recipe, message: str) -> None:
    """Finds a recipe that is accepted, and fails when somebody uses it."""
    with pytest.raises(PluginError, match=message):
        check_plugin(recipe)
