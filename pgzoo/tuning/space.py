"""The search space: what the algorithm and the chosen plugins declare, and nothing of what a combination ignores."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pgzoo.errors import ConfigError, PgzooError, unknown
from pgzoo.interface.hyperparameters import Param, Search, declared
from pgzoo.registry.combination import ALGORITHM, Combination
from pgzoo.registry.plugins import PART_TYPES, Registry
from pgzoo.registry.settings import AlgorithmConfig
from pgzoo.training.config import ExperimentConfig, load_config

if TYPE_CHECKING:
    import optuna

PLUGIN = "plugin"
"""The dimension that chooses the combination, where there are several."""


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter that is searched.

    Attributes:
        name: what the study calls it: `learning_rate`, or with its part's name, `lambda_return.gae_lambda`, so
            that recipes with the same part share what is learned of it.
        key: what it overrides, `algorithm.learning_rate` or `estimator.gae_lambda`.
        param: its declaration.
        search: where to look.
    """

    name: str
    key: str
    param: Param
    search: Search

    def holds(self, value: Any) -> bool:
        """Whether a value, such as a default, lies in the range; a schedule or None lies in none."""
        if self.search.choices:
            return any(value == choice and type(value) is type(choice) for choice in self.search.choices)
        assert self.search.low is not None
        assert self.search.high is not None
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.search.low <= value <= self.search.high

    def suggest(self, trial: optuna.trial.BaseTrial) -> Any:
        """Return the trial's value."""
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
    """What a study searches: combinations, and the dimensions of each.

    Attributes:
        bases: by combination, the run that its searched values override.
        dimensions: by combination.
    """

    bases: Mapping[str, ExperimentConfig]
    dimensions: Mapping[str, tuple[Dimension, ...]]

    def suggest(self, trial: optuna.trial.BaseTrial) -> tuple[str, dict[str, Any]]:
        """Return the trial's combination and the values that override its run's."""
        plugins = list(self.bases)
        plugin = trial.suggest_categorical(PLUGIN, plugins) if len(plugins) > 1 else plugins[0]
        return plugin, {d.key: d.suggest(trial) for d in self.dimensions[plugin]}

    def default(self, plugin: str) -> dict[str, Any]:
        """Return the names and values of a combination's default, as far as they lie in the space."""
        combination = self.bases[plugin].combination
        owners: dict[str, Any] = {ALGORITHM: combination.algorithm, **dict(combination.parts.items())}
        found: dict[str, Any] = {PLUGIN: plugin} if len(self.bases) > 1 else {}
        for dimension in self.dimensions[plugin]:
            kind, _, name = dimension.key.partition(".")
            value = getattr(owners[kind], name)
            if dimension.holds(value):
                found[dimension.name] = value
        return found

    def note_default(self, trial: optuna.trial.BaseTrial, plugin: str) -> None:
        """Note with a trial that trains a default the values that lie in the space; they were fixed beforehand."""
        names = self.default(plugin)
        if PLUGIN in names:
            trial.suggest_categorical(PLUGIN, list(self.bases))
        for dimension in self.dimensions[plugin]:
            if dimension.name in names:
                dimension.suggest(trial)

    def describe(self) -> dict[str, Any]:
        """Return the space as plain data, to be kept with a study and compared with another."""
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
    """Return the space over the combinations, each begun from its entry in `hyperparams/` for the environment.

    Args:
        registry: the plugins.
        env: the environment's name.
        plugins: recipes or `estimator+baseline+objective`.
        ranges: by name, another place to look than what is declared; also for what declares none.
        fixed: by name, values that are not searched.

    Raises:
        PgzooError: an unknown name, a range outside what is allowed, a fixed value that is searched as well.
    """
    ranges, fixed = dict(ranges or {}), dict(fixed or {})
    if both := sorted(set(ranges) & set(fixed)):
        raise ConfigError(f"{both[0]} is both fixed and given a range")
    bases = {plugin: load_config(registry, plugin, env, overrides=fixed) for plugin in plugins}
    dimensions = {plugin: _dimensions(base, ranges, fixed) for plugin, base in bases.items()}
    known = {name for found in dimensions.values() for d in found for name in (d.name, d.key, d.param.name)}
    for name in ranges:
        if name not in known:
            raise ConfigError(f"{unknown('hyperparameter to search', name, known)} (of {', '.join(plugins)})")
    return Space(bases, _apart(dimensions))


