"""Plugins that only this process knows, such as those of a notebook, as the workers of a study get them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cloudpickle

from pgzoo.errors import PluginError, describe
from pgzoo.registry.plugins import Plugin


def pickled(items: Sequence[Plugin]) -> bytes:
    """Return plugins as bytes; empty bytes for none.

    A class is sent by value if it was defined in `__main__`, or in a module that another process cannot import.

    Raises:
        PluginError: a plugin cannot be pickled.
    """
    modules = {type(item).__module__ if not isinstance(item, type) else item.__module__ for item in items}
    with _by_value(sorted(name for name in modules if name != "__main__" and not _importable(name))):
        for item in items:
            try:
                cloudpickle.dumps(item)
            except Exception as error:  # the objects that a plugin refers to may raise anything
                raise PluginError(
                    f"{getattr(item, 'kind', 'recipe')} {item.name!r} is known in this process only, and cannot be "
                    f"sent to the workers: {describe(error)}; define it in a file, and pass plugin_files=[file]"
                ) from error
        return cloudpickle.dumps(list(items)) if items else b""


def _importable(module: str) -> bool:
    """Whether a new process with the same sys.path finds a module."""
    path, names = None, module.split(".")
    for n in range(len(names)):
        name = ".".join(names[: n + 1])
        specs = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return True


@contextmanager
def _by_value(modules: Sequence[str]) -> Iterator[None]:
    """Inside the context, pickle what these modules define by value."""
    for name in modules:
        cloudpickle.register_pickle_by_value(sys.modules[name])
    try:
        yield
    finally:
        for name in modules:
            cloudpickle.unregister_pickle_by_value(sys.modules[name])
