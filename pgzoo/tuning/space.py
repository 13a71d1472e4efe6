"""The search space: the hyperparameters of the run, the algorithm and the plugins, without those without effect."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pgzoo.errors import ConfigError, PgzooError, unknown
from pgzoo.interface.hyperparameters import Param, Search, declared
from pgzoo.interface.parts import Part, Recipe
from pgzoo.interface.types import Need
from pgzoo.registry.combination import (
    ALGORITHM,
    AUTO,
    AUTO_SAMPLINGS,
    NAMED_KINDS,
    Combination,
    named_parts,
)
from pgzoo.registry.plugins import PART_TYPES, Registry
from pgzoo.registry.settings import AlgorithmConfig, short_name
from pgzoo.registry.spellings import SPELLINGS, spellings_for
from pgzoo.training.config import ExperimentConfig, RunConfig, load_config

if TYPE_CHECKING:
    import optuna

PLUGIN = "plugin"
"""The dimension that chooses the combination, if there are several."""
RUN, NETWORK = "run", "policy_kwargs"
"""The owners of hyperparameters that are not the algorithm's or a part's."""
MAX_INT = 2**53
"""Optuna stores integers as floats, which are exact up to here."""
MIN_ROLLOUTS = 10
NETWORKS = {"tiny": [64], "small": [64, 64], "medium": [256, 256]}
"""Hidden layers of policy and critic, with RL Zoo's names."""
ACTIVATIONS = {"tanh": "torch.nn.Tanh", "relu": "torch.nn.ReLU"}


@dataclass(frozen=True)
class Entries:
    """Where the configurations of a study come from.

    Attributes:
        env: the environment's name.
        file: hyperparameters by environment; None: those of pgzoo.
        begin_with: the environment whose entry is used; None: that of `env`.
    """

    env: str
    file: Path | None = None
    begin_with: str | None = None

    def load(self, registry: Registry, plugin: str, overrides: Mapping[str, Any] | None = None) -> ExperimentConfig:
        """Return the configuration of a recipe or combination.

        Raises:
            PgzooError: as `load_config`.
        """
        config = load_config(registry, plugin, self.begin_with or self.env, file=self.file, overrides=overrides)
        return replace(config, env=self.env)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What a study searches of `policy_kwargs`."""

    net_arch: Annotated[Literal["tiny", "small", "medium"], Search(choices=tuple(NETWORKS)), "hidden layers"] = "small"
    activation_fn: Annotated[Literal["tanh", "relu"], Search(choices=tuple(ACTIVATIONS)), "of hidden layers"] = "tanh"


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

    @property
    def coordinate(self) -> str:
        """The name of the number that Optuna draws, as in RL Zoo: `one_minus_gamma` for γ, `n_steps_pow` for log₂."""
        owner, dot, field = self.name.rpartition(".")
        return f"{owner}{dot}{_COORDINATES.get(self.search.drawn, '{}').format(field)}"

    def suggest(self, trial: optuna.trial.BaseTrial) -> Any:
        """Return the value that the trial draws."""
        search = self.search
        if search.choices:
            return trial.suggest_categorical(self.name, list(search.choices))
        low, high = _bounds(search)
        if search.drawn == "pow2":
            exponent = trial.suggest_int(self.coordinate, math.ceil(math.log2(low)), math.floor(math.log2(high)))
            return 2**exponent
        if search.drawn == "log1m":
            return 1 - trial.suggest_float(self.coordinate, 1 - high, 1 - low, log=True)
        if float not in self.param.types:
            return trial.suggest_int(self.name, int(low), int(high), log=search.drawn == "log")
        return trial.suggest_float(self.name, low, high, log=search.drawn == "log")

    def nearest(self, value: Any) -> Any:
        """Return the coordinate of the point that is nearest to a value, such as a default outside of the range.

        A schedule counts with its first value, and None as the range says.
        """
        search = self.search
        number = _number(value, search)
        if search.choices:
            same = [choice for choice in search.choices if choice == value and type(choice) is type(value)]
            numbers = [choice for choice in search.choices if _is_number(choice)]
            near = [] if number is None else sorted(numbers, key=lambda choice: abs(choice - number))
            return [*same, *near, *search.choices][0]
        low, high = _bounds(search)
        x = min(max(high if number is None else number, low), high)
        if search.drawn == "pow2":
            exponent = round(math.log2(x))
            return min(max(exponent, math.ceil(math.log2(low))), math.floor(math.log2(high)))
        if search.drawn == "log1m":
            return 1 - x
        return int(x) if float not in self.param.types else float(x)


_COORDINATES = {"log1m": "one_minus_{}", "pow2": "{}_pow"}


def readable(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a trial with the values of the hyperparameters in place of their coordinates.

    >>> readable({"one_minus_gamma": 0.01, "n_steps_pow": 5, "vf_coef": 0.5})
    {'gamma': 0.99, 'n_steps': 32, 'vf_coef': 0.5}
    """
    shown = {}
    for name, value in params.items():
        owner, dot, field = name.rpartition(".")
        if field.startswith("one_minus_"):
            shown[f"{owner}{dot}{field.removeprefix('one_minus_')}"] = 1 - value
        elif field.endswith("_pow"):
            shown[f"{owner}{dot}{field.removesuffix('_pow')}"] = 2**value
        else:
            shown[name] = value
    return shown


