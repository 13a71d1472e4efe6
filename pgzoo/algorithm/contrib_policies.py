"""The policies of sb3-contrib: their names, and what SB3's constructor does not know about them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from pgzoo.backends.masks import takes_masks
from pgzoo.errors import ConfigError

CONTRIB_POLICIES: Final[Mapping[str, tuple[str, str]]] = {
    f"Maskable{name}": ("sb3_contrib.common.maskable.policies", f"Maskable{cls}")
    for name, cls in (
        ("MlpPolicy", "ActorCriticPolicy"),
        ("CnnPolicy", "ActorCriticCnnPolicy"),
        ("MultiInputPolicy", "MultiInputActorCriticPolicy"),
    )
}
"""By name, the module and class of a policy."""


def contrib_policy(policy: Any) -> Any:
    """Return the class of a name such as "MaskableMlpPolicy". Anything else is returned as it is.

    Raises:
        ConfigError: sb3-contrib is not installed.
    """
    if not isinstance(policy, str) or policy not in CONTRIB_POLICIES:
        return policy
    module, name = CONTRIB_POLICIES[policy]
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError(f"{policy} needs sb3-contrib: pip install 'pgzoo[contrib]'") from error


def is_policy_class(policy: Any) -> bool:
    """Whether a class is a policy of sb3-contrib that takes masks. It is no subclass of SB3's ActorCriticPolicy."""
    from stable_baselines3.common.policies import BasePolicy

    return isinstance(policy, type) and issubclass(policy, BasePolicy) and takes_masks(policy)


def check_takes_masks(policy: Any) -> None:
    """Raise ConfigError unless the policy takes action masks."""
    if not takes_masks(type(policy)):
        raise ConfigError(
            f"the policy {type(policy).__name__} takes no action_masks; train with 'MaskableMlpPolicy', or another "
            "maskable policy of sb3-contrib"
        )


@contextmanager
def accepting_use_sde(model: Any) -> Iterator[None]:
    """Let SB3 construct a policy class that lacks the argument `use_sde`, which SB3 always passes."""
    policy_class = model.policy_class
    if "use_sde" in inspect.signature(policy_class).parameters:
        yield
        return

    def make(*arguments: Any, use_sde: bool = False, **kwargs: Any) -> Any:
        return policy_class(*arguments, **kwargs)

    model.policy_class = make
    try:
        yield
    finally:
        model.policy_class = policy_class
