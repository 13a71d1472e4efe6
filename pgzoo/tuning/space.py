"""The search space: the hyperparameters of the algorithm and the plugins, without those that have no effect."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pgzoo.errors import ConfigError, PgzooError, unknown
from pgzoo.interface.hyperparameters import Param, Search, declared
from pgzoo.interface.parts import Recipe
from pgzoo.registry.combination import (
    ALGORITHM,
    AUTO,
    AUTO_SAMPLINGS,
    NAMED_KINDS,
    Combination,
    named_parts,
)
from pgzoo.registry.plugins import PART_TYPES, Registry
from pgzoo.registry.settings import AlgorithmConfig, search_of, short_name
from pgzoo.registry.spellings import SPELLINGS, spellings_for
from pgzoo.training.config import ExperimentConfig, load_config

if TYPE_CHECKING:
    import optuna

PLUGIN = "plugin"
"""The dimension that chooses the combination, if there are several."""


MAX_INT = 2**53
"""Optuna stores integers as floats, which are exact up to here."""


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter that is searched.

    Attributes:
        name: its name in the study: `learning_rate`, or with the name of its part, `lambda_return.gae_lambda`.
            Recipes that share a part share the dimension, so the sampler learns about it from all of them.
        key: the hyperparameter that it overrides, `algorithm.learning_rate` or `estimator.gae_lambda`.
        param: the declaration of the hyperparameter.
        search: the search range.
    """

    name: str
    key: str
    param: Param
    search: Search

    def holds(self, value: Any) -> bool:
        """Return whether a value, such as a default, lies in the range. A schedule or None never does."""
        if self.search.choices:
            return any(value == choice and type(value) is type(choice) for choice in self.search.choices)
        assert self.search.low is not None
        assert self.search.high is not None
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.search.low <= value <= self.search.high

    def suggest(self, trial: optuna.trial.BaseTrial) -> Any:
        """Return the value that the trial draws."""
        search = self.search
        if search.choices:
            return trial.suggest_categorical(self.name, list(search.choices))
        assert search.low is not None
        assert search.high is not None
        if float not in self.param.types:
            return trial.suggest_int(self.name, int(search.low), int(search.high), log=search.log)
        return trial.suggest_float(self.name, search.low, search.high, log=search.log)


@dataclass(frozen=True)
class Space:
    """The search space of a study: its combinations, and the dimensions of each.

    Attributes:
        bases: by combination, the configuration that the drawn values override.
        dimensions: by combination, the dimensions.
    """

    bases: Mapping[str, ExperimentConfig]
    dimensions: Mapping[str, tuple[Dimension, ...]]

    def suggest(self, trial: optuna.trial.BaseTrial) -> tuple[str, dict[str, Any]]:
        """Return the combination that the trial draws, and the values that override its configuration."""
        plugins = list(self.bases)
        plugin = trial.suggest_categorical(PLUGIN, plugins) if len(plugins) > 1 else plugins[0]
        return plugin, {dimension.key: dimension.suggest(trial) for dimension in self.dimensions[plugin]}

    def default(self, plugin: str) -> dict[str, Any]:
        """Return the parameters of a combination's default, without those that lie outside of the space."""
        combination = self.bases[plugin].combination
        owners: dict[str, Any] = {ALGORITHM: combination.algorithm, **dict(combination.parts.items())}
        params: dict[str, Any] = {PLUGIN: plugin} if len(self.bases) > 1 else {}
        for dimension in self.dimensions[plugin]:
            kind, _, name = dimension.key.partition(".")
            spelling = SPELLINGS.get(dimension.key)
            value = spelling.value(combination.scale) if spelling else getattr(owners[kind], name)
            if dimension.holds(value):
                params[dimension.name] = value
        return params

    def record_default(self, trial: optuna.trial.BaseTrial, plugin: str) -> None:
        """Record the parameters of a trial that trains a default. They were fixed when the trial was queued."""
        names = self.default(plugin)
        if PLUGIN in names:
            trial.suggest_categorical(PLUGIN, list(self.bases))
        for dimension in self.dimensions[plugin]:
            if dimension.name in names:
                dimension.suggest(trial)

    def describe(self) -> dict[str, Any]:
        """Return the space as plain data, which a study stores to compare it with another."""
        described: dict[str, Any] = {PLUGIN: list(self.bases)}
        for dimension in itertools.chain.from_iterable(self.dimensions.values()):
            described[dimension.name] = str(dimension.search)
        return described


