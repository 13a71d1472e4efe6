"""From names and numbers to a checked combination of parts; needs no torch, so that refusals come at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.hyperparameters import Param, declared, plain_fields
from pgzoo.interface.parts import Baseline, Estimator, Objective, Part, PartSpec, Recipe
from pgzoo.interface.types import Need
from pgzoo.registry.plugins import PART_TYPES, Kind, Registry
from pgzoo.registry.settings import AlgorithmConfig

DEFAULT_RECIPE = "rtg_value"
DEFAULT_EPISODES = 8
DEFAULT_GROUPS = 4
ALGORITHM = "algorithm"
"""The prefix of the algorithm's own hyperparameters, where a bare name is not clear."""


@dataclass(frozen=True)
class Combination:
    """What a `PolicyGradient` is made of: three parts and the algorithm's settings, all checked.

    Attributes:
        plugin: what was asked for, a recipe or `estimator+baseline[+objective]`.
    """

    plugin: str
    estimator: Estimator
    baseline: Baseline
    objective: Objective
    algorithm: AlgorithmConfig

    @property
    def parts(self) -> dict[Kind, Part]:
        """The three parts by kind."""
        return {"estimator": self.estimator, "baseline": self.baseline, "objective": self.objective}

    @property
    def needs(self) -> frozenset[Need]:
        """What the parts need, and the successors for an estimator that is recomputed with the current V."""
        needs = self.estimator.needs | self.baseline.needs | self.objective.needs
        return needs | {Need.NEXT_OBSERVATIONS} if self.estimator.recompute == "epoch" else needs

    def part_that_needs(self, need: Need) -> Part | None:
        """Return the first part that declares a need, or None."""
        return next((part for part in self.parts.values() if need in part.needs), None)

    @property
    def sampling(self) -> str:
        """`steps`, `episodes` or `groups`: what was asked for, or what the parts need."""
        if self.algorithm.sampling != "auto":
            return self.algorithm.sampling
        if Need.GROUPS in self.needs:
            return "groups"
        return "episodes" if Need.COMPLETE_EPISODES in self.needs else "steps"

    @property
    def unused(self) -> frozenset[str]:
        """The settings that make no difference to this combination."""
        unused = {"n_steps"} if self.sampling != "steps" else {"n_episodes"}
        if self.sampling != "groups":
            unused |= {"group_size", "group_options"}
        if not (self.objective.multi_epoch or self.estimator.recompute == "epoch"):
            unused |= {"n_epochs"}
        if Need.VALUES not in self.needs:
            unused |= {"vf_coef", "n_critic_updates"}
        return frozenset(unused)

    def n_episodes(self, n_envs: int) -> int:
        """Return the episodes of one update.

        A multiple of n_envs, or of group_size for groups; by default at least 8 episodes, or 4 groups.

        Raises:
            ConfigError: a number was given that is no such multiple.
        """
        given = self.algorithm.n_episodes
        if self.sampling == "groups":
            size = self.algorithm.group_size
            if given is None:
                return DEFAULT_GROUPS * size
            unit, why = f"group_size={size}", "that every group is complete"
        else:
            size = n_envs
            if given is None:
                return n_envs * math.ceil(DEFAULT_EPISODES / n_envs)
            unit, why = f"n_envs={size}", "that every environment gives the same number of episodes"
        if given % size:
            nearest = size * max(1, round(given / size))
            raise ConfigError(
                f"n_episodes must be a multiple of {unit}, so {why}; got {given}, the nearest is {nearest}"
            )
        return given


