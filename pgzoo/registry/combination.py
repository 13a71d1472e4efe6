"""From names and values to a checked combination of parts. It does not import torch, so errors appear immediately."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from pgzoo.errors import ConfigError, PluginError, unknown
from pgzoo.interface.hyperparameters import Param, declared, plain_fields, shown
from pgzoo.interface.parts import Baseline, Estimator, Objective, Part, PartSpec, Recipe, Sampling, Scale, Update
from pgzoo.interface.plans import EPISODE_BOUND
from pgzoo.interface.types import Need
from pgzoo.registry.plugins import PART_TYPES, Kind, Registry, check_plugin
from pgzoo.registry.settings import SAMPLING_KEYWORDS, UPDATE_FIELDS, AlgorithmConfig, short_name
from pgzoo.registry.spellings import NORMALIZE_ADVANTAGE, default_scale, spelled_scale

DEFAULT_RECIPE = "ppo"
"""The recipe of every command and function that is not told another one. `docs/design.md` says why."""
NAMED_KINDS: tuple[Kind, ...] = ("estimator", "baseline", "objective")
"""The kinds of the first parts in `estimator+baseline+objective`, in this order."""
OTHER_KINDS: tuple[Kind, ...] = ("scale", "update", "sampling")
"""The kinds of the parts that may follow, such as in `reward_to_go+value+policy_gradient+batch_std`."""
AUTO = "auto"
"""The sampling that is chosen by what the other parts need: the first of AUTO_SAMPLINGS that provides it."""
AUTO_SAMPLINGS = ("steps", "episodes", "groups")
ALGORITHM = "algorithm"
"""The owner of the algorithm's hyperparameters: `algorithm.gamma` is γ even if a part has a field `gamma`."""


@dataclass(frozen=True)
class Combination:
    """One part of each kind, and the algorithm's settings. They are checked once, when the object is created.

    Attributes:
        plugin: what the user chose, a recipe or `estimator+baseline[+objective]`.
        estimator: gives R̂.
        baseline: gives b.
        objective: gives the loss.
        scale: gives c.
        update: moves the parameters.
        sampling: says which steps make up a rollout.
        algorithm: how to discount, optimise and log.

    Raises:
        ConfigError: the parts contradict each other or the settings.
    """

    plugin: str
    estimator: Estimator
    baseline: Baseline
    objective: Objective
    scale: Scale
    update: Update
    sampling: Sampling
    algorithm: AlgorithmConfig

    def __post_init__(self) -> None:
        _check_sampling(self)
        _check_advantages(self)
        _check_update(self)

    @cached_property
    def parts(self) -> Mapping[Kind, Part]:
        """The parts by kind."""
        return {kind: getattr(self, kind) for kind in PART_TYPES}

    @cached_property
    def needs(self) -> frozenset[Need]:
        """What the parts need. An estimator that is recomputed needs next observations to evaluate the current V."""
        needs = frozenset(chain.from_iterable(part.needs for part in self.parts.values()))
        return needs | {Need.NEXT_OBSERVATIONS} if self.estimator.recompute == "epoch" else needs

    def part_that_needs(self, need: Need) -> Part | None:
        """Return the first part that declares a need, or None."""
        return next((part for part in self.parts.values() if need in part.needs), None)

    @property
    def trains_critic(self) -> bool:
        """Whether V is trained: a part needs it, and the sampling does not provide it."""
        return Need.VALUES in self.needs and Need.VALUES not in self.sampling.provides

    @property
    def allows_epochs(self) -> bool:
        """Whether several epochs per rollout are correct: the objective, or a recomputed R̂, has the ratio π/π_old."""
        has_weights = type(self.estimator).importance_weights is not Estimator.importance_weights
        return self.objective.multi_epoch or (self.estimator.recompute == "epoch" and has_weights)

    @property
    def critic_settings(self) -> frozenset[str]:
        """The settings of the algorithm and the update that have no effect without a critic."""
        return self.update.critic_fields | {"critic_learning_rate"}

    @property
    def unused(self) -> frozenset[str]:
        """The settings of the algorithm and the update that have no effect on this combination."""
        unused = set[str]()
        if not self.allows_epochs:
            unused |= {"n_epochs"}
        if not self.trains_critic:
            unused |= self.critic_settings
        return frozenset(unused)

    @property
    def episode_bound(self) -> int:
        """The length above which an episode is an error, also in evaluations."""
        return getattr(self.sampling, "episode_bound", EPISODE_BOUND)


