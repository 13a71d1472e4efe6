"""Which classes the parts of a saved model are. A file names them, but never causes an import."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pgzoo.errors import PluginError, converted
from pgzoo.interface.hyperparameters import shown
from pgzoo.interface.parts import Part
from pgzoo.registry.plugins import PLUGIN_PATH, Kind, Registry, class_path, living_part


def passed_classes(plugins: Iterable[type[Part] | str]) -> list[type[Part]]:
    """Return the classes of parts in the argument `plugins` of `load`. Modules are imported.

    Raises:
        PluginError: a module cannot be imported, or an item is neither a class of a part nor a name.
    """
    classes: list[type[Part]] = []
    for item in [plugins] if isinstance(plugins, (str, type)) else plugins:
        if isinstance(item, str):
            with converted(f"plugins={item!r}: cannot import the module", PluginError):
                members = vars(importlib.import_module(item)).values()
            classes += [member for member in members if _is_part(member) and member.__module__ == item]
        elif _is_part(item):
            classes.append(item)
        else:
            raise PluginError(f"plugins must contain classes of parts and names of modules, not {shown(item)}")
    return classes


def _is_part(item: Any) -> bool:
    """Whether an object is the class of a part that can be used: it has a name."""
    return isinstance(item, type) and issubclass(item, Part) and isinstance(getattr(item, "name", None), str)


def saved_classes(
    registry: Registry, parts: Mapping[Kind, Mapping[str, Any]], classes: Sequence[type[Part]]
) -> list[type[Part]]:
    """Return the classes of a saved model's parts.

    Raises:
        PluginError: a class is not found.
    """
    passed = {(cls.kind, cls.name): cls for cls in classes}
    found: list[type[Part]] = []
    for kind, part in parts.items():
        name, path = part["name"], part["class"]
        registered = registry.part(kind, name) if name in registry.names(kind) else None
        if registered is not None and path in ("", class_path(registered)):
            cls: type[Part] | None = registered
        else:
            cls = living_part(kind, name, path)
        cls = passed.get((kind, name), cls)
        if cls is None and registered is not None:
            warnings.warn(
                f"this model was saved with the {kind} {name!r} of {part['distribution']}; now it uses that of "
                f"{registry.source(kind, name)}",
                stacklevel=2,
            )
            cls = registered
        if cls is None:
            raise PluginError(_not_found(kind, name, part["distribution"]))
        found.append(cls)
    return found


def _not_found(kind: Kind, name: str, source: str) -> str:
    """Return the message for a part that is not found, with what makes it known."""
    where, _, path = source.partition(" ")
    remedies = {
        "module": f"Import {path}, or pass plugins=[{path!r}] or the class itself to load.",
        "file": f"Pass --plugin-file {path}, or set {PLUGIN_PATH}.",
    }
    message = f"this model uses the {kind} {name!r} of {source}, which is not installed"
    return f"{message}\n{remedies[where]}" if where in remedies else message
