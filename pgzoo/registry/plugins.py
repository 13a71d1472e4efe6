"""The registry: finds plugins by entry point or file, checks them, and explains those that fail.

`register` makes a class or a recipe known in this process. In a module that a registry is just loading, it makes it a
plugin of that module.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.metadata
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias

import pluggy

from pgzoo.errors import ConfigError, PluginError, unknown
from pgzoo.interface import hookspecs
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.parts import (
    PLUGIN_API,
    Baseline,
    Estimator,
    Objective,
    Part,
    Recipe,
    Sampling,
    Scale,
    Update,
)
from pgzoo.interface.types import Need

ENTRY_POINT_GROUP: Final = "pgzoo"
PLUGIN_PATH: Final = "PGZOO_PLUGINS"
"""The environment variable that names plugin files and folders of them, separated as in PATH."""
MIGRATION: Final = "https://github.com/pgzoo/pgzoo/blob/main/docs/migration.md"
"""What a plugin that was written for an earlier interface must change."""
OLD_HOOKS: Final = ("pgzoo_estimators", "pgzoo_baselines", "pgzoo_objectives", "pgzoo_recipes")
"""The hooks of plugin API 1.x."""
RESERVED: Final = frozenset(
    {
        "n_timesteps", "n_envs", "policy", "policy_kwargs", "normalize", "frame_stack", "env_wrapper",
        "vec_env_wrapper", "callback", "monitor_kwargs", "env_kwargs", "max_episode_steps", "plugin", "registry",
        "seed", "device", "verbose", "fast", "state", "env", "vec_env", "plugin_kwargs", "normalize_advantage",
        "rollout_buffer_class", "rollout_buffer_kwargs", "stats_window_size", "tensorboard_log",
    }
)  # fmt: skip
"""Keys of `hyperparams/` and arguments of `PolicyGradient` that mean something else than a hyperparameter."""
MAY_BE_FIELDS: Final = frozenset({"recompute", "resample_budget"})
"""Attributes of the base classes that a part may declare as a hyperparameter."""

Kind: TypeAlias = Literal["estimator", "baseline", "objective", "scale", "update", "sampling"]
PART_TYPES: Final[Mapping[Kind, type[Part]]] = {
    "estimator": Estimator,
    "baseline": Baseline,
    "objective": Objective,
    "scale": Scale,
    "update": Update,
    "sampling": Sampling,
}
"""The base class of each kind of part. The first three are written `estimator+baseline+objective`."""

Plugin: TypeAlias = "type[Part] | Recipe"
"""What a module registers: the class of a part, or a recipe."""


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from.

    Attributes:
        entry: the name of the entry point, or the stem of the file.
        module: the module's dotted name, or the path of the file.
        distribution: the name of the distribution; "file"; or "module" if `register` was called in this process.
        version: the version of the distribution; otherwise empty.
    """

    entry: str
    module: str
    distribution: str
    version: str = ""

    def __str__(self) -> str:
        if self.distribution in ("file", "module"):
            return f"{self.distribution} {self.module}"
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Failure:
    """A plugin that cannot be used, and the reason."""

    source: Source
    error: str

    def __str__(self) -> str:
        return f"plugin {self.source.entry!r} from {self.source} cannot be used: {self.error}"


