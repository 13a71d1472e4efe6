"""The hooks that a plugin module may implement; mark an implementation with `@pgzoo.hookimpl`.

A package offers its module under the entry-point group `pgzoo`:

    [project.entry-points.pgzoo]
    my_baseline = "my_package.my_baseline"

All hooks are called once, when the registry is built.
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
    """Return the estimator classes that this module offers."""
    raise AssertionError("a specification is never called")


@hookspec
def pgzoo_baselines() -> Iterable[type[Baseline]]:
    """Return the baseline classes that this module offers."""
    raise AssertionError("a specification is never called")


@hookspec
def pgzoo_objectives() -> Iterable[type[Objective]]:
    """Return the objective classes that this module offers."""
    raise AssertionError("a specification is never called")


@hookspec
def pgzoo_recipes() -> Iterable[Recipe]:
    """Return the recipes that this module offers."""
    raise AssertionError("a specification is never called")
