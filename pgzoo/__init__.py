"""pgzoo: a plugin-based zoo of policy-gradient methods for Stable-Baselines3.

Names are loaded when first used: importing pgzoo imports neither torch nor numpy.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from pgzoo._version import __version__ as __version__

if TYPE_CHECKING:
    from pgzoo.algorithm.policy_gradient import PolicyGradient as PolicyGradient
    from pgzoo.errors import ConfigError as ConfigError
    from pgzoo.errors import DivergenceError as DivergenceError
    from pgzoo.errors import EnvironmentFailure as EnvironmentFailure
    from pgzoo.errors import MachineError as MachineError
    from pgzoo.errors import PgzooError as PgzooError
    from pgzoo.errors import PluginError as PluginError
    from pgzoo.export.hub import load_from_hub as load_from_hub
    from pgzoo.export.hub import push_to_hub as push_to_hub
    from pgzoo.interface.action_distribution import ActionDistribution as ActionDistribution
    from pgzoo.interface.batch import Batch as Batch
    from pgzoo.interface.batch import Samples as Samples
    from pgzoo.interface.hookspecs import hookimpl as hookimpl
    from pgzoo.interface.hyperparameters import Positive as Positive
    from pgzoo.interface.hyperparameters import Range as Range
    from pgzoo.interface.hyperparameters import Schedule as Schedule
    from pgzoo.interface.hyperparameters import Search as Search
    from pgzoo.interface.learner import Actor as Actor
    from pgzoo.interface.learner import Learner as Learner
    from pgzoo.interface.observations import map_observations as map_observations
    from pgzoo.interface.parts import PLUGIN_API as PLUGIN_API
    from pgzoo.interface.parts import Baseline as Baseline
    from pgzoo.interface.parts import Estimator as Estimator
    from pgzoo.interface.parts import Objective as Objective
    from pgzoo.interface.parts import Part as Part
    from pgzoo.interface.parts import Recipe as Recipe
    from pgzoo.interface.parts import Sampling as Sampling
    from pgzoo.interface.parts import Scale as Scale
    from pgzoo.interface.parts import Spaces as Spaces
    from pgzoo.interface.parts import Update as Update
    from pgzoo.interface.plans import EnvironmentCopies as EnvironmentCopies
    from pgzoo.interface.plans import Episode as Episode
    from pgzoo.interface.plans import EpisodeEnd as EpisodeEnd
    from pgzoo.interface.plans import Plan as Plan
    from pgzoo.interface.plans import PlanContext as PlanContext
    from pgzoo.interface.plans import RolloutEnd as RolloutEnd
    from pgzoo.interface.plans import StepStart as StepStart
    from pgzoo.interface.reference_policy import ReferencePolicy as ReferencePolicy
    from pgzoo.interface.rollout import Rollout as Rollout
    from pgzoo.interface.rollout import reverse_scan as reverse_scan
    from pgzoo.interface.types import AggregateParam as AggregateParam
    from pgzoo.interface.types import Array as Array
    from pgzoo.interface.types import Metrics as Metrics
    from pgzoo.interface.types import Need as Need
    from pgzoo.interface.types import State as State
    from pgzoo.plots.figure import plot as plot
    from pgzoo.registry.decorators import baseline as baseline
    from pgzoo.registry.decorators import estimator as estimator
    from pgzoo.registry.decorators import objective as objective
    from pgzoo.registry.decorators import scale as scale
    from pgzoo.registry.plugins import Registry as Registry
    from pgzoo.registry.plugins import register as register
    from pgzoo.training.finished_runs import evaluate as evaluate
    from pgzoo.training.runs import train as train
    from pgzoo.tuning.studies import tune as tune


_HOME = {
    "PolicyGradient": "algorithm.policy_gradient",
    "ConfigError": "errors",
    "PgzooError": "errors",
    "PluginError": "errors",
    "DivergenceError": "errors",
    "EnvironmentFailure": "errors",
    "MachineError": "errors",
    "hookimpl": "interface.hookspecs",
    "PLUGIN_API": "interface.parts",
    "ActionDistribution": "interface.action_distribution",
    "AggregateParam": "interface.types",
    "Array": "interface.types",
    "Baseline": "interface.parts",
    "Estimator": "interface.parts",
    "Metrics": "interface.types",
    "Need": "interface.types",
    "Objective": "interface.parts",
    "Part": "interface.parts",
    "Sampling": "interface.parts",
    "Scale": "interface.parts",
    "Update": "interface.parts",
    "Recipe": "interface.parts",
    "Spaces": "interface.parts",
    "State": "interface.types",
    "EnvironmentCopies": "interface.plans",
    "Episode": "interface.plans",
    "EpisodeEnd": "interface.plans",
    "Plan": "interface.plans",
    "PlanContext": "interface.plans",
    "RolloutEnd": "interface.plans",
    "StepStart": "interface.plans",
    "Positive": "interface.hyperparameters",
    "Range": "interface.hyperparameters",
    "Schedule": "interface.hyperparameters",
    "Search": "interface.hyperparameters",
    "ReferencePolicy": "interface.reference_policy",
    "Registry": "registry.plugins",
    "Actor": "interface.learner",
    "Learner": "interface.learner",
    "register": "registry.plugins",
    "train": "training.runs",
    "tune": "tuning.studies",
    "evaluate": "training.finished_runs",
    "plot": "plots.figure",
    "load_from_hub": "export.hub",
    "push_to_hub": "export.hub",
    "baseline": "registry.decorators",
    "estimator": "registry.decorators",
    "objective": "registry.decorators",
    "scale": "registry.decorators",
    "Batch": "interface.batch",
    "Samples": "interface.batch",
    "Rollout": "interface.rollout",
    "map_observations": "interface.observations",
    "reverse_scan": "interface.rollout",
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
