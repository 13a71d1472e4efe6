"""The built-in plugins of pgzoo, one short file each. They import only names that pgzoo exports."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from pgzoo import Part, Recipe, hookimpl


@hookimpl
def pgzoo_plugins() -> Iterator[type[Part] | Recipe]:
    """Register the plugins of every module in this folder whose name does not begin with an underscore."""
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            yield from importlib.import_module(f"{__name__}.{module.name}").pgzoo_plugins()
