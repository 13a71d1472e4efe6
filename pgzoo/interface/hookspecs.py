"""The hook by which a module registers its plugins. Mark an implementation with `@pgzoo.hookimpl`.

A distribution names its module in the entry-point group `pgzoo`:

    [project.entry-points.pgzoo]
    my_plugins = "my_package"

A file that `--plugin-file` or PGZOO_PLUGINS names needs no entry point. What a module registers while it is imported,
with `pgzoo.register` or a decorator such as `@pgzoo.baseline`, needs no hook.

If the hook raises, or returns something that breaks the interface, nothing from it is registered and
`Registry.failures` holds the error. A name that is already taken raises PluginError.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from pgzoo.interface.parts import Part, Recipe

PROJECT = "pgzoo"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def pgzoo_plugins() -> Iterable[type[Part] | Recipe]:
    """Register parts and recipes. Called once, after the module is imported.

    The parts of a recipe are looked up when the recipe is used. They may come from other plugins.

    Returns:
        Classes of parts (not instances) and recipes. Their `name` must be unique among those of their kind.
    """
    return ()
