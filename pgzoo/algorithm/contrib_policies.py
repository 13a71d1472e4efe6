"""What SB3's constructor does not know about the policies of sb3-contrib, and what these cannot do."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pgzoo.backends.masks import takes_masks
from pgzoo.errors import ConfigError
from pgzoo.interface.sequences import is_recurrent
from pgzoo.interface.types import Need
from pgzoo.registry.combination import Combination


def is_policy_class(policy: Any) -> bool:
    """Whether a class is a policy of sb3-contrib that takes masks. It is not a subclass of ActorCriticPolicy."""
    from stable_baselines3.common.policies import BasePolicy

    return isinstance(policy, type) and issubclass(policy, BasePolicy) and takes_masks(policy)


def check_takes_masks(policy: Any) -> None:
    """Raise ConfigError unless the policy takes action masks."""
    if not takes_masks(type(policy)):
        raise ConfigError(
            f"the policy {type(policy).__name__} takes no action_masks; train with 'MaskableMlpPolicy', or another "
            "maskable policy of sb3-contrib"
        )


def check_recurrent(policy_class: type, combination: Combination) -> None:
    """Refuse what the parts of a combination need of the policy and a recurrent one does not have.

    Raises:
        ConfigError: a part needs it.
    """
    if not is_recurrent(policy_class):
        return
    unavailable = {Need.DISTRIBUTION: "the distribution over actions", Need.SCORES: "the norms of scores"}
    for kind, part in combination.parts.items():
        for need, what in unavailable.items():
            if need in part.needs:
                raise ConfigError(
                    f"{kind} {part.name!r} needs {what} of the policy, which a recurrent one does not give"
                )
    if combination.estimator.recompute == "epoch":
        raise ConfigError("recompute='epoch' evaluates single steps; a recurrent policy needs recompute='rollout'")


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
