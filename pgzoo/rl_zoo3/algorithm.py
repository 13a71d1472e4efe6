"""A recipe as a class that RL Zoo creates and loads like one of SB3's algorithms."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from pgzoo.algorithm.policies import policy_for
from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.backends.masks import has_masks
from pgzoo.errors import ConfigError
from pgzoo.registry.settings import short_name
from pgzoo.training.keyword_arguments import policy_arguments

OF_PARTS = ("estimator.gae_lambda", "objective.clip_range", "objective.clip_range_vf")
"""Hyperparameters of parts that are keyword arguments without their owner."""

LOAD_ARGUMENTS = ("custom_objects", "print_system_info", "force_reset")
"""Arguments of SB3's `load` that the signature of `PolicyGradient.load` does not name."""


class RecipeAlgorithm(PolicyGradient):
    """`PolicyGradient` with a recipe as its default.

    All hyperparameters are keyword arguments, those of parts with their owner where it is needed. RL Zoo replaces
    keyword arguments one by one, which it could not do inside `plugin_kwargs`.
    """

    recipe: ClassVar[str]

    def __init__(self, policy: Any, env: Any = None, plugin: Any = None, **hyperparams: Any) -> None:
        if policy == "auto":
            policy = policy_for(env.observation_space, masks=has_masks(env))[0]
        super().__init__(policy, env, plugin or self.recipe, **_arguments(hyperparams))

    @classmethod
    def load(cls, path: Any, env: Any = None, device: Any = "auto", plugins: Any = (), **hyperparams: Any) -> Any:  # type: ignore[override]
        """Load a model as `PolicyGradient.load` does. RL Zoo passes the hyperparameters of its configuration, too."""
        if "policy" in hyperparams or "plugin" in hyperparams:
            raise ConfigError(f"{path} has its own plugin and policy; give neither")
        return super().load(path, env, device, plugins, **_arguments(hyperparams))


def keyword_of(key: str) -> str:
    """Return the shortest keyword argument for a hyperparameter: `gamma` for `algorithm.gamma`."""
    return key.rpartition(".")[2] if key in OF_PARTS else short_name(key)


def _arguments(hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `PolicyGradient`, which has the other hyperparameters of parts in `plugin_kwargs`."""
    signatures = [inspect.signature(function) for function in (PolicyGradient.__init__, PolicyGradient.load)]
    keywords = {*LOAD_ARGUMENTS, *(name for signature in signatures for name in signature.parameters)}
    arguments = {name: as_data(value) for name, value in hyperparams.items() if name in keywords}
    others = {name: as_data(value) for name, value in hyperparams.items() if name not in keywords}
    if others:
        arguments["plugin_kwargs"] = {**(arguments.get("plugin_kwargs") or {}), **others}
    if arguments.get("policy_kwargs"):
        arguments["policy_kwargs"] = policy_arguments(arguments["policy_kwargs"])
    return arguments


def as_data(value: Any) -> Any:
    """Return a schedule of RL Zoo as data, which is saved without a pickle. Other values stay what they are."""
    if type(value).__name__ == "ConstantSchedule":
        return value.val
    if type(value).__name__ == "SimpleLinearSchedule":
        return {"schedule": "linear", "initial": value.initial_value}
    return value
