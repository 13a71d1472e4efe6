"""From names and values to a checked combination of parts. It does not import torch, so errors appear immediately."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.hyperparameters import Param, declared, plain_fields, shown
from pgzoo.interface.parts import Baseline, Estimator, Objective, Part, PartSpec, Recipe
from pgzoo.interface.types import Need
from pgzoo.registry.plugins import PART_TYPES, Kind, Registry
from pgzoo.registry.settings import AlgorithmConfig

DEFAULT_RECIPE = "rtg_value"
DEFAULT_EPISODES = 8
"""The minimum number of episodes per update if `n_episodes` is None."""
DEFAULT_GROUPS = 4
"""The number of groups per update if `n_episodes` is None."""
ALGORITHM = "algorithm"
"""The owner of the algorithm's hyperparameters: `algorithm.gamma` is γ even if a part has a field `gamma`."""


@dataclass(frozen=True)
class Combination:
    """Three parts and the algorithm's settings. They are checked once, when the object is created.

    Attributes:
        plugin: what the user chose, a recipe or `estimator+baseline[+objective]`.
        estimator: gives R̂.
        baseline: gives b and c.
        objective: gives the loss.
        algorithm: how to sample, optimise and log.

    Raises:
        ConfigError: the parts contradict each other or the settings.
    """

    plugin: str
    estimator: Estimator
    baseline: Baseline
    objective: Objective
    algorithm: AlgorithmConfig

    def __post_init__(self) -> None:
        _check_sampling(self)
        _check_advantages(self)
        _check_update(self)

    @property
    def parts(self) -> dict[Kind, Part]:
        """The three parts by kind."""
        return {"estimator": self.estimator, "baseline": self.baseline, "objective": self.objective}

    @property
    def needs(self) -> frozenset[Need]:
        """What the parts need. An estimator that is recomputed needs next observations to evaluate the current V."""
        needs = self.estimator.needs | self.baseline.needs | self.objective.needs
        return needs | {Need.NEXT_OBSERVATIONS} if self.estimator.recompute == "epoch" else needs

    def part_that_needs(self, need: Need) -> Part | None:
        """Return the first part that declares a need, or None."""
        return next((part for part in self.parts.values() if need in part.needs), None)

    @property
    def sampling(self) -> str:
        """`steps`, `episodes` or `groups`: the setting, or what the parts need if it is `auto`."""
        if self.algorithm.sampling != "auto":
            return self.algorithm.sampling
        if Need.GROUPS in self.needs:
            return "groups"
        return "episodes" if Need.COMPLETE_EPISODES in self.needs else "steps"

    @property
    def allows_epochs(self) -> bool:
        """Whether several epochs per rollout are correct: the objective has a ratio, or R̂ is recomputed."""
        return self.objective.multi_epoch or self.estimator.recompute == "epoch"

    @property
    def unused(self) -> frozenset[str]:
        """The algorithm's settings that have no effect on this combination."""
        unused = {"n_episodes"} if self.sampling == "steps" else {"n_steps"}
        if self.sampling != "groups":
            unused |= {"group_size", "group_options"}
        if not self.allows_epochs:
            unused |= {"n_epochs"}
        if Need.VALUES not in self.needs:
            unused |= {"vf_coef", "n_critic_updates"}
        return frozenset(unused)

    def n_episodes(self, n_envs: int) -> int:
        """Return the number of episodes per update: a multiple of n_envs, or of group_size if groups are sampled.

        The default is 4 groups, or the smallest multiple of n_envs that is at least 8.

        Raises:
            ConfigError: the setting `n_episodes` is not such a multiple.
        """
        if self.sampling == "groups":
            name, unit, reason = "group_size", self.algorithm.group_size, "every group must be complete"
            default = DEFAULT_GROUPS * unit
        else:
            name, unit, reason = "n_envs", n_envs, "every environment contributes the same number"
            default = n_envs * math.ceil(DEFAULT_EPISODES / n_envs)
        n_episodes = self.algorithm.n_episodes
        if n_episodes is None:
            return default
        if n_episodes % unit:
            nearest = unit * max(1, round(n_episodes / unit))
            raise ConfigError(
                f"n_episodes must be a multiple of {name}={unit}, because {reason}; got {n_episodes}, "
                f"the nearest is {nearest}"
            )
        return n_episodes


