"""Decorators that make a plugin of a function.

    @pgzoo.baseline(needs={Need.COMPLETE_EPISODES}, bias="the median contains the episode's own return")
    def median(rollout, returns, *, share: Annotated[float, Range(0, 1), "share of the median"] = 1.0):
        \"\"\"b = share · median of R̂ over the steps of the batch.\"\"\"
        return share * np.median(returns[rollout.mask])

The function becomes a class like any other plugin, a frozen dataclass. Write the class yourself if the plugin learns,
or if an attribute such as `unbiased` depends on a hyperparameter.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, overload

from pgzoo.errors import PluginError, converted, unknown
from pgzoo.interface.parts import Baseline, Estimator, Objective, Part, Scale
from pgzoo.interface.types import Need
from pgzoo.registry.plugins import MAY_BE_FIELDS, register, reserved_names

P = TypeVar("P", bound=Part)

SET_BY_THE_FUNCTION: Final = frozenset({"name", "kind"})
"""Attributes of the class that the decorator sets itself."""


class FunctionPlugin(Generic[P]):
    """A decorator that makes a class of a function, and registers it.

    The function takes what the class's `__call__` takes before `state`, and returns the same. Its further arguments
    have an annotation and a default, and become hyperparameters. Its name is the name of the plugin, and its docstring
    the description.

    Args:
        base: the base class of the plugins.
    """

    def __init__(self, base: type[P]) -> None:
        self._base = base

    @overload
    def __call__(self, function: Callable[..., Any], /) -> type[P]: ...

    @overload
    def __call__(self, /, **attributes: Any) -> Callable[[Callable[..., Any]], type[P]]: ...

    def __call__(self, function: Callable[..., Any] | None = None, /, **attributes: Any) -> Any:
        """Return the class; without a function, a decorator.

        Args:
            function: computes what the part computes.
            **attributes: attributes of the class, such as `needs`, `unbiased`, `bias` and `per_episode`.

        Raises:
            PluginError: an argument or an attribute is wrong, or the name is already taken.
        """
        if function is None:
            return lambda decorated: self._register(decorated, attributes)
        return self._register(function, attributes)

    def _register(self, function: Callable[..., Any], attributes: dict[str, Any]) -> type[P]:
        with converted(f"@pgzoo.{self._base.kind} cannot make a plugin of {function!r}", PluginError):
            cls = _make_class(self._base, function, attributes)
            register(cls)
        return cls


def _make_class(base: type[P], function: Callable[..., Any], attributes: dict[str, Any]) -> type[P]:
    """Return a frozen dataclass whose `__call__` calls the function with its fields."""
    methods = {name for name, _ in inspect.getmembers(base, inspect.isfunction)}
    known = (reserved_names(base) | {name for name in MAY_BE_FIELDS if hasattr(base, name)}) - methods
    known -= SET_BY_THE_FUNCTION
    for attribute in attributes:
        if attribute not in known:
            raise PluginError(f"{function.__name__}: {unknown(f'attribute of a {base.kind}', attribute, known)}")
    if "needs" in attributes:
        needs = attributes["needs"]
        attributes = {**attributes, "needs": frozenset({needs} if isinstance(needs, Need) else needs)}
    hyperparameters = _hyperparameters(base, function)
    names, n_inputs = tuple(hyperparameters), len(_inputs(base))

    def call(self: Part, *inputs: Any) -> Any:
        return function(*inputs[:n_inputs], **{name: getattr(self, name) for name in names})

    namespace = {
        **attributes,
        **{name: parameter.default for name, parameter in hyperparameters.items()},
        "__annotations__": _types(function, hyperparameters),
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__call__": call,
        "name": function.__name__,
    }
    cls = types.new_class(function.__name__, (base,), {}, lambda body: body.update(namespace))
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def _inputs(base: type[Part]) -> list[str]:
    """Return the arguments that a kind of part is called with, without `self` and `state`."""
    parameters = inspect.signature(base.__call__).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is parameter.empty][1:]


def _hyperparameters(base: type[Part], function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the function's arguments with a default, by name.

    Raises:
        PluginError: an argument has no annotation, or the others are not those that the part is called with.
    """
    parameters = inspect.signature(function).parameters
    inputs = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    expected = _inputs(base)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(inputs) != len(expected) or any(parameters[name].kind not in positional for name in inputs):
        raise PluginError(
            f"{base.kind} {function.__name__!r} must take ({', '.join(expected)}), and hyperparameters with a default"
        )
    hyperparameters = {name: parameter for name, parameter in parameters.items() if name not in inputs}
    for name, parameter in hyperparameters.items():
        if parameter.annotation is parameter.empty:
            raise PluginError(f"{function.__name__}: the hyperparameter {name} needs a type, such as {name}: float")
    return hyperparameters


def _types(function: Callable[..., Any], hyperparameters: dict[str, inspect.Parameter]) -> dict[str, Any]:
    """Return the annotations of hyperparameters as types. Text is evaluated where the function was defined.

    Other annotations are not looked at: they may name what is imported for type checkers only.
    """
    annotated = types.SimpleNamespace(__annotations__={name: p.annotation for name, p in hyperparameters.items()})
    return typing.get_type_hints(annotated, function.__globals__, include_extras=True)


baseline: Final = FunctionPlugin(Baseline)  # type: ignore[type-abstract]  # it only makes subclasses
"""Makes a baseline of a function `(rollout, returns)` that returns b."""
estimator: Final = FunctionPlugin(Estimator)  # type: ignore[type-abstract]  # it only makes subclasses
"""Makes an estimator of a function `(rollout)` that returns R̂."""
objective: Final = FunctionPlugin(Objective)  # type: ignore[type-abstract]  # it only makes subclasses
"""Makes an objective of a function `(batch)` that returns the loss and metrics."""
scale: Final = FunctionPlugin(Scale)
"""Makes a scale of a function `(rollout, returns, deviations)` that returns c, where the deviations are R̂ − b."""
