"""pgzoo: a plugin-based zoo of policy-gradient methods for Stable-Baselines3.

Names are loaded when first used: importing pgzoo imports neither torch nor numpy.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgzoo.algorithm import PolicyGradient as PolicyGradient
    from pgzoo.errors import ConfigError as ConfigError
    from pgzoo.errors import PgzooError as PgzooError
    from pgzoo.errors import PluginError as PluginError
    from pgzoo.hookspecs import hookimpl as hookimpl
    from pgzoo.interfaces import PLUGIN_API as PLUGIN_API
    from pgzoo.interfaces import AggregateParam as AggregateParam
    from pgzoo.interfaces import Array as Array
    from pgzoo.interfaces import Baseline as Baseline
    from pgzoo.interfaces import Estimator as Estimator
    from pgzoo.interfaces import Metrics as Metrics
    from pgzoo.interfaces import Need as Need
    from pgzoo.interfaces import Objective as Objective
    from pgzoo.interfaces import Recipe as Recipe
    from pgzoo.interfaces import Spaces as Spaces
    from pgzoo.interfaces import State as State
    from pgzoo.params import Range as Range
    from pgzoo.params import Schedule as Schedule
    from pgzoo.params import Search as Search
    from pgzoo.reference import ReferencePolicy as ReferencePolicy
    from pgzoo.registry import Registry as Registry
    from pgzoo.rollout import Batch as Batch
    from pgzoo.rollout import Rollout as Rollout
    from pgzoo.rollout import reverse_scan as reverse_scan

__version__ = "0.1.0"

_HOME = {
    "PolicyGradient": "algorithm",
    "ConfigError": "errors",
    "PgzooError": "errors",
    "PluginError": "errors",
    "hookimpl": "hookspecs",
    "PLUGIN_API": "interfaces",
    "AggregateParam": "interfaces",
    "Array": "interfaces",
    "Baseline": "interfaces",
    "Estimator": "interfaces",
    "Metrics": "interfaces",
    "Need": "interfaces",
    "Objective": "interfaces",
    "Recipe": "interfaces",
    "Spaces": "interfaces",
    "State": "interfaces",
    "Range": "params",
    "Schedule": "params",
    "Search": "params",
    "ReferencePolicy": "reference",
    "Registry": "registry",
    "Batch": "rollout",
    "Rollout": "rollout",
    "reverse_scan": "rollout",
}
__all__ = sorted(_HOME)


if "gymnasium" in sys.modules:  # else pgzoo.envs registers them once it is used
    importlib.import_module("pgzoo.envs")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pgzoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"pgzoo.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
