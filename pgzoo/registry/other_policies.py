"""The names of policies that are not SB3's: sb3-contrib's, those made of them, and pgzoo's own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from pgzoo.errors import ConfigError

MASKABLE, RECURRENT = "sb3_contrib.common.maskable.policies", "sb3_contrib.common.recurrent.policies"
BOTH = "pgzoo.algorithm.maskable_lstm"
OTHER_POLICIES: Final[Mapping[str, tuple[str, str]]] = {
    "MaskableMlpPolicy": (MASKABLE, "MaskableActorCriticPolicy"),
    "MaskableCnnPolicy": (MASKABLE, "MaskableActorCriticCnnPolicy"),
    "MaskableMultiInputPolicy": (MASKABLE, "MaskableMultiInputActorCriticPolicy"),
    "MlpLstmPolicy": (RECURRENT, "RecurrentActorCriticPolicy"),
    "CnnLstmPolicy": (RECURRENT, "RecurrentActorCriticCnnPolicy"),
    "MultiInputLstmPolicy": (RECURRENT, "RecurrentMultiInputActorCriticPolicy"),
    "MaskableMlpLstmPolicy": (BOTH, "MaskableLstmPolicy"),
    "MaskableCnnLstmPolicy": (BOTH, "MaskableCnnLstmPolicy"),
    "MaskableMultiInputLstmPolicy": (BOTH, "MaskableMultiInputLstmPolicy"),
    "AsymmetricPolicy": ("pgzoo.algorithm.asymmetric", "AsymmetricPolicy"),
}
"""By name, the module and class of a policy."""


def other_policy(policy: Any) -> Any:
    """Return the class of a name such as "MaskableMlpPolicy". Anything else is returned as it is.

    Raises:
        ConfigError: sb3-contrib is not installed.
    """
    if not isinstance(policy, str) or policy not in OTHER_POLICIES:
        return policy
    module, name = OTHER_POLICIES[policy]
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError(f"{policy} needs sb3-contrib: pip install 'pgzoo[contrib]'") from error