def _dimensions(
    base: ExperimentConfig, ranges: Mapping[str, Search], fixed: Mapping[str, Any]
) -> tuple[Dimension, ...]:
    """Return what a combination searches, in the order of declaration."""
    combination = base.combination
    found: list[Dimension] = []
    for name, param in declared(AlgorithmConfig).items():
        if name not in _ignored(combination):
            search = _possible(param.search, name, base) if param.search else None
            found += _dimension(name, f"{ALGORITHM}.{name}", param, search, ranges, fixed)
    for kind, part in combination.parts.items():
        for name, param in declared(type(part)).items():
            found += _dimension(f"{part.name}.{name}", f"{kind}.{name}", param, param.search, ranges, fixed)
    return tuple(found)


def _dimension(
    name: str,
    key: str,
    param: Param,
    declared_search: Search | None,
    ranges: Mapping[str, Search],
    fixed: Mapping[str, Any],
) -> list[Dimension]:
    names = (name, key, param.name)
    if any(known in fixed for known in names):
        return []
    given = next((ranges[known] for known in names if known in ranges), None)
    search = given or declared_search
    if search is None:
        return []
    if given is not None:
        for value in given.choices or (given.low, given.high):
            param.validate(value, "search range of ")
    return [Dimension(name, key, param, search)]


def _ignored(combination: Combination) -> frozenset[str]:
    """Return the settings that are not searched: those of no use, and minibatches of a loss without a ratio."""
    return combination.unused if combination.objective.multi_epoch else combination.unused | {"batch_size"}


def _possible(search: Search, name: str, base: ExperimentConfig) -> Search | None:
    """Return the choices of n_episodes that n_envs, or every group_size, divides."""
    if name != "n_episodes":
        return search
    size = base.run.n_envs
    if base.combination.sampling == "groups":
        sizes = declared(AlgorithmConfig)["group_size"].search
        assert sizes is not None
        size = max(sizes.choices)
    choices = tuple(n for n in search.choices if n % size == 0)
    return replace(search, choices=choices) if choices else None


def _apart(dimensions: Mapping[str, tuple[Dimension, ...]]) -> dict[str, tuple[Dimension, ...]]:
    """Give a name that means different ranges in two combinations the combination's own prefix."""
    searches: dict[str, set[Search]] = {}
    for dimension in itertools.chain.from_iterable(dimensions.values()):
        searches.setdefault(dimension.name, set()).add(dimension.search)
    return {
        plugin: tuple(replace(d, name=f"{plugin}.{d.name}") if len(searches[d.name]) > 1 else d for d in found)
        for plugin, found in dimensions.items()
    }


def combinations(registry: Registry, env: str, base: str, kinds: Iterable[str]) -> list[str]:
    """Return every `estimator+baseline+objective` that does not contradict itself, the other kinds as in the recipe.

    Args:
        registry: the plugins.
        env: the environment's name.
        base: a recipe, or a combination.
        kinds: which parts to choose freely: "estimator", "baseline", "objective".

    Raises:
        ConfigError: an unknown kind.
    """
    kinds = tuple(kinds)
    for kind in kinds:
        if kind not in PART_TYPES:
            raise ConfigError(unknown("kind of part", kind, PART_TYPES))
    own = load_config(registry, base, env).combination.parts
    names = [registry.names(kind) if kind in kinds else [own[kind].name] for kind in PART_TYPES]
    found = []
    for parts in itertools.product(*names):
        combination = "+".join(parts)
        try:
            load_config(registry, combination, env)
        except PgzooError:
            continue
        found.append(combination)
    return found