class Registry:
    """Parts by kind and name, and recipes by name.

    `Registry.discover()` contains the installed plugins. `Registry()` is empty.

    Attributes:
        failures: the plugins that fail to import or break the interface.
    """

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self._parts: dict[tuple[Kind, str], tuple[type[Part], Source]] = {}
        self._recipes: dict[str, tuple[Recipe, Source]] = {}
        self._entries: dict[str, Source] = {}

    @classmethod
    def discover(cls, files: Iterable[str | Path] = ()) -> Registry:
        """Return a registry of all plugins: installed, in PGZOO_PLUGINS, in some Python files, and of this process.

        Raises:
            PluginError: two plugins have the same name, or a file cannot be loaded.
        """
        registry = cls()
        points = sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
        sources = [(point, _source(point)) for point in points]
        for _, source in sources:  # before any import, because an import may register parts of its own
            registry._claim(source)
        for point, source in sources:
            with _collecting(source) as collected:
                try:
                    module = point.load()
                except (Exception, SystemExit) as error:  # an import may raise anything; the other plugins must load
                    registry._fail(source, error)
                    continue
            registry.register(module, source, collected)
        paths = dict(_files_of_environment()) | {Path(f): False for f in files}
        for path in {os.path.realpath(path): path for path in paths}.values():
            registry.load_file(path, optional=paths[path])
        for item, source in _of_process.items():
            try:
                registry.add(item, source)
            except PluginError:
                _of_process.discard(item)  # else every later call would fail, too
                raise
        return registry

    def load_file(self, path: str | Path, *, optional: bool = False) -> None:
        """Register the plugins of one Python file.

        Raises:
            PluginError: the file does not exist, fails to import, or registers nothing although it is not `optional`.
        """
        path = Path(path)
        if not os.path.isfile(path):  # unlike Path.is_file, it also answers for names that are too long
            raise PluginError(f"plugin file {path} does not exist")
        source = Source(path.stem, str(path), "file")
        self._claim(source)
        name = f"pgzoo_file_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PluginError(f"plugin file {path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where the dataclass decorator looks up its module
        with _collecting(source) as collected:
            collected.clear()  # the file is executed again
            try:
                spec.loader.exec_module(module)
            except (Exception, SystemExit) as error:
                raise PluginError(f"plugin file {path} fails to import: {_reason(error)}") from error
        n_failures = len(self.failures)
        n_registered = self.register(module, source, collected)
        if len(self.failures) > n_failures:
            raise PluginError(str(self.failures[-1]))
        if not n_registered and not optional:
            raise PluginError(
                f"plugin file {path} registers nothing: it needs a decorator such as @pgzoo.baseline, or a function "
                "marked @hookimpl"
            )

    def register(self, module: ModuleType | object, source: Source, collected: Iterable[Plugin] = ()) -> int:
        """Register what the hook of a module returns, and what was collected while the module was imported.

        If anything is wrong, nothing is registered, and the error is added to `failures`.

        Returns:
            The number of classes and recipes.

        Raises:
            PluginError: a name is already taken. The message names both sources.
        """
        self._entries.setdefault(source.entry, source)
        try:
            items = [*collected, *_call_hook(module, source.entry)]
            for item in items:
                check_plugin(item)
        except (Exception, SystemExit) as error:  # a hook may raise anything, and the other plugins must still load
            self._fail(source, error)
            return 0
        for item in items:
            self.add(item, source)
        return len(items)

    def add(self, item: Plugin, source: Source) -> None:
        """Add the class of a part, or a recipe. The same definition, executed again, replaces the old one.

        Raises:
            PluginError: it breaks the interface, or its name is already taken. The message names both sources.
        """
        check_plugin(item)
        kind, table, key = self._place(item)
        existing, existing_source = table.get(key, (item, source))
        if existing is item and key in table:
            return
        if not _is_same_definition(existing, item, existing_source, source):
            raise PluginError(
                f"two plugins register the {kind} {item.name!r}: {existing_source.module} from {existing_source} "
                f"and {source.module} from {source}; uninstall or rename one"
            )
        table[key] = (item, source)

    def including(self, *classes: type[Part]) -> Registry:
        """Return a copy with more classes of parts, which replace those of the same kind and name.

        Raises:
            PluginError: a class breaks the interface.
        """
        known = {part for part, _ in self._parts.values()}
        new = [cls for cls in classes if cls not in known]
        if not new:
            return self
        registry = copy.copy(self)
        registry._parts = dict(self._parts)
        for cls in new:
            check_plugin(cls)
            _, table, key = registry._place(cls)
            table[key] = (cls, _module_source(cls.name, cls.__module__))
        return registry

    def items(self) -> list[tuple[Plugin, Source]]:
        """Return all classes of parts and all recipes, with their sources."""
        return [*self._parts.values(), *self._recipes.values()]

    def discard(self, item: Plugin) -> None:
        """Remove a class or recipe, if it is registered."""
        _, table, key = self._place(item)
        table.pop(key, None)

    def part(self, kind: Kind, name: str) -> type[Part]:
        """Return the class of a part.

        Raises:
            PluginError: the name is unknown. The message has the nearest names, and a plugin that failed.
        """
        if (kind, name) not in self._parts:
            raise PluginError(unknown(kind, name, self.names(kind)) + self._failure_hint(name))
        return self._parts[kind, name][0]

    def recipe(self, name: str) -> Recipe:
        """Return a recipe.

        Raises:
            PluginError: as `part`.
        """
        if name not in self._recipes:
            raise PluginError(unknown("recipe", name, self._recipes) + self._failure_hint(name))
        return self._recipes[name][0]

    def names(self, kind: Kind) -> list[str]:
        """Return the names of all parts of a kind, sorted."""
        return sorted(name for part_kind, name in self._parts if part_kind == kind)

    def recipes(self) -> list[str]:
        """Return the names of all recipes, sorted."""
        return sorted(self._recipes)

    def source(self, kind: Kind | Literal["recipe"], name: str) -> Source:
        """Return where a part or recipe comes from.

        Raises:
            PluginError: as `part`.
        """
        if kind == "recipe":
            self.recipe(name)
            return self._recipes[name][1]
        self.part(kind, name)
        return self._parts[kind, name][1]

    def origin(self, cls: type[Part]) -> str:
        """Return where the class of a part comes from: its source, or its module if it is not registered."""
        for registered, source in self._parts.values():
            if registered is cls:
                return str(source)
        return f"module {cls.__module__}"

    def class_path(self, cls: type[Part]) -> str:
        """Return the module and name by which the class of a part is found again; empty if its name is enough."""
        return class_path(cls) if self.origin(cls).startswith("module ") else ""

    def _claim(self, source: Source) -> None:
        existing = self._entries.get(source.entry)
        if existing is not None and existing != source:
            raise PluginError(
                f"two plugins are called {source.entry!r}: {existing.module} from {existing} "
                f"and {source.module} from {source}; uninstall or rename one"
            )
        self._entries[source.entry] = source

    def _place(self, item: Plugin) -> tuple[str, dict[Any, tuple[Any, Source]], Any]:
        """Return the kind of an item, the table that it belongs to, and its key there."""
        if isinstance(item, Recipe):
            return "recipe", self._recipes, item.name
        return item.kind, self._parts, (item.kind, item.name)

    def _fail(self, source: Source, error: BaseException) -> None:
        self.failures.append(Failure(source, _reason(error)))

    def _failure_hint(self, name: str) -> str:
        same_name = [failure for failure in self.failures if failure.source.entry == name]
        return "".join(f"\n{failure}" for failure in (same_name or self.failures)[:1])


@functools.cache
def default_registry() -> Registry:
    """Return the installed plugins. They are discovered once per process."""
    return Registry.discover()


_of_process = Registry()
"""What `register` made known in this process."""
_of_sources: dict[Source, list[Plugin]] = {}
"""What modules registered by `register` while they were imported. A module is imported once, but found often."""
_collected: ContextVar[list[Plugin] | None] = ContextVar("_collected", default=None)
"""Where `register` puts plugins while a registry imports a module; None: into `_of_process`."""


@contextmanager
def _collecting(source: Source) -> Iterator[list[Plugin]]:
    """Collect what `register` is called with inside the context, for the module that is imported there."""
    items = _of_sources.setdefault(source, [])
    token = _collected.set(items)
    try:
        yield items
    finally:
        _collected.reset(token)


def register(*items: Plugin) -> None:
    """Make classes of parts and recipes known by name in this process, as if they were installed.

        pgzoo.register(Median)
        PolicyGradient("MlpPolicy", "CartPole-v1", "reward_to_go+median")

    The same definition executed again, such as a notebook's cell, replaces the old one. In a plugin file or in the
    module of an entry point, what is registered belongs to that file or distribution.

    Raises:
        PluginError: an item breaks the interface, or its name is already taken. The message names both owners.
    """
    for item in items:
        check_plugin(item)
        if (collected := _collected.get()) is not None:
            collected.append(item)
            continue
        source = _module_source(item.name, "__main__" if isinstance(item, Recipe) else item.__module__)
        default_registry().add(item, source)
        _of_process.add(item, source)


def registered_in_process() -> list[Plugin]:
    """Return what `register` made known in this process, which another process must be told."""
    return [item for item, _ in _of_process.items()]


def living_part(kind: Kind, name: str, path: str) -> type[Part] | None:
    """Return the class of a part that exists in this process, registered or not; None if there is none.

    Nothing is imported. Of several, the class that was defined last is returned.

    Args:
        kind: the kind of the part.
        name: the name of the part.
        path: its module and qualified name, see `class_path`.
    """
    found = None
    waiting: list[type[Part]] = [PART_TYPES[kind]]
    while waiting:
        cls = waiting.pop(0)
        waiting += cls.__subclasses__()
        if class_path(cls) == path and getattr(cls, "name", None) == name:
            found = cls
    return found


def class_path(cls: type) -> str:
    """Return the module and the qualified name of a class, such as `my_module.Median`."""
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__  # a script, in a spawned process
    return f"{module}.{cls.__qualname__}"


def _module_source(entry: str, module: str) -> Source:
    return Source(entry, module, "module")


def _is_same_definition(old: Plugin, new: Plugin, old_source: Source, new_source: Source) -> bool:
    """Whether two plugins of one name are one definition that was executed twice."""
    if isinstance(old, Recipe) or isinstance(new, Recipe):
        return old == new or (old_source == new_source and new_source.distribution == "module")
    return class_path(old) == class_path(new)


def _files_of_environment() -> list[tuple[Path, bool]]:
    """Return the plugin files that PGZOO_PLUGINS names, and whether they may register nothing.

    Of a folder, these are its files `[!_]*.py`. Some of them may be helpers of the others.

    Raises:
        PluginError: a path does not exist.
    """
    files: list[tuple[Path, bool]] = []
    for text in filter(None, os.environ.get(PLUGIN_PATH, "").split(os.pathsep)):
        path = Path(text).expanduser()
        if not os.path.exists(path):
            raise PluginError(f"{PLUGIN_PATH} names {path}, which does not exist")
        files += [(file, True) for file in sorted(path.glob("[!_]*.py"))] if path.is_dir() else [(path, False)]
    return files


def _call_hook(module: ModuleType | object, name: str) -> list[Plugin]:
    """Call the hook of one module through pluggy, and return what it registers.

    Each module has a plugin manager of its own, so that a hook that raises does not keep others from being called.

    Raises:
        PluginError: the module implements hooks of plugin API 1.x.
        PluginValidationError: the module implements another unknown hook, or a hook with wrong arguments.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        if old := next((hook for hook in OLD_HOOKS if f"{hook!r}" in str(error)), None):
            raise PluginError(
                f"it was written for plugin API 1.x, which had the hook {old}, but this pgzoo has {PLUGIN_API}; "
                f"see {MIGRATION}"
            ) from error
        raise
    return [item for items in manager.hook.pgzoo_plugins() for item in items]


def _source(point: importlib.metadata.EntryPoint) -> Source:
    if point.dist is None:
        return Source(point.name, point.value, "unknown")
    return Source(point.name, point.value, point.dist.name, point.dist.version)


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, PluginError):
        return text
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def check_plugin(item: Any) -> None:
    """Check that the class of a part, or a recipe, follows the interface.

    Raises:
        PluginError: it does not.
    """
    if isinstance(item, Recipe):
        _check_recipe(item)
    else:
        _check_part(item)
    api = item.plugin_api
    if api.split(".")[0] != PLUGIN_API.split(".")[0]:
        raise PluginError(
            f"{item.name!r} was written for plugin API {api}, but this pgzoo has {PLUGIN_API}; see {MIGRATION}"
        )


def _check_recipe(recipe: Recipe) -> None:
    if not isinstance(recipe.name, str) or not recipe.name or "+" in recipe.name:
        raise PluginError(f"a recipe cannot be called {recipe.name!r}: the name is text without +")
    for kind in PART_TYPES:
        part = getattr(recipe, kind)
        if not isinstance(part, str) and not (isinstance(part, Mapping) and "name" in part):
            raise PluginError(
                f"recipe {recipe.name!r}: {kind} must be a name, or a mapping of name and fields, not {part!r}; "
                "register the part, and write its name"
            )
    for name in recipe.defaults:
        if name in PART_TYPES or name == "normalize_advantage":
            argument = name if name in PART_TYPES else "scale"
            raise PluginError(
                f"recipe {recipe.name!r}: {name} is not a default; write Recipe(…, {argument}=…); see {MIGRATION}"
            )


def _check_declarations(cls: Any) -> None:
    """Check the attributes that are not properties."""
    needs: Any = getattr(cls, "needs", frozenset())
    if not isinstance(needs, property) and not all(isinstance(need, Need) for need in _elements(needs)):
        raise PluginError(f"{cls.__name__}.needs must be a set of pgzoo.Need, not {needs!r}")
    for name in ("unbiased", "per_episode"):
        value = getattr(cls, name, False)
        if not isinstance(value, (bool, property)):
            raise PluginError(f"{cls.__name__}.{name} must be True or False, not {value!r}")


def _check_methods(cls: Any, base: type[Part]) -> None:
    """Check that the methods take the arguments with which they are called."""
    for name, method in inspect.getmembers(base, inspect.isfunction):
        own = getattr(cls, name)
        if own is method or not inspect.isfunction(own) or name in vars(object):
            continue
        arguments = list(inspect.signature(method).parameters)
        try:
            inspect.signature(own).bind(*arguments)
        except TypeError:
            raise PluginError(f"{cls.__name__}.{name} must take ({', '.join(arguments)})") from None


def _elements(x: Any) -> Iterable[Any]:
    return x if isinstance(x, (set, frozenset, list, tuple)) else (x,)


def _check_part(cls: Any) -> None:
    bases = [base for base in PART_TYPES.values() if isinstance(cls, type) and issubclass(cls, base)]
    if not bases:
        kinds = ", ".join(base.__name__ for base in PART_TYPES.values())
        raise PluginError(f"{cls!r} is none of {kinds} and Recipe")
    if [base.kind for base in bases] != [cls.kind]:
        names = " and ".join(base.__name__ for base in bases)
        raise PluginError(f"{cls.__name__} has the kind {cls.kind!r}, but is a subclass of {names}")
    if not getattr(getattr(cls, "__dataclass_params__", None), "frozen", False):
        raise PluginError(f"{cls.__name__} must be decorated with @dataclass(frozen=True)")
    if not isinstance(getattr(cls, "name", None), str):
        raise PluginError(f"{cls.__name__} has no name")
    if annotated := {field.name for field in dataclasses.fields(cls)} & reserved_names(bases[0]):
        raise PluginError(f"{cls.__name__}.{min(annotated)} is not a hyperparameter: remove its type annotation")
    if taken := {field.name for field in dataclasses.fields(cls)} & (RESERVED | {*PART_TYPES}) - MAY_BE_FIELDS:
        raise PluginError(f"{cls.__name__}.{min(taken)} cannot be a hyperparameter: the name has another meaning")
    _check_declarations(cls)
    _check_methods(cls, bases[0])
    if abstract := getattr(cls, "__abstractmethods__", None):
        raise PluginError(f"{cls.__name__} does not define {', '.join(sorted(abstract))}")
    try:
        declared(cls)
    except (ConfigError, NameError) as error:  # an annotation may name something that does not exist
        raise PluginError(str(error)) from error


def reserved_names(base: type[Part]) -> frozenset[str]:
    """Return the public attributes and methods of a base class, which cannot be hyperparameters of its parts.

    A part sets them without a type annotation, which would make them fields of the dataclass.
    """
    dataclass_: Any = base
    fields = {field.name for field in dataclasses.fields(dataclass_)} if dataclasses.is_dataclass(base) else set[str]()
    names = {name for cls in base.__mro__[:-1] for name in (*vars(cls), *inspect.get_annotations(cls))}
    return frozenset(name for name in names if not name.startswith("_")) - fields - MAY_BE_FIELDS