def resolve(
    registry: Registry,
    plugin: str | Recipe | Combination = DEFAULT_RECIPE,
    *,
    estimator: PartSpec | Estimator | None = None,
    baseline: PartSpec | Baseline | None = None,
    objective: PartSpec | Objective | None = None,
    scale: PartSpec | Scale | None = None,
    update: PartSpec | Update | None = None,
    sampling: PartSpec | Sampling | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Combination:
    """Return the combination of a recipe, with some of its parts and values replaced.

    Args:
        registry: the plugins to choose from.
        plugin: a recipe or its name, `estimator+baseline[+objective]`, or a combination, which is returned unchanged.
        estimator: replaces the recipe's: a name, a mapping of `name` and fields, a class or an instance. A mapping
            without a name changes fields of the recipe's estimator.
        baseline: as estimator.
        objective: as estimator.
        scale: as estimator.
        update: as estimator.
        sampling: as estimator; "auto": steps, episodes or groups, whichever the other parts need.
        overrides: values by field, of a part or of `AlgorithmConfig`: `gae_lambda` or `estimator.gae_lambda`. A kind of
            part is replaced as by the argument of that name.

    Raises:
        PluginError: an unknown recipe or part.
        ConfigError: an unknown or ambiguous field, a wrong value, or parts that contradict each other.
    """
    if not isinstance(registry, Registry):
        raise ConfigError(f"registry must be a Registry, such as Registry.discover(), not {shown(registry)}")
    if not isinstance(overrides, (Mapping, type(None))):
        raise ConfigError(f"hyperparameters must be a mapping from names to values, not {shown(overrides)}")
    replacements: dict[Kind, Any] = {
        "estimator": estimator,
        "baseline": baseline,
        "objective": objective,
        "scale": scale,
        "update": update,
        "sampling": sampling,
    }
    if isinstance(plugin, Combination):
        if overrides or any(replacements.values()):
            raise ConfigError("a Combination already has its parts and hyperparameters; pass them to resolve() instead")
        return plugin
    overrides = dict(overrides or {})
    for kind in PART_TYPES:
        if kind in overrides:
            if replacements[kind] is not None:
                raise ConfigError(f"{kind} is given twice, as an argument and as a hyperparameter")
            replacements[kind] = overrides.pop(kind)
    recipe = plugin if isinstance(plugin, Recipe) else _recipe(registry, plugin)
    owners = _choose_parts(registry, recipe, replacements, overrides)
    _refuse_unused(owners, overrides, recipe.name)
    _assign(owners, overrides)
    return Combination(recipe.name, **{name: owner.build(name) for name, owner in owners.items()})


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
        where = "" if name in (ALGORITHM, "sampling", "update") else f"{name}."
        return self.cls(**{field: self.params[field].validate(value, where) for field, value in self.values.items()})


def _recipe(registry: Registry, plugin: str) -> Recipe:
    """Return the recipe of that name, or one that is made of the parts in `estimator+baseline[+objective]…`."""
    if not isinstance(plugin, str):
        raise ConfigError(f"plugin must be a recipe or estimator+baseline[+objective], not {shown(plugin)}")
    if "+" not in plugin:
        return registry.recipe(plugin)
    parts: dict[str, Any] = {str(kind): name for kind, name in named_parts(registry, plugin).items()}
    return Recipe(plugin, "", **{"scale": default_scale(parts["baseline"]), **parts})


def named_parts(registry: Registry, plugin: str) -> dict[Kind, str]:
    """Return the names of the parts in `estimator+baseline[+objective]`, and of the others that follow, by kind.

    A scale, an update and a sampling may follow the objective, in any order.

    Raises:
        ConfigError: a name after the objective is unknown, or there are two of a kind.
    """
    names = plugin.split("+")
    parts: dict[Kind, str] = dict(zip(NAMED_KINDS, names, strict=False))
    for name in names[len(NAMED_KINDS) :]:
        kinds = [kind for kind in OTHER_KINDS if name in registry.names(kind)]
        if not kinds:
            known = [other for kind in OTHER_KINDS for other in registry.names(kind)]
            raise ConfigError(f"plugin {plugin!r}: {unknown('scale, update or sampling', name, known)}")
        if len(kinds) > 1:
            raise ConfigError(f"plugin {plugin!r}: {name!r} is a {' and a '.join(kinds)}; write -P {kinds[0]}:{name}")
        if kinds[0] in parts:
            raise ConfigError(f"plugin {plugin!r} names two parts of kind {kinds[0]}: {parts[kinds[0]]!r}, {name!r}")
        parts[kinds[0]] = name
    return parts


def _choose_parts(
    registry: Registry, recipe: Recipe, replacements: Mapping[Kind, Any], overrides: dict[str, Any]
) -> dict[str, _Owner]:
    """Return the class and the fields of each part, and of the algorithm's settings, with the recipe's defaults.

    Other spellings of the scale are removed from `overrides`. A default of a hyperparameter that the chosen sampling
    does not have has no effect.
    """
    update_defaults = {name: value for name, value in recipe.defaults.items() if name in UPDATE_FIELDS}
    sampling_defaults = {name: value for name, value in recipe.defaults.items() if name in SAMPLING_KEYWORDS}
    of_parts = {*update_defaults, *sampling_defaults}
    defaults = {name: value for name, value in recipe.defaults.items() if name not in of_parts}
    owners = {ALGORITHM: _Owner(AlgorithmConfig, defaults)}
    for kind in PART_TYPES:
        replacement = replacements[kind]
        if kind == "scale":
            baseline = owners["baseline"]
            replacement = spelled_scale(recipe, replacement, baseline.cls, baseline.values, overrides)
        name, values, cls = _choose_part(
            kind, getattr(recipe, kind), replacement, update_defaults if kind == "update" else {}
        )
        if kind == "sampling" and name == AUTO:
            name = _needed_sampling(registry, owners, overrides)
        owners[kind] = _Owner(cls or registry.part(kind, name), values)
    sampling = owners["sampling"]
    if not isinstance(replacements["sampling"], Sampling):
        for name, value in sampling_defaults.items():
            if name in sampling.params:
                sampling.values.setdefault(name, value)
    return owners


def _choose_part(
    kind: Kind, default: PartSpec, replacement: PartSpec | Part | None, defaults: Mapping[str, Any]
) -> tuple[str, dict[str, Any], type[Part] | None]:
    """Return the name, the fields and, if it is not chosen by name, the class of the replacement, or the recipe's.

    `defaults` are fields of the recipe's part that the recipe does not mention in the part itself.
    """
    if isinstance(replacement, type) and issubclass(replacement, PART_TYPES[kind]):
        check_plugin(replacement)
        return replacement.name, {}, replacement
    if isinstance(replacement, PART_TYPES[kind]):
        check_plugin(type(replacement))
        return replacement.name, plain_fields(replacement), type(replacement)
    name, values = _name_and_fields(kind, default)
    values = {**defaults, **values}
    if replacement is not None:
        if not isinstance(replacement, (str, Mapping)):
            raise ConfigError(f"{kind} must be a name, a mapping or an instance, not {shown(replacement)}")
        new_name, new_values = _name_and_fields(kind, replacement)
        if new_name in ("", name):
            values = {**values, **new_values}
        else:
            name, values = new_name, new_values
    return name, values, None


def _needed_sampling(registry: Registry, owners: Mapping[str, _Owner], overrides: Mapping[str, Any]) -> str:
    """Return the name of the first of AUTO_SAMPLINGS that provides what the other parts need."""
    needs: set[Need] = set()
    for kind, owner in owners.items():
        if kind != ALGORITHM:
            values = {name: value for key, value in overrides.items() if (name := _field_of(key, kind)) in owner.params}
            needs |= _Owner(owner.cls, {**owner.values, **values}).build(kind).needs
    provided = {name: registry.part("sampling", name).provides for name in AUTO_SAMPLINGS}  # type: ignore[attr-defined]
    needs &= frozenset().union(*provided.values())
    return next(name for name, provides in provided.items() if needs <= provides)


def _field_of(key: str, kind: str) -> str:
    """Return the field of this kind of part that an override may mean; empty if it has another owner."""
    owner, _, field = str(key).rpartition(".")
    return field if owner in ("", kind) else ""


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


def _refuse_unused(owners: Mapping[str, _Owner], overrides: Mapping[str, Any], plugin: str) -> None:
    """Refuse a hyperparameter of another sampling than the chosen one."""
    sampling = owners["sampling"]
    for key in overrides:
        name = short_name(str(key))
        if name in SAMPLING_KEYWORDS and not any(name in owner.params for owner in owners.values()):
            fields = " and ".join(field for field, param in sampling.params.items() if param.search) or "nothing"
            raise ConfigError(f"{name} has no effect here: {plugin!r} samples {sampling.cls.name}, set by {fields}")


def _owner_and_field(owners: Mapping[str, _Owner], key: str) -> tuple[str, str]:
    """Return the owner and the field that `field` or `owner.field` means."""
    owner, dot, field = key.rpartition(".")
    if owner == ALGORITHM:  # as older files and models say
        owner = "update" if field in UPDATE_FIELDS else "sampling" if field in SAMPLING_KEYWORDS else owner
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
        known = {param for owner in owners.values() for param in owner.params} | {NORMALIZE_ADVANTAGE.name}
        parts = ", ".join(f"{kind} {owners[kind].cls.name!r}" for kind in PART_TYPES)
        raise ConfigError(f"{unknown('hyperparameter', field, known)} (of the algorithm, {parts})")
    return candidates[0], field


def _check_sampling(combination: Combination) -> None:
    sampling, provides = combination.sampling.name, combination.sampling.provides
    if Need.GROUPS not in provides and (part := combination.part_that_needs(Need.GROUPS)):
        raise ConfigError(
            f"{part.kind} {part.name!r} compares episodes from the same initial state, which "
            f"sampling={sampling!r} does not provide; use sampling='groups' or 'auto'"
        )
    if Need.COMPLETE_EPISODES not in provides and (part := combination.part_that_needs(Need.COMPLETE_EPISODES)):
        raise ConfigError(
            f"{part.kind} {part.name!r} needs complete episodes, which sampling={sampling!r} cuts; "
            "use sampling='episodes' or 'auto'"
        )
    if Need.GROUPS in provides:
        return
    if combination.objective.resample_budget is not None:
        raise ConfigError(
            f"objective {combination.objective.name!r} drops and resamples groups, but sampling={sampling!r} has none; "
            "use sampling='groups'"
        )


def _check_advantages(combination: Combination) -> None:
    estimator = combination.estimator
    if Need.ACTION_VALUES not in estimator.provides and (part := combination.part_that_needs(Need.ACTION_VALUES)):
        raise ConfigError(
            f"{part.kind} {part.name!r} uses the Q(s, a) of the estimator, but estimator {estimator.name!r} has none; "
            "use q_value"
        )
    for part in combination.parts.values():
        if Need.ACTION_VALUES in part.needs and type(part).make_state is not Part.make_state:
            raise PluginError(
                f"{part.kind} {part.name!r} is called with the estimator's state, because of Need.ACTION_VALUES, so it "
                "cannot have one of its own"
            )
    if estimator.per_episode and (part := combination.part_that_needs(Need.STEP_RETURNS)):
        raise ConfigError(
            f"{part.kind} {part.name!r} needs one return per step with these settings, but estimator "
            f"{estimator.name!r} gives all steps of an episode the same return; use reward_to_go"
        )
    if consumer := combination.part_that_needs(Need.EPISODE_ADVANTAGES):
        for advantage_part in (estimator, combination.baseline, combination.scale):
            if not advantage_part.per_episode:
                raise ConfigError(
                    f"{consumer.kind} {consumer.name!r} needs one advantage per episode, but {advantage_part.kind} "
                    f"{advantage_part.name!r} gives each step its own; use full_return with group or leave_one_out"
                )


def _check_update(combination: Combination) -> None:
    objective = combination.objective
    update, fields = combination.update, declared(type(combination.update))
    n_epochs, name = getattr(update, "n_epochs", 1), "n_critic_updates"
    if n_epochs > 1 and not combination.allows_epochs:
        raise ConfigError(
            f"objective {objective.name!r} is correct for one epoch only, because the policy moves away from the one "
            f"that sampled; n_epochs={n_epochs} needs an objective such as 'ppo_clip'"
        )
    if not combination.trains_critic and name in fields and getattr(update, name) != fields[name].default:
        provided = Need.VALUES in combination.sampling.provides
        sampling, plugin = combination.sampling.name, combination.plugin
        who = f"sampling {sampling!r} provides" if provided else f"no part of {plugin!r} reads"
        raise ConfigError(f"{name} trains V, which {who}; leave {name} at {fields[name].default}")
    of_actor = "batch_size" not in update.critic_fields
    if of_actor and getattr(update, "batch_size", None) == 1 and combination.scale.name == "minibatch_std":
        raise ConfigError("scale 'minibatch_std' (normalize_advantage: true) needs a batch_size above 1")
