"""Other ways to write a scale: SB3's `normalize_advantage`, and the option `scale` of the baseline `group`.

    normalize_advantage: true      scale: minibatch_std
    normalize_advantage: rollout   scale: rollout_std
    normalize_advantage: false     none of these two
    baseline.scale: group          scale: group_std
    baseline.scale: batch          scale: batch_std
    baseline.scale: none           scale: none

Ψ has one scale: a normalisation replaces that of the group. The process form of `group` has the scale of rewards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pgzoo.errors import ConfigError
from pgzoo.interface.hyperparameters import Param, Search, declared, shown
from pgzoo.interface.parts import Baseline, Part, PartSpec, Recipe, Scale

if TYPE_CHECKING:
    from pgzoo.registry.plugins import Registry


@dataclass(frozen=True, kw_only=True)
class _Declarations:
    normalize_advantage: Annotated[
        bool | Literal["rollout", "minibatch"],
        Search(choices=(False, True)),
        "Ψ to mean 0 and standard deviation 1, a scale; true: minibatch_std, as in SB3",
    ] = False
    scale: Annotated[
        Literal["group", "batch", "none"],
        Search(choices=("group", "batch", "none")),
        "whose standard deviation Ψ is divided by, a scale",
    ] = "group"


@dataclass(frozen=True)
class Spelling:
    """Another way to write a scale.

    Attributes:
        key: the hyperparameter, `owner.name`.
        label: its name in a study.
        scales: the name of the scale that each value means.
    """

    key: str
    label: str
    scales: Mapping[Any, str]

    @property
    def name(self) -> str:
        """The hyperparameter as users write it, without the owner `algorithm`."""
        return self.key.removeprefix("algorithm.")

    @property
    def param(self) -> Param:
        """The declaration of the hyperparameter."""
        return declared(_Declarations)[self.key.rpartition(".")[2]]

    def value(self, scale: Part) -> Any:
        """Return the first value that means this scale; otherwise False, or None if False is not a value."""
        values = [value for value, name in self.scales.items() if name == scale.name]
        return next(iter(values), False if bool in self.param.types else None)


NORMALIZE_ADVANTAGE: Final = Spelling(
    "algorithm.normalize_advantage",
    "normalize_advantage",
    {True: "minibatch_std", "minibatch": "minibatch_std", "rollout": "rollout_std"},
)
GROUP_SCALE: Final = Spelling(
    "baseline.scale", "group.scale", {"group": "group_std", "batch": "batch_std", "none": "none"}
)
SPELLINGS: Final = {spelling.key: spelling for spelling in (NORMALIZE_ADVANTAGE, GROUP_SCALE)}
NORMALIZING: Final = frozenset(NORMALIZE_ADVANTAGE.scales.values())
OF_REWARDS: Final = {"of": "rewards"}
"""The field of `group_std` and `batch_std` with which they divide by the standard deviation of rewards."""


def normalization(scale: Part) -> bool | str:
    """Return the `normalize_advantage` that a scale means."""
    value: bool | str = NORMALIZE_ADVANTAGE.value(scale)
    return value


def with_normalization(registry: Registry, scale: Scale, value: Any) -> Scale:
    """Return the scale that replaces another one if `normalize_advantage` is set to a value.

    Raises:
        ConfigError: the value is wrong.
    """
    value = NORMALIZE_ADVANTAGE.param.validate(value)
    if not value and scale.name not in NORMALIZING:
        return scale
    return registry.part("scale", NORMALIZE_ADVANTAGE.scales[value] if value else "none")()  # type: ignore[return-value]


def default_scale(baseline: str) -> str:
    """Return the scale that a baseline comes with if no scale is chosen."""
    return "group_std" if baseline == "group" else "none"


def spellings_for(baseline: Baseline, scale: Scale) -> Iterator[Spelling]:
    """Yield the other ways in which the scale of a combination can be written."""
    if any(scale.name in spelling.scales.values() for spelling in SPELLINGS.values()):
        yield NORMALIZE_ADVANTAGE
        if _is_group(baseline.name, type(baseline)):
            yield GROUP_SCALE


def spelled_scale(
    recipe: Recipe,
    scale: PartSpec | Part | None,
    baseline: type[Any],
    fields: dict[str, Any],
    overrides: dict[str, Any],
) -> PartSpec | Part | None:
    """Return what replaces the recipe's scale, and remove every other spelling of it from `fields` and `overrides`.

    Args:
        recipe: its scale is the default.
        scale: the scale that was chosen as a part of its own; None: the recipe's.
        baseline: the class of the baseline.
        fields: the fields of the baseline.
        overrides: values by hyperparameter.

    Raises:
        ConfigError: a value is wrong, or two spellings contradict each other.
    """
    is_group = _is_group(baseline.name, baseline)
    normalize = _taken(NORMALIZE_ADVANTAGE, overrides, "normalize_advantage")
    group_scale = None
    if is_group:
        group_scale = _taken(GROUP_SCALE, fields, "scale") or _taken(GROUP_SCALE, overrides)
    if scale in ("group", "batch"):
        group_scale, scale = scale, None
    if scale is not None and not (isinstance(scale, Mapping) and "name" not in scale):
        _check_same(_name(scale), normalize, group_scale)
        return scale

    name = _name(recipe.scale)
    if normalize is False and name in NORMALIZING:
        name = "none"
    if name not in NORMALIZING and _name(recipe.baseline) != baseline.name:
        name = default_scale(baseline.name)
    if normalize:
        name = NORMALIZE_ADVANTAGE.scales[normalize]
    elif group_scale is not None:
        name = GROUP_SCALE.scales[group_scale]
    forms = (fields.get("form"), overrides.get("form"), overrides.get("baseline.form"))
    of_rewards = OF_REWARDS if is_group and "process" in forms and name in ("group_std", "batch_std") else {}
    if isinstance(recipe.scale, Mapping) and "of" in recipe.scale:
        of_rewards = {}
    if name == _name(recipe.scale) and not of_rewards:
        return scale
    return {"name": name, **of_rewards, **(scale or {})}


def _check_same(name: str, normalize: Any, group_scale: str | None) -> None:
    """Raise ConfigError if another spelling means another scale than the one that was chosen."""
    same = NORMALIZE_ADVANTAGE.scales[normalize] == name if normalize else name not in NORMALIZING
    if normalize is not None and not same:
        raise ConfigError(f"scale is given twice, as {name!r} and as normalize_advantage={normalize!r}")
    if group_scale is not None and GROUP_SCALE.scales[group_scale] != name:
        raise ConfigError(f"scale is given twice, as {name!r} and as baseline.scale={group_scale!r}")


def superseded(overrides: Mapping[str, Any], values: Mapping[str, Any]) -> set[str]:
    """Return the names in an entry's values that overrides of the scale replace."""
    label, key = NORMALIZE_ADVANTAGE.name, NORMALIZE_ADVANTAGE.key
    if "scale" in overrides:
        return {label}
    normalize = overrides.get(label, overrides.get(key))
    if normalize is None or (normalize is False and _name(values.get("scale", "")) not in NORMALIZING):
        return set()
    return {"scale"}


def _is_group(name: str, baseline: Any) -> bool:
    """Whether a baseline is `group` without a field `scale` of its own."""
    return name == "group" and "scale" not in declared(baseline)


def _taken(spelling: Spelling, values: dict[str, Any], *names: str) -> Any:
    """Remove a spelling from a mapping, and return its checked value; None if it is not there."""
    chosen = {name: values.pop(name) for name in (*names, spelling.key) if name in values}
    first, *others = chosen.values() or (None,)
    for other in others:
        if other != first:
            raise ConfigError(f"{next(iter(chosen))} is given twice, as {shown(first)} and {shown(other)}")
    where = spelling.name.removesuffix(spelling.param.name)
    return spelling.param.validate(first, where) if chosen else None


def _name(part: PartSpec | Part) -> str:
    if isinstance(part, Mapping):
        return str(part.get("name", ""))
    return part if isinstance(part, str) else str(getattr(part, "name", ""))
