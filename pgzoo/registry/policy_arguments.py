"""The arguments of SB3's policies. SB3 ignores some wrong values silently, so they are declared and checked here."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.hyperparameters import Param, Range, declared, shown

NETWORKS: Final = ("pi", "vf")
"""The keys of a `net_arch` that is a mapping: the policy's layers and the critic's."""

CLASSES: Final = ("activation_fn", "features_extractor_class", "optimizer_class")
"""Arguments that are classes. YAML has their names."""

SET_BY_THE_ALGORITHM: Final = {
    "use_sde": "use_sde is a hyperparameter of its own",
    "lr_schedule": "learning_rate sets the step size",
    "observation_space": "the environment sets it",
    "action_space": "the environment sets it",
}

OPTIMIZER_SET_BY_THE_ALGORITHM: Final = {
    "lr": "learning_rate sets the step size",
    "params": "the policy sets its parameters",
}

OPTIMIZER_OFF: Final = {
    "maximize": "the update would increase the loss",
    "differentiable": "no gradient flows through an update",
    "capturable": "it is for CUDA graphs, which are not used here",
}
"""Arguments of torch's optimizers that must not be true, and why. `foreach` and `fused` only change the speed."""


@dataclass(frozen=True, kw_only=True)
class PolicyArguments:
    """The arguments of SB3's actor-critic policies that a user chooses, with SB3's defaults.

    A class is declared as text, its name or import path. In Python it may be the class itself.
    """

    net_arch: Annotated[
        list[int] | dict[str, list[int]] | None, Range(1, 100_000), "hidden units per layer, or {pi: …, vf: …}"
    ] = None
    activation_fn: Annotated[str, "activation function"] = "Tanh"
    ortho_init: Annotated[bool, "orthogonal initial weights"] = True
    log_std_init: Annotated[float, Range(-20, 20), "initial log standard deviation"] = 0.0
    full_std: Annotated[bool, "gSDE: one standard deviation per feature and action"] = True
    use_expln: Annotated[bool, "gSDE: expln instead of exp for positive standard deviations"] = False
    squash_output: Annotated[bool, "gSDE: squash actions by tanh"] = False
    features_extractor_class: Annotated[str | None, "features extractor"] = None
    features_extractor_kwargs: Annotated[dict[str, Any] | None, "arguments of the features extractor"] = None
    share_features_extractor: Annotated[bool, "one features extractor for policy and critic"] = True
    normalize_images: Annotated[bool, "divide images by 255"] = True
    optimizer_class: Annotated[str, "optimizer"] = "Adam"
    optimizer_kwargs: Annotated[dict[str, Any] | None, "arguments of the optimizer, except its step size"] = None


def checked_policy_kwargs(kwargs: Mapping[str, Any], *, other_names: bool = False) -> dict[str, Any]:
    """Return a policy's arguments, checked and converted to the declared types.

    Args:
        kwargs: the arguments, as in YAML or as in Python.
        other_names: whether other arguments are passed on unchecked, as a policy class of the user's own needs.

    Raises:
        ConfigError: an unknown name, a wrong type, a number out of range, or an argument that the algorithm sets.
    """
    if not isinstance(kwargs, Mapping):
        raise ConfigError(f"policy_kwargs must be a mapping, not {shown(kwargs)}")
    params = declared(PolicyArguments)
    checked: dict[str, Any] = {}
    for name, value in kwargs.items():
        if name in SET_BY_THE_ALGORITHM:
            raise ConfigError(f"policy_kwargs must not contain {name}: {SET_BY_THE_ALGORITHM[name]}")
        if name not in params:
            if not other_names:
                raise ConfigError(f"policy_kwargs: {unknown('argument', str(name), params)}")
            checked[name] = value
        elif name == "net_arch":
            checked[name] = _net_arch(params[name], value)
        else:
            is_class = name in CLASSES and callable(value)
            checked[name] = value if is_class else params[name].validate(value, "policy_kwargs.")
    _check_optimizer_flags(checked.get("optimizer_kwargs") or {})
    return checked


def check_optimizer_class(optimizer_class: type) -> None:
    """Refuse an optimizer such as LBFGS, which evaluates the loss several times in a step.

    Raises:
        ConfigError: its `step` requires a closure.
    """
    closure = inspect.signature(optimizer_class.step).parameters.get("closure")  # type: ignore[attr-defined]  # torch's
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            f"policy_kwargs.optimizer_class: {optimizer_class.__name__} evaluates the loss several times "
            "in a step, which an update on minibatches does not offer"
        )


def checked_optimizer_kwargs(kwargs: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's arguments, converted to the types of its defaults.

    Args:
        kwargs: the arguments.
        defaults: the default of each argument of the optimizer's constructor that has one.

    Raises:
        ConfigError: a value has another type than its default, or is not finite.
    """
    return {name: _like_default(name, value, defaults.get(name)) for name, value in kwargs.items()}


def _net_arch(param: Param, value: Any) -> Any:
    """Return the sizes of the layers. Older versions of SB3 had a list around the mapping, which they still unpack."""
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], Mapping):
        warnings.warn(
            "policy_kwargs.net_arch: write a dict without a list around it, dict(pi=[...], vf=[...]); layers that the "
            "policy and the critic share no longer exist in SB3",
            stacklevel=2,
        )
        value = value[0]
    checked = param.validate(value, "policy_kwargs.")
    for network in checked if isinstance(checked, dict) else ():
        if network not in NETWORKS:
            raise ConfigError(f"policy_kwargs.net_arch: {unknown('network', network, NETWORKS)}")
    return checked


def _check_optimizer_flags(kwargs: Mapping[str, Any]) -> None:
    for name, value in kwargs.items():
        if name in OPTIMIZER_SET_BY_THE_ALGORITHM:
            reason = OPTIMIZER_SET_BY_THE_ALGORITHM[name]
            raise ConfigError(f"policy_kwargs.optimizer_kwargs must not contain {name}: {reason}")
        if name in OPTIMIZER_OFF and value is not False:
            raise ConfigError(f"policy_kwargs.optimizer_kwargs.{name} must be false: {OPTIMIZER_OFF[name]}")


def _like_default(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        hint: Any = bool
    elif isinstance(default, (int, float)):
        hint = float
    elif isinstance(default, tuple) and all(isinstance(item, (int, float)) for item in default):
        hint = tuple[(float,) * len(default)]  # type: ignore[misc]  # a type that is computed
    else:
        return value
    return Param(name, (hint,), default).validate(value, "policy_kwargs.optimizer_kwargs.")
