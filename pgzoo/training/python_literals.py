"""Reads RL Zoo's Python expressions, such as `dict(log_std_init=-2, activation_fn=nn.ReLU)`, as plain data.

RL Zoo evaluates such texts. Here they are parsed, and only literals, `dict(…)` and the names of torch's classes are
allowed. A class becomes its name, which is looked up later, as in the rest of YAML.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.hyperparameters import shown

EXPRESSION_KEYS = ("policy_kwargs", "normalize", "monitor_kwargs")
"""The keys of a YAML entry whose texts RL Zoo evaluates."""

TORCH_MODULES = ("nn", "th.nn", "torch.nn", "th.optim", "torch.optim")
"""The modules whose classes may be named."""

CLASSES: Mapping[str, str] = {
    "RMSpropTFLike": "stable_baselines3.common.sb2_compat.rmsprop_tf_like.RMSpropTFLike",
}
"""Other classes that RL Zoo's files name, with their import paths."""

MAX_CHARACTERS = 5_000
"""The longest expression that is read. RL Zoo's longest has 200 characters."""


def with_data(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry in which data replaces the texts that RL Zoo evaluates.

    Raises:
        ConfigError: a text is neither a literal nor `dict(…)`, or names something that is not allowed.
    """
    read = dict(entry)
    for key in EXPRESSION_KEYS:
        value = read.get(key)
        if isinstance(value, str) and value.lstrip().startswith(("dict(", "{")):
            read[key] = read_expression(value, key)
    return read


def read_expression(text: str, where: str) -> Any:
    """Return the data that an expression stands for.

    >>> read_expression("dict(log_std_init=-2, activation_fn=nn.ReLU, net_arch=[64, 64])", "policy_kwargs")
    {'log_std_init': -2, 'activation_fn': 'nn.ReLU', 'net_arch': [64, 64]}

    Args:
        text: a Python expression.
        where: the setting that it is the value of, for error messages.

    Raises:
        ConfigError: the expression is not valid, or is more than data.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{where}: {shown(text)} has more than {MAX_CHARACTERS:,} characters")
    try:
        return _data(ast.parse(text.strip(), mode="eval").body, where)
    except (SyntaxError, RecursionError, MemoryError) as error:  # the parser's memory, which deep nesting exceeds
        raise ConfigError(
            f"{where}: {shown(text)} is not valid: {getattr(error, 'msg', 'nested too deeply')}"
        ) from error


def _data(node: ast.expr, where: str) -> Any:
    """Return a node of the expression as plain data."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, bool, type(None))):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _data(node.operand, where)
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            return -number
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_data(item, where) for item in node.elts]
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        return _mapping([(_data(key, where), value) for key, value in zip(node.keys, node.values, strict=True) if key],
                        where)  # fmt: skip
    if isinstance(node, ast.Call):
        return _call(node, where)
    if isinstance(node, (ast.Name, ast.Attribute)):
        return _class_name(node, where)
    raise ConfigError(f"{where}: {shown(ast.unparse(node))} is not allowed; write numbers, text, lists and dict(…)")


def _call(node: ast.Call, where: str) -> dict[Any, Any]:
    if not isinstance(node.func, ast.Name) or node.func.id != "dict":
        raise ConfigError(f"{where}: {shown(ast.unparse(node.func))} is not called; only dict(name=value) is allowed")
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ConfigError(f"{where}: dict takes name=value, not {shown(ast.unparse(node))}")
    return _mapping([(keyword.arg, keyword.value) for keyword in node.keywords], where)


def _mapping(pairs: list[tuple[Any, ast.expr]], where: str) -> dict[Any, Any]:
    values: dict[Any, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ConfigError(f"{where}: {shown(key)} is given twice")
        values[key] = _data(value, f"{where}.{key}")
    return values


def _class_name(node: ast.Name | ast.Attribute, where: str) -> str:
    """Return the name of one of torch's classes, or the import path of another that RL Zoo's files name."""
    name = ast.unparse(node)
    if name.rpartition(".")[0] in TORCH_MODULES:
        return name
    if name in CLASSES:
        return CLASSES[name]
    hint = unknown("name", name, [*CLASSES, "nn.ReLU", "nn.Tanh", "th.optim.Adam"])
    raise ConfigError(f"{where}: {hint}; text is written in quotes")
