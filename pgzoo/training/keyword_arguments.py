"""Keyword arguments that a run passes on: to VecNormalize, to Monitor, to the policy and its optimizer.

`checked_arguments` needs neither torch nor Gymnasium, so that a wrong value in YAML is refused at once. The other
functions need what only exists later: the observation space, or the classes that YAML names.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.hyperparameters import Positive, Range, declared
from pgzoo.registry.other_policies import OTHER_POLICIES
from pgzoo.registry.policy_arguments import check_optimizer_class, checked_optimizer_kwargs, checked_policy_kwargs
from pgzoo.training.imports import check_names, load_class, load_object, named

if TYPE_CHECKING:
    from gymnasium import Space

POLICIES: Final = ("auto", "MlpPolicy", "CnnPolicy", "MultiInputPolicy", *OTHER_POLICIES)
"""The policies that have a name. Others are written as an import path."""

Clip = Range(0, open_low=True, infinite=True)
"""The largest absolute value; infinity: do not clip."""


@dataclass(frozen=True, kw_only=True)
class NormalizeArguments:
    """The arguments of VecNormalize that a run chooses, with SB3's defaults. `gamma` defaults to the run's γ."""

    norm_obs: Annotated[bool, "normalise observations"] = True
    norm_reward: Annotated[bool, "divide rewards by the standard deviation of the return"] = True
    clip_obs: Annotated[float, Clip, "largest normalised observation"] = 10.0
    clip_reward: Annotated[float, Clip, "largest normalised reward"] = 10.0
    gamma: Annotated[float, Range(0, 1), "discount of the return whose standard deviation is used"] = 0.99
    epsilon: Annotated[float, Positive, "added to variances"] = 1e-8
    norm_obs_keys: Annotated[list[str] | None, "keys of a Dict observation to normalise; none: all"] = None


@dataclass(frozen=True, kw_only=True)
class MonitorArguments:
    """The arguments of Monitor that a run chooses, with SB3's defaults."""

    allow_early_resets: Annotated[bool, "allow a reset before the end of an episode"] = True
    reset_keywords: Annotated[tuple[str, ...], "arguments of reset to write to the file"] = ()
    info_keywords: Annotated[tuple[str, ...], "infos of the last step to write to the file"] = ()
    override_existing: Annotated[bool, "replace an existing file"] = True


