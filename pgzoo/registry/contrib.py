"""The names of sb3-contrib's policies, and of those that are made of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from pgzoo.errors import ConfigError

MASKABLE, RECURRENT = "sb3_contrib.common.maskable.policies", "sb3_contrib.common.recurrent.policies"
BOTH = "pgzoo.algorithm.maskable_lstm"
CONTRIB_POLICIES: Final[Mapping[str, tuple[str, str]]] = {
    "MaskableMlpPolicy": (MASKABLE, "MaskableActorCriticPolicy"),
    "MaskableCnnPolicy": (MASKABLE, "MaskableActorCriticCnnPolicy"),
    "MaskableMultiInputPolicy": (MASKABLE, "MaskableMultiInputActorCriticPolicy"),
    "MlpLstmPolicy": (RECURRENT, "RecurrentActorCriticPolicy"),
    "CnnLstmPolicy": (RECURRENT, "RecurrentActorCriticCnnPolicy"),
    "MultiInputLstmPolicy": (RECURRENT, "RecurrentMultiInputActorCriticPolicy"),
    "MaskableMlpLstmPolicy": (BOTH, "MaskableLstmPolicy"),
    "MaskableCnnLstmPolicy": (BOTH, "MaskableCnnLstmPolicy"),
    "MaskableMultiInputLstmPolicy": (BOTH, "MaskableMultiInputLstmPolicy"),
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