def resolve(
    registry: Registry,
    plugin: str | Combination = DEFAULT_RECIPE,
    *,
    estimator: PartSpec | Estimator | None = None,
    baseline: PartSpec | Baseline | None = None,
    objective: PartSpec | Objective | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Combination:
    """Return the checked combination that a recipe, replaced parts and overriding values make.

    Args:
        registry: the plugins to choose from.
        plugin: a recipe's name, `estimator+baseline[+objective]`, or a combination, which is returned as it is.
        estimator: replaces that part: a name, a mapping of `name` and fields (without a name: fields of the
            recipe's part), or an instance; `baseline` and `objective` likewise.
        baseline: as estimator.
        objective: as estimator.
        overrides: values by field, `gae_lambda` or `estimator.gae_lambda`, and of `AlgorithmConfig`.

    Raises:
        PluginError: an unknown name.
        ConfigError: an unknown field, a value of the wrong type or out of range, one that two owners share,
            or parts that contradict each other.
    """
    if isinstance(plugin, Combination):
        if overrides or estimator or baseline or objective:
            raise ConfigError("a combination is complete; its parts and hyperparameters are chosen when it is made")
        return plugin
    recipe = _recipe(registry, plugin)
    chosen: dict[Kind, tuple[type[Part], dict[str, Any]]] = {}
    replacements = {"estimator": estimator, "baseline": baseline, "objective": objective}
    for kind in PART_TYPES:
        chosen[kind] = _choose(registry, kind, getattr(recipe, kind), replacements[kind])
    settings = dict(recipe.defaults)
    _assign(chosen, settings, dict(overrides or {}))
    combination = Combination(
        plugin,
        algorithm=_build(AlgorithmConfig, settings, ""),
        **{kind: _build(cls, fields, f"{kind}.") for kind, (cls, fields) in chosen.items()},
    )
    _check(combination)
    return combination


def _recipe(registry: Registry, plugin: str) -> Recipe:
    if not isinstance(plugin, str):
        raise ConfigError(f"plugin must be a recipe's name or estimator+baseline[+objective], not {plugin!r}")
    if "+" not in plugin:
        return registry.recipe(plugin)
    names = plugin.split("+")
    if len(names) > 3:
        raise ConfigError(f"plugin {plugin!r}: write estimator+baseline or estimator+baseline+objective")
    chosen: dict[str, Any] = dict(zip(PART_TYPES, names, strict=False))
    return Recipe(plugin, "", **chosen)


def _choose(
    registry: Registry, kind: Kind, default: PartSpec, replacement: PartSpec | Part | None
) -> tuple[type[Part], dict[str, Any]]:
    name, fields = _name_and_fields(kind, default)
    if isinstance(replacement, PART_TYPES[kind]):
        return type(replacement), plain_fields(replacement)
    if replacement is not None:
        if not isinstance(replacement, (str, Mapping)):
            raise ConfigError(f"{kind} must be a name, a mapping or an instance, not {replacement!r}")
        new_name, new_fields = _name_and_fields(kind, replacement)
        fields = {**fields, **new_fields} if new_name in ("", name) else new_fields
        name = new_name or name
    return registry.part(kind, name), fields


def _name_and_fields(kind: Kind, combination: PartSpec) -> tuple[str, dict[str, Any]]:
    if isinstance(combination, str):
        return combination, {}
    fields = dict(combination)
    name = fields.pop("name", "")
    if not isinstance(name, str):
        raise ConfigError(f"{kind}.name must be a name, not {name!r}")
    return name, fields


def _assign(
    chosen: Mapping[Kind, tuple[type[Part], dict[str, Any]]],
    settings: dict[str, Any],
    overrides: dict[str, Any],
) -> None:
    """Hand each overriding value to its one owner."""
    owners: dict[str, tuple[Mapping[str, Param], dict[str, Any]]] = {ALGORITHM: (declared(AlgorithmConfig), settings)}
    for kind, (cls, fields) in chosen.items():
        owners[kind] = (declared(cls), fields)
    given: dict[tuple[str, str], Any] = {}
    for key, value in overrides.items():
        owner, name = _owner(key, owners, {kind: cls.name for kind, (cls, _) in chosen.items()})
        if (owner, name) in given and given[owner, name] != value:
            raise ConfigError(f"{key} is given twice, as {given[owner, name]!r} and {value!r}")
        given[owner, name] = value
        owners[owner][1][name] = value


def _owner(
    key: str, owners: Mapping[str, tuple[Mapping[str, Param], Any]], names: Mapping[Kind, str]
) -> tuple[str, str]:
    prefix, _, name = str(key).rpartition(".")
    if prefix:
        if prefix not in owners:
            raise ConfigError(unknown("part", prefix, owners))
        if name not in owners[prefix][0]:
            raise ConfigError(unknown(f"hyperparameter of the {prefix}", name, owners[prefix][0]))
        return prefix, name
    having = [owner for owner, (params, _) in owners.items() if name in params]
    if len(having) > 1:
        hint = " or ".join(f"{owner}.{name}" for owner in having)
        raise ConfigError(f"{name} belongs to {' and '.join(having)}; write {hint}")
    if not having:
        known = {param for params, _ in owners.values() for param in params}
        parts = ", ".join(f"{kind} {name!r}" for kind, name in names.items())
        raise ConfigError(f"{unknown('hyperparameter', name, known)} (of the algorithm, {parts})")
    return having[0], name


def _build(cls: Any, fields: Mapping[str, Any], where: str) -> Any:
    params = declared(cls)
    for name in fields:
        if name not in params:
            raise ConfigError(unknown(f"hyperparameter of {where.rstrip('.') or 'the algorithm'}", name, params))
    return cls(**{name: params[name].validate(value, where) for name, value in fields.items()})


def _check(combination: Combination) -> None:
    """Refuse parts that contradict the settings or each other."""
    _check_sampling(combination)
    _check_advantages(combination)
    _check_update(combination)


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
    estimator, baseline, objective = combination.estimator, combination.baseline, combination.objective
    if Need.STEP_RETURNS in combination.needs and estimator.per_episode:
        raise ConfigError(
            f"baseline {baseline.name!r} compares steps with these settings, but estimator {estimator.name!r} gives "
            "all steps of an episode the same return; use reward_to_go"
        )
    for part in (estimator, baseline):
        if Need.EPISODE_ADVANTAGES in combination.needs and not part.per_episode:
            raise ConfigError(
                f"objective {objective.name!r} needs one advantage per episode, but {part.kind} {part.name!r} gives "
                "each step its own; use full_return with group or leave_one_out"
            )


def _check_update(combination: Combination) -> None:
    config, objective = combination.algorithm, combination.objective
    reusable = objective.multi_epoch or combination.estimator.recompute == "epoch"
    if config.n_epochs > 1 and not reusable:
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