def make_space(
    registry: Registry,
    env: str,
    plugins: Sequence[str],
    *,
    ranges: Mapping[str, Search] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Space:
    """Return the search space over the combinations, each based on its entry in `hyperparams/`.

    Args:
        registry: the plugins.
        env: the environment's name.
        plugins: recipes or `estimator+baseline+objective`.
        ranges: search ranges by name. They replace declared ones, or search what does not declare one.
        fixed: values by name, which are not searched.

    Raises:
        PgzooError: a name is unknown, a range exceeds the allowed values, or a hyperparameter is fixed and searched.
    """
    ranges, fixed = dict(ranges or {}), dict(fixed or {})
    if contradictions := sorted(set(ranges) & set(fixed)):
        raise ConfigError(f"{contradictions[0]} is both fixed and given a range")
    bases = {plugin: load_config(registry, plugin, env, overrides=fixed) for plugin in plugins}
    dimensions = {plugin: _dimensions(registry, base, ranges, fixed) for plugin, base in bases.items()}
    all_dimensions = itertools.chain.from_iterable(dimensions.values())
    known = {name for dimension in all_dimensions for name in (dimension.name, dimension.key, dimension.param.name)}
    for name in ranges:
        if name not in known:
            raise ConfigError(f"{unknown('hyperparameter to search', name, known)} (of {', '.join(plugins)})")
    return Space(bases, _with_distinct_names(bases, dimensions))


def _dimensions(
    registry: Registry, base: ExperimentConfig, ranges: Mapping[str, Search], fixed: Mapping[str, Any]
) -> tuple[Dimension, ...]:
    """Return the dimensions of a combination in the order of declaration.

    Other spellings of the scale are searched, unless the scale is fixed or the combination names it.
    """
    combination = base.combination
    dimensions: list[Dimension] = []
    for name, param in declared(AlgorithmConfig).items():
        if name not in _ignored(combination):
            dimensions += _dimension(name, f"{ALGORITHM}.{name}", param, param.search, ranges, fixed)
    if "scale" not in fixed and "scale" not in named_parts(registry, combination.plugin):
        for spelling in spellings_for(combination.baseline, combination.scale):
            param = spelling.param
            dimensions += _dimension(spelling.label, spelling.key, param, param.search, ranges, fixed)
    for kind, part in combination.parts.items():
        for name, param in declared(type(part)).items():
            key = f"{kind}.{name}"
            short = short_name(key)
            if short not in _ignored(combination):
                search = search_of(type(part), name)
                dimension_name = f"{part.name}.{name}" if short == key else short
                dimensions += _dimension(dimension_name, key, param, search, ranges, fixed)
    return tuple(dimensions)


def _dimension(
    name: str,
    key: str,
    param: Param,
    declared_search: Search | None,
    ranges: Mapping[str, Search],
    fixed: Mapping[str, Any],
) -> list[Dimension]:
    names = (name, key, param.name)
    if any(alias in fixed for alias in names):
        return []
    requested = next((ranges[alias] for alias in names if alias in ranges), None)
    if requested is not None:
        for value in requested.choices or (requested.low, requested.high):
            param.validate(value, "search range of ")
        if float not in param.types and (requested.high or 0) > MAX_INT:
            raise ConfigError(f"search range of {name} must end at {MAX_INT:.0g} at the latest, not {requested.high:g}")
    search = requested or declared_search
    return [Dimension(name, key, param, search)] if search is not None else []


def _ignored(combination: Combination) -> frozenset[str]:
    """Return the settings not to search: those without effect, and batch_size if the objective takes a single pass."""
    single_pass = combination.update.name == "gradient_descent" and not combination.objective.multi_epoch
    return combination.unused | {"batch_size"} if single_pass else combination.unused


def _with_distinct_names(
    bases: Mapping[str, ExperimentConfig], dimensions: Mapping[str, tuple[Dimension, ...]]
) -> dict[str, tuple[Dimension, ...]]:
    """Prefix a name that has different ranges in two combinations.

    The prefix is the part if the combination names all its parts, so that combinations with this part share the
    dimension: `trpo.n_critic_updates`. If that is not enough, the prefix is the combination.
    """

    def of_part(plugin: str, dimension: Dimension) -> str:
        owner, _, field = dimension.key.partition(".")
        parts = {str(kind): part.name for kind, part in bases[plugin].combination.parts.items()}
        names_others = plugin.count("+") >= len(NAMED_KINDS)
        return f"{parts[owner]}.{field}" if names_others and owner in parts else dimension.name

    def of_combination(plugin: str, dimension: Dimension) -> str:
        return f"{plugin}.{dimension.name}"

    distinct = dict(dimensions)
    for renamed in (of_part, of_combination):
        searches: dict[str, set[Search]] = {}
        for dimension in itertools.chain.from_iterable(distinct.values()):
            searches.setdefault(dimension.name, set()).add(dimension.search)
        distinct = {
            plugin: tuple(replace(d, name=renamed(plugin, d)) if len(searches[d.name]) > 1 else d for d in ds)
            for plugin, ds in distinct.items()
        }
    return distinct


def combinations(registry: Registry, env: str, base: str, kinds: Iterable[str]) -> list[str]:
    """Return every valid combination that differs from a recipe only in some kinds of part.

    It is written `estimator+baseline+objective`. The scale, the update and the sampling follow where they are searched.
    Otherwise the recipe's update and sampling follow where other ones would be used.

    Args:
        registry: the plugins.
        env: the environment's name.
        base: a recipe or combination.
        kinds: the kinds of part to choose freely, "estimator", "baseline", "objective", "scale", "update", "sampling".

    Raises:
        ConfigError: a kind is unknown, or no kind is given.
    """
    kinds = tuple(kinds)
    for kind in kinds:
        if kind not in PART_TYPES:
            raise ConfigError(unknown("kind of part", kind, PART_TYPES))
    if not kinds:
        raise ConfigError(f"--search does not name a kind of part; the kinds are {', '.join(PART_TYPES)}")
    parts = {kind: part.name for kind, part in load_config(registry, base, env).combination.parts.items()}
    by_default = {
        "scale": parts["scale"],
        "update": Recipe.update,
        "sampling": parts["sampling"] if parts["sampling"] in AUTO_SAMPLINGS else AUTO,
    }
    written = [kind for kind in PART_TYPES if kind in (*NAMED_KINDS, *kinds) or parts[kind] != by_default[kind]]
    valid = []
    for names in itertools.product(*(registry.names(kind) if kind in kinds else [parts[kind]] for kind in written)):
        combination = "+".join(names)
        try:
            load_config(registry, combination, env)
        except PgzooError:
            continue
        valid.append(combination)
    return valid