def _bounds(search: Search) -> tuple[float, float]:
    assert search.low is not None
    assert search.high is not None
    return search.low, search.high


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any, search: Search) -> float | None:
    """Return a hyperparameter's value as a number: the first one of a schedule; None if it has none."""
    if value is None:
        return search.none
    if isinstance(value, Mapping):
        value = value.get("initial")
    elif callable(value):
        value = value(1.0)
    return float(value) if _is_number(value) else None


@dataclass(frozen=True)
class Space:
    """The search space of a study: its combinations, and the dimensions of each.

    Attributes:
        bases: by combination, the configuration that the drawn values override.
        dimensions: by combination, the dimensions.
    """

    bases: Mapping[str, ExperimentConfig]
    dimensions: Mapping[str, tuple[Dimension, ...]]

    def draw(self, trial: optuna.trial.BaseTrial) -> tuple[str, dict[str, Any]]:
        """Return the combination and the values that the trial draws."""
        plugins = list(self.bases)
        plugin = trial.suggest_categorical(PLUGIN, plugins) if len(plugins) > 1 else plugins[0]
        return plugin, {dimension.key: dimension.suggest(trial) for dimension in self.dimensions[plugin]}

    def overrides(self, plugin: str, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Return drawn values as overrides of the combination's configuration.

        A training has at least MIN_ROLLOUTS rollouts, no minibatch is larger than its rollout, and groups are complete.
        """
        return _fitting(self.bases[plugin], drawn)

    def suggest(self, trial: optuna.trial.BaseTrial) -> tuple[str, dict[str, Any]]:
        """Return the combination that the trial draws, and the values that override its configuration."""
        plugin, drawn = self.draw(trial)
        return plugin, self.overrides(plugin, drawn)

    def default(self, plugin: str) -> dict[str, Any]:
        """Return the point of the space that is nearest to a combination's default.

        Every trial of a combination then has the same parameters, and a sampler learns them jointly.
        """
        base = self.bases[plugin]
        params: dict[str, Any] = {PLUGIN: plugin} if len(self.bases) > 1 else {}
        return params | {d.coordinate: d.nearest(_value(base, d.key)) for d in self.dimensions[plugin]}

    def describe(self) -> dict[str, Any]:
        """Return the space as plain data, which a study stores to compare it with another."""
        described: dict[str, Any] = {PLUGIN: list(self.bases)}
        for dimension in itertools.chain.from_iterable(self.dimensions.values()):
            described[dimension.name] = str(dimension.search)
        return described


def _value(base: ExperimentConfig, key: str) -> Any:
    """Return the value of a hyperparameter in a configuration."""
    owner, _, name = key.partition(".")
    if key in SPELLINGS:
        return SPELLINGS[key].value(base.combination.scale)
    if owner == RUN:
        value = getattr(base.run, name)
        return bool(value) if name == "normalize" else value
    if owner == NETWORK:
        return _network(base)[name]
    return getattr(base.combination.algorithm if owner == ALGORITHM else _part(base, owner), name)


def _part(base: ExperimentConfig, kind: str) -> Part:
    parts: Mapping[str, Part] = {str(kind): part for kind, part in base.combination.parts.items()}
    return parts[kind]


def _network(base: ExperimentConfig) -> dict[str, str]:
    """Return the names of the network and the activation that are nearest to a configuration's."""
    arguments = base.run.policy_kwargs or {}
    layers = arguments.get("net_arch", NETWORKS["small"])
    widths = layers.get("pi", []) if isinstance(layers, Mapping) else layers
    size = math.prod(widths) if widths and all(map(_is_number, widths)) else 1
    nearest = min(NETWORKS, key=lambda name: abs(math.log(math.prod(NETWORKS[name]) / size)))
    activation = "relu" if str(arguments.get("activation_fn", "")).endswith("ReLU") else "tanh"
    return {"net_arch": nearest, "activation_fn": activation}


def _fitting(base: ExperimentConfig, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return drawn values as overrides of a configuration, as `Space.overrides` describes them."""
    overrides = {key.removeprefix(f"{RUN}."): value for key, value in drawn.items() if not key.startswith(NETWORK)}

    def value(key: str) -> Any:
        owner, _, name = key.partition(".")
        return overrides.get(key, getattr(_part(base, owner), name, None))

    n_steps, n_episodes, group_size = (value(f"sampling.{name}") for name in ("n_steps", "n_episodes", "group_size"))
    n_envs = overrides.get("n_envs", base.run.n_envs)
    if "sampling.n_steps" in overrides and (longest := base.run.n_timesteps // (MIN_ROLLOUTS * n_envs)) >= 1:
        n_steps = overrides["sampling.n_steps"] = min(n_steps, 2 ** math.floor(math.log2(longest)))
    if "update.batch_size" in overrides and n_steps is not None:
        overrides["update.batch_size"] = min(overrides["update.batch_size"], n_steps * n_envs)
    if "sampling.n_episodes" in overrides and group_size is not None:
        overrides["sampling.n_episodes"] = math.ceil(n_episodes / group_size) * group_size
    if overrides.get("normalize"):
        compares_returns = Need.GROUPS in base.combination.needs
        overrides["normalize"] = base.run.normalize or ({"norm_reward": False} if compares_returns else True)
    network = {key.removeprefix(f"{NETWORK}."): name for key, name in drawn.items() if key.startswith(NETWORK)}
    if network:
        meanings: Mapping[str, Mapping[str, Any]] = {"net_arch": NETWORKS, "activation_fn": ACTIVATIONS}
        chosen = {name: meanings[name][choice] for name, choice in network.items()}
        overrides[NETWORK] = {**(base.run.policy_kwargs or {}), **chosen}
    return overrides


def make_space(
    registry: Registry,
    entries: Entries,
    plugins: Sequence[str],
    *,
    ranges: Mapping[str, Search] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Space:
    """Return the search space over the combinations, each based on its entry.

    Args:
        registry: the plugins.
        entries: where their configurations come from.
        plugins: recipes or `estimator+baseline+objective`.
        ranges: search ranges by name. They replace declared ones, or search what does not declare one.
        fixed: values by name, which are not searched.

    Raises:
        PgzooError: a name is unknown, a range exceeds the allowed values, or a hyperparameter is fixed and searched.
    """
    ranges, fixed = dict(ranges or {}), dict(fixed or {})
    if contradictions := sorted(set(ranges) & set(fixed)):
        raise ConfigError(f"{contradictions[0]} is both fixed and given a range")
    bases = {plugin: entries.load(registry, plugin, fixed) for plugin in plugins}
    dimensions = {plugin: _dimensions(registry, base, ranges, fixed) for plugin, base in bases.items()}
    all_dimensions = itertools.chain.from_iterable(dimensions.values())
    known = {name for dimension in all_dimensions for name in (dimension.name, dimension.key, dimension.param.name)}
    for name in ranges:
        if name not in known:
            raise ConfigError(f"{unknown('hyperparameter to search', name, known)} (of {', '.join(plugins)})")
    return Space(bases, _with_distinct_names(bases, dimensions))


def with_common_dimensions(spaces: Mapping[str, Space]) -> dict[str, Space]:
    """Return the spaces of several environments with the dimensions of the first one that all of them have."""
    first, *others = spaces.values()
    dimensions = {
        plugin: tuple(d for d in ds if all(d.key in {o.key for o in other.dimensions[plugin]} for other in others))
        for plugin, ds in first.dimensions.items()
    }
    return {env: Space(space.bases, dimensions) for env, space in spaces.items()}


def _dimensions(
    registry: Registry, base: ExperimentConfig, ranges: Mapping[str, Search], fixed: Mapping[str, Any]
) -> tuple[Dimension, ...]:
    """Return the dimensions of a combination in the order of declaration.

    Other spellings of the scale are searched, unless the scale is fixed or the combination names it.
    """
    combination = base.combination
    declarations: list[tuple[str, str, Param]] = [
        (name, f"{ALGORITHM}.{name}", param)
        for name, param in declared(AlgorithmConfig).items()
        if name not in _ignored(combination)
    ]
    if "scale" not in fixed and "scale" not in named_parts(registry, combination.plugin):
        spellings = spellings_for(combination.baseline, combination.scale)
        declarations += [(spelling.label, spelling.key, spelling.param) for spelling in spellings]
    for kind, part in combination.parts.items():
        for name, param in declared(type(part)).items():
            key = f"{kind}.{name}"
            short = short_name(key)
            if short not in _ignored(combination):
                declarations.append((f"{part.name}.{name}" if short == key else short, key, param))
    declarations += [(name, f"{RUN}.{name}", param) for name, param in declared(RunConfig).items()]
    if base.run.policy in ("auto", "MlpPolicy") and NETWORK not in fixed:
        declarations += [(name, f"{NETWORK}.{name}", param) for name, param in declared(NetworkConfig).items()]
    searched = [_dimension(name, key, param, ranges, fixed) for name, key, param in declarations]
    return tuple(dimension for dimension in searched if dimension is not None)


def _dimension(
    name: str, key: str, param: Param, ranges: Mapping[str, Search], fixed: Mapping[str, Any]
) -> Dimension | None:
    """Return the dimension of a hyperparameter, or None if it is not searched."""
    names = (name, key, param.name)
    if any(alias in fixed for alias in names):
        return None
    search = next((ranges[alias] for alias in names if alias in ranges), None)
    if search is None:
        return Dimension(name, key, param, param.search) if param.search is not None else None
    for value in search.choices or (search.low, search.high):
        param.validate(value, "search range of ")
    if not search.choices and search.scale is None and not search.log and param.search is not None:
        try:
            search = replace(search, scale=param.search.scale, log=param.search.log)
        except ConfigError as error:
            raise ConfigError(f"search range of {name}: {error}") from error
    if float not in param.types and (search.high or 0) > MAX_INT:
        raise ConfigError(f"search range of {name} must end at {MAX_INT:.0g} at the latest, not {search.high:g}")
    return Dimension(name, key, param, search)


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


def combinations(registry: Registry, entries: Entries, base: str, kinds: Iterable[str]) -> list[str]:
    """Return every valid combination that differs from a recipe only in some kinds of part.

    It is written `estimator+baseline+objective`. The scale, the update and the sampling follow where they are searched.
    Otherwise the recipe's update and sampling follow where other ones would be used.

    Args:
        registry: the plugins.
        entries: where their configurations come from.
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
    parts = {kind: part.name for kind, part in entries.load(registry, base).combination.parts.items()}
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
            entries.load(registry, combination)
        except PgzooError:
            continue
        valid.append(combination)
    return valid