def checked_arguments(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings with checked and converted keyword arguments. It imports neither torch nor Gymnasium.

    Args:
        run: fields of `RunConfig` with validated types.

    Raises:
        ConfigError: an unknown policy, a wrapper or callback in another form, or an unknown or wrong keyword argument.
    """
    checked = dict(run)
    policy = run.get("policy", "auto")
    if policy not in POLICIES and "." not in policy:
        raise ConfigError(
            f"{unknown('policy', policy, POLICIES)}; other policies are import paths, such as mine.MyPolicy"
        )
    if (policy_kwargs := run.get("policy_kwargs")) is not None:
        other_names = policy not in POLICIES or policy in OTHER_POLICIES
        checked["policy_kwargs"] = checked_policy_kwargs(policy_kwargs, other_names=other_names)
    if isinstance(run.get("normalize"), Mapping):
        checked["normalize"] = _declared_arguments(NormalizeArguments, run["normalize"], "normalize")
    if run.get("monitor_kwargs") is not None:
        checked["monitor_kwargs"] = _declared_arguments(MonitorArguments, run["monitor_kwargs"], "monitor_kwargs")
    for key in ("env_wrapper", "vec_env_wrapper", "callback"):
        named(run.get(key))
    return checked


def check_norm_obs_keys(arguments: Mapping[str, Any], space: Space[Any]) -> None:
    """Raise ConfigError if VecNormalize cannot normalise the observations that its arguments choose.

    Args:
        arguments: VecNormalize's arguments, as in `NormalizeArguments`.
        space: the observation space.
    """
    from gymnasium.spaces import Box, Dict

    if not arguments.get("norm_obs", True):
        return
    keys = arguments.get("norm_obs_keys")
    if not isinstance(space, Dict):
        if keys is not None:
            raise ConfigError("normalize.norm_obs_keys is for Dict observations; this environment has " + _kind(space))
        if not isinstance(space, Box):
            raise ConfigError(f"normalize works on Box observations; this environment has {_kind(space)}")
        return
    for key in space.spaces if keys is None else keys:
        if key not in space.spaces:
            raise ConfigError(f"normalize.norm_obs_keys: {unknown('key of the observation', key, space.spaces)}")
        if not isinstance(space.spaces[key], Box):
            raise ConfigError(
                f"normalize works on Box observations, but {key!r} is {_kind(space.spaces[key])}; "
                "name the keys to normalise in norm_obs_keys, or use norm_obs: false"
            )


def load_policy(policy: str) -> Any:
    """Return the policy that `RunConfig.policy` names: SB3's name, or the class at an import path.

    Raises:
        ConfigError: the class cannot be imported, or is not an actor-critic policy of SB3.
    """
    if policy in POLICIES:
        return policy
    from stable_baselines3.common.policies import ActorCriticPolicy

    return load_class(policy, ActorCriticPolicy, "policy")


def policy_arguments(kwargs: Mapping[str, Any], *, use_rms_prop: bool = False) -> dict[str, Any]:
    """Return the policy's arguments with the classes that a YAML entry names.

    Args:
        kwargs: checked by `checked_arguments`.
        use_rms_prop: whether the algorithm uses RMSprop unless `optimizer_class` is set.

    Raises:
        ConfigError: a class cannot be found, or does not take the arguments that are meant for it.
    """
    import torch

    arguments = dict(kwargs)
    for name, base, module in (
        ("activation_fn", torch.nn.Module, torch.nn),
        ("optimizer_class", torch.optim.Optimizer, torch.optim),
    ):
        if isinstance(path := arguments.get(name), str):
            arguments[name] = _class_in(module, path, base, f"policy_kwargs.{name}")
    if "optimizer_class" in arguments:
        check_optimizer_class(arguments["optimizer_class"])
    extractor_kwargs = arguments.get("features_extractor_kwargs") or {}
    if isinstance(path := arguments.get("features_extractor_class"), str):
        arguments["features_extractor_class"], _ = load_object(path, extractor_kwargs)
    if optimizer_kwargs := arguments.get("optimizer_kwargs"):
        if use_rms_prop and "optimizer_class" not in arguments:
            raise ConfigError(
                "policy_kwargs.optimizer_kwargs has no effect with use_rms_prop; name optimizer_class too"
            )
        optimizer_class = arguments.get("optimizer_class", torch.optim.Adam)
        where = f"policy_kwargs.optimizer_kwargs of {optimizer_class.__name__}"
        check_names(optimizer_class, optimizer_kwargs, where)
        parameters = inspect.signature(optimizer_class).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
        arguments["optimizer_kwargs"] = checked_optimizer_kwargs(optimizer_kwargs, defaults)
    return arguments


def _declared_arguments(cls: type, kwargs: Mapping[str, Any], where: str) -> dict[str, Any]:
    params = declared(cls)
    for name in kwargs:
        if name not in params:
            raise ConfigError(f"{where}: {unknown('argument', name, params)}")
    return {name: params[name].validate(value, f"{where}.") for name, value in kwargs.items()}


def _class_in(module: Any, path: str, base: type, where: str) -> type:
    """Return the class of a torch module by its name, in any case, such as `relu` or `nn.ReLU`, or by import path."""
    prefix, _, name = path.rpartition(".")
    short = module.__name__.rpartition(".")[2]
    if prefix not in ("", short, f"th.{short}", f"torch.{short}"):
        return load_class(path, base, where)
    members = vars(module)
    classes = {key.lower(): key for key in members if isinstance(members[key], type) and issubclass(members[key], base)}
    if name.lower() not in classes:
        raise ConfigError(f"{where}: {unknown(where.rpartition('.')[2], name, classes.values())}")
    found: type = members[classes[name.lower()]]
    return found


def _kind(space: Space[Any]) -> str:
    return type(space).__name__