def resolve(
    registry: Registry,
    plugin: str | Combination = DEFAULT_RECIPE,
    *,
    estimator: PartSpec | Estimator | None = None,
    baseline: PartSpec | Baseline | None = None,
    objective: PartSpec | Objective | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Combination:
    """Return the combination of a recipe, with some of its parts and values replaced.

    Args:
        registry: the plugins to choose from.
        plugin: a recipe, `estimator+baseline[+objective]`, or a combination, which is returned unchanged.
        estimator: replaces the recipe's: a name, a mapping of `name` and fields, or an instance. A mapping without a
            name changes fields of the recipe's estimator.
        baseline: as estimator.
        objective: as estimator.
        overrides: values by field, of a part or of `AlgorithmConfig`: `gae_lambda` or `estimator.gae_lambda`.

    Raises:
        PluginError: an unknown recipe or part.
        ConfigError: an unknown or ambiguous field, a wrong value, or parts that contradict each other.
    """
    if not isinstance(registry, Registry):
        raise ConfigError(f"registry must be a Registry, such as Registry.discover(), not {shown(registry)}")
    if not isinstance(overrides, (Mapping, type(None))):
        raise ConfigError(f"hyperparameters must be a mapping from names to values, not {shown(overrides)}")
    replacements: dict[Kind, Any] = {"estimator": estimator, "baseline": baseline, "objective": objective}
    if isinstance(plugin, Combination):
        if overrides or any(replacements.values()):
            raise ConfigError("a Combination already has its parts and hyperparameters; pass them to resolve() instead")
        return plugin
    recipe = _recipe(registry, plugin)
    owners = {ALGORITHM: _Owner(AlgorithmConfig, dict(recipe.defaults))}
    for kind in PART_TYPES:
        owners[kind] = _choose_part(registry, kind, getattr(recipe, kind), replacements[kind])
    _assign(owners, overrides or {})
    return Combination(plugin, **{name: owner.build(name) for name, owner in owners.items()})


@dataclass(frozen=True)
class _Owner:
    """The class of a part or of the algorithm's settings, and values for its fields."""

    cls: Any
    values: dict[str, Any]

    @property
    def params(self) -> Mapping[str, Param]:
        return declared(self.cls)

    def build(self, name: str) -> Any:
        """Return an instance with validated values. `name` is the owner in error messages."""
        for field in self.values:
            if field not in self.params:
                raise ConfigError(unknown(f"hyperparameter of the {name}", field, self.params))
        where = "" if name == ALGORITHM else f"{name}."
        return self.cls(**{field: self.params[field].validate(value, where) for field, value in self.values.items()})


def _recipe(registry: Registry, plugin: str) -> Recipe:
    """Return the recipe of that name, or one that is made of `estimator+baseline[+objective]`."""
    if not isinstance(plugin, str):
        raise ConfigError(f"plugin must be a recipe or estimator+baseline[+objective], not {shown(plugin)}")
    if "+" not in plugin:
        return registry.recipe(plugin)
    names = plugin.split("+")
    if len(names) > len(PART_TYPES):
        raise ConfigError(f"plugin {plugin!r}: write estimator+baseline or estimator+baseline+objective")
    parts: dict[str, Any] = dict(zip(PART_TYPES, names, strict=False))
    return Recipe(plugin, "", **parts)


def _choose_part(registry: Registry, kind: Kind, default: PartSpec, replacement: PartSpec | Part | None) -> _Owner:
    """Return the replacement if there is one, else the recipe's part."""
    if isinstance(replacement, PART_TYPES[kind]):
        return _Owner(type(replacement), plain_fields(replacement))
    name, values = _name_and_fields(kind, default)
    if replacement is not None:
        if not isinstance(replacement, (str, Mapping)):
            raise ConfigError(f"{kind} must be a name, a mapping or an instance, not {shown(replacement)}")
        new_name, new_values = _name_and_fields(kind, replacement)
        if new_name in ("", name):
            values = {**values, **new_values}
        else:
            name, values = new_name, new_values
    return _Owner(registry.part(kind, name), values)


def _name_and_fields(kind: Kind, spec: PartSpec) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    fields = dict(spec)
    name = fields.pop("name", "")
    if not isinstance(name, str):
        raise ConfigError(f"{kind}.name must be a name, not {shown(name)}")
    return name, fields


def _assign(owners: Mapping[str, _Owner], overrides: Mapping[str, Any]) -> None:
    """Give each value to the owner of its field."""
    assigned: dict[tuple[str, str], Any] = {}
    for key, value in overrides.items():
        owner, field = _owner_and_field(owners, str(key))
        previous = assigned.setdefault((owner, field), value)
        if previous is not value and previous != value:
            raise ConfigError(f"{key} is given twice, as {shown(previous)} and {shown(value)}")
        owners[owner].values[field] = value


def _owner_and_field(owners: Mapping[str, _Owner], key: str) -> tuple[str, str]:
    """Return the owner and the field that `field` or `owner.field` means."""
    owner, dot, field = key.rpartition(".")
    if dot and not (owner and field):
        raise ConfigError(
            f"a hyperparameter is written name or owner.name, such as gamma or algorithm.gamma, not {key!r}"
        )
    if dot:
        if owner not in owners:
            raise ConfigError(unknown("part", owner, owners))
        if field not in owners[owner].params:
            raise ConfigError(unknown(f"hyperparameter of the {owner}", field, owners[owner].params))
        return owner, field
    candidates = [name for name in owners if field in owners[name].params]
    if len(candidates) > 1:
        qualified = " or ".join(f"{name}.{field}" for name in candidates)
        raise ConfigError(f"{field} belongs to {' and '.join(candidates)}; write {qualified}")
    if not candidates:
        known = {param for owner in owners.values() for param in owner.params}
        parts = ", ".join(f"{kind} {owners[kind].cls.name!r}" for kind in PART_TYPES)
        raise ConfigError(f"{unknown('hyperparameter', field, known)} (of the algorithm, {parts})")
    return candidates[0], field


def _check_sampling(combination: Combination) -> None:
    requested, sampling = combination.algorithm.sampling, combination.sampling
    if requested not in ("auto", "groups") and (part := combination.part_that_needs(Need.GROUPS)):
        raise ConfigError(
            f"{part.kind} {part.name!r} compares episodes from the same initial state, which "
            f"sampling={requested!r} does not provide; use sampling='groups' or 'auto'"
        )
    if requested == "steps" and (part := combination.part_that_needs(Need.COMPLETE_EPISODES)):
        raise ConfigError(
            f"{part.kind} {part.name!r} needs complete episodes, which sampling='steps' cuts; "
            "use sampling='episodes' or 'auto'"
        )
    if sampling == "groups":
        return
    if combination.algorithm.group_options is not None:
        raise ConfigError(
            f"group_options requires sampling='groups', but {combination.plugin!r} uses sampling={sampling!r}"
        )
    if combination.objective.resample_budget is not None:
        raise ConfigError(
            f"objective {combination.objective.name!r} drops and resamples groups, but sampling={sampling!r} has none; "
            "use sampling='groups'"
        )


def _check_advantages(combination: Combination) -> None:
    estimator, baseline = combination.estimator, combination.baseline
    if estimator.per_episode and (part := combination.part_that_needs(Need.STEP_RETURNS)):
        raise ConfigError(
            f"{part.kind} {part.name!r} needs one return per step with these settings, but estimator "
            f"{estimator.name!r} gives all steps of an episode the same return; use reward_to_go"
        )
    if consumer := combination.part_that_needs(Need.EPISODE_ADVANTAGES):
        for advantage_part in (estimator, baseline):
            if not advantage_part.per_episode:
                raise ConfigError(
                    f"{consumer.kind} {consumer.name!r} needs one advantage per episode, but {advantage_part.kind} "
                    f"{advantage_part.name!r} gives each step its own; use full_return with group or leave_one_out"
                )


def _check_update(combination: Combination) -> None:
    config, objective = combination.algorithm, combination.objective
    if config.n_epochs > 1 and not combination.allows_epochs:
        raise ConfigError(
            f"objective {objective.name!r} is correct for one epoch only, because the policy moves away from the one "
            f"that sampled; n_epochs={config.n_epochs} needs an objective such as 'ppo_clip'"
        )
    if config.n_critic_updates and Need.VALUES not in combination.needs:
        raise ConfigError(
            f"n_critic_updates trains V, which no part of {combination.plugin!r} reads; leave n_critic_updates at 0"
        )
    if config.batch_size == 1 and config.normalize_advantage in (True, "minibatch"):
        raise ConfigError("normalize_advantage over minibatches needs a batch_size above 1")
