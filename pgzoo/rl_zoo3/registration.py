"""Registers recipes with RL Zoo: the class, the sampler and converter of a study, and the default configuration."""

from __future__ import annotations

import functools
import importlib.resources
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from optuna.trial import FixedTrial

from pgzoo.errors import ConfigError
from pgzoo.registry.combination import DEFAULT_RECIPE, resolve
from pgzoo.registry.plugins import PART_TYPES, Registry, default_registry
from pgzoo.rl_zoo3.algorithm import RecipeAlgorithm, keyword_of
from pgzoo.training.config import RL_ZOO_N_ENVS, ExperimentConfig, load_config
from pgzoo.training.yaml_files import parse_yaml_mapping
from pgzoo.tuning.space import Entries, Space, make_space

NAME = "pgzoo"
"""The name of the default recipe in RL Zoo."""
ANY_ENVIRONMENT = "default"
"""The entry of `hyperparams/` for environments without their own."""


def register(*plugins: str, registry: Registry | None = None) -> dict[str, str]:
    """Register recipes and combinations with RL Zoo, and return them by the name that `--algo` takes.

        import pgzoo.rl_zoo3

        pgzoo.rl_zoo3.register()
        from rl_zoo3.train import train

    `pgzoo` is the default recipe. A recipe has its own name, or `pgzoo-ppo` where RL Zoo has an algorithm of that name.

    Args:
        plugins: combinations `estimator+baseline[+objective]` to register in addition to all recipes.
        registry: the plugins; None for the installed ones.

    Raises:
        PgzooError: rl_zoo3 is not installed, or a name is unknown.
    """
    try:
        from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
        from rl_zoo3.utils import ALGOS
    except ImportError as error:
        raise ConfigError(f"RL Zoo cannot be imported ({error}): pip install 'pgzoo[rl-zoo]'") from error
    registry = registry or default_registry()
    for plugin in plugins:
        resolve(registry, plugin)
    taken = {name for name, cls in ALGOS.items() if not issubclass(cls, RecipeAlgorithm)}
    names = {NAME: DEFAULT_RECIPE}
    names |= {f"{NAME}-{plugin}" if plugin in taken else plugin: plugin for plugin in [*registry.recipes(), *plugins]}
    for name, plugin in names.items():
        ALGOS[name] = type("PolicyGradient", (_with_registry(registry),), {"recipe": plugin})
        HYPERPARAMS_SAMPLER[name] = functools.partial(_sample, registry, plugin)
        HYPERPARAMS_CONVERTER[name] = functools.partial(_convert, registry, plugin)
        sys.modules[configuration(name)] = _configuration(configuration(name), registry, plugin)
    return names


def configuration(name: str) -> str:
    """Return the module that has pgzoo's settings of a registered algorithm, as RL Zoo's `--conf-file` takes it."""
    return f"pgzoo.rl_zoo3.settings.{name}"


def _with_registry(registry: Registry) -> type[RecipeAlgorithm]:
    """Return the class of models whose parts come from a registry."""
    if registry is default_registry():
        return RecipeAlgorithm

    class WithRegistry(RecipeAlgorithm):
        def __init__(self, *arguments: Any, **hyperparams: Any) -> None:
            super().__init__(*arguments, **{"registry": registry, **hyperparams})

    return WithRegistry


@functools.cache
def _space(registry: Registry, plugin: str) -> Space:
    """Return the space of a model's arguments. RL Zoo chooses the number of environments and their normalisation."""
    return make_space(registry, Entries(ANY_ENVIRONMENT), [plugin], fixed={"n_envs": RL_ZOO_N_ENVS, "normalize": False})


def _sample(registry: Registry, plugin: str, trial: Any, *_: Any) -> dict[str, Any]:
    """Return the hyperparameters that a trial draws from the declared search ranges."""
    drawn = _space(registry, plugin).suggest(trial)[1]
    return {keyword_of(key): value for key, value in drawn.items()}


def _convert(registry: Registry, plugin: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of a trial's parameters, as a study stores them."""
    return _sample(registry, plugin, FixedTrial(dict(params)))


def _configuration(name: str, registry: Registry, plugin: str) -> ModuleType:
    """Return a module with the attribute `hyperparams`, which is read only if it is used."""
    module = ModuleType(name)

    def __getattr__(attribute: str) -> Any:
        if attribute != "hyperparams":
            raise AttributeError(attribute)
        return {env: _entry(load_config(registry, plugin, env)) for env in _environments(plugin)}

    module.__dict__["__getattr__"] = __getattr__
    return module


def _environments(plugin: str) -> list[str]:
    """Return the entries of a recipe's file in `hyperparams/`."""
    resource = importlib.resources.files("pgzoo.hyperparams") / f"{plugin}.yml"
    text = resource.read_text(encoding="utf-8") if resource.is_file() else ""
    return [*(parse_yaml_mapping(plugin, text).values if text else {}), ANY_ENVIRONMENT]


def _entry(config: ExperimentConfig) -> dict[str, Any]:
    """Return an entry of `hyperparams/` as RL Zoo reads it."""
    run, gamma = config.run, config.combination.algorithm.gamma
    entry: dict[str, Any] = {"policy": run.policy, "n_timesteps": run.n_timesteps, "n_envs": run.n_envs, "gamma": gamma}
    for name in ("normalize", "frame_stack", "env_wrapper", "vec_env_wrapper", "callback", "monitor_kwargs"):
        if getattr(run, name):
            entry[name] = getattr(run, name)
    if run.policy_kwargs:
        entry["policy_kwargs"] = dict(run.policy_kwargs)
    limit = {} if run.max_episode_steps is None else {"max_episode_steps": run.max_episode_steps}
    if env_kwargs := {**(run.env_kwargs or {}), **limit}:
        entry["env_kwargs"] = env_kwargs
    settings = set(vars(run))
    for key, value in config.entry.items():
        if key not in settings:
            entry[key if key in PART_TYPES else keyword_of(key)] = _written(value)
    return entry


def _written(value: Any) -> Any:
    """Return a linear schedule to 0 as RL Zoo writes it."""
    if isinstance(value, Mapping) and set(value) == {"schedule", "initial"} and value["schedule"] == "linear":
        return f"lin_{value['initial']}"
    return value
