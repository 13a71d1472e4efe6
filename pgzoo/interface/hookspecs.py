"""The hooks by which a plugin module registers its parts and recipes. Mark an implementation with `@pgzoo.hookimpl`.

A package names its module in the entry-point group `pgzoo`:

    [project.entry-points.pgzoo]
    my_baseline = "my_package.my_baseline"

A file that is passed with `--plugin-file` needs no entry point. A module may implement any of the hooks. They take no
arguments, and each is called once when a registry loads the module.

If a hook raises, or returns something that breaks the interface, nothing from it is registered and `Registry.failures`
holds the error. A name that is already taken raises PluginError.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from pgzoo.interface.parts import Baseline, Estimator, Objective, Recipe

PROJECT = "pgzoo"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def pgzoo_estimators() -> Iterable[type[Estimator]]:
    """Register estimators. Called first, after the module is imported.

    Returns:
        The estimator classes (not instances) of this module. Their `name` must be unique among estimators.
    """
    return ()


@hookspec
def pgzoo_baselines() -> Iterable[type[Baseline]]:
    """Register baselines. Called after `pgzoo_estimators`.

    Returns:
        The baseline classes (not instances) of this module. Their `name` must be unique among baselines.
    """
    return ()


@hookspec
def pgzoo_objectives() -> Iterable[type[Objective]]:
    """Register objectives. Called after `pgzoo_baselines`.

    Returns:
        The objective classes (not instances) of this module. Their `name` must be unique among objectives.
    """
    return ()


@hookspec
def pgzoo_recipes() -> Iterable[Recipe]:
    """Register recipes. Called after `pgzoo_objectives`.

    The parts of a recipe are looked up when the recipe is used. They may come from other plugins.

    Returns:
        The recipes of this module. Their `name` must be unique among recipes.
    """
    return ()
