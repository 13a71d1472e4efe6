"""What the command line refuses, the functions refuse with the same sentence, and before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

import pgzoo
from pgzoo import ConfigError, PolicyGradient
from pgzoo.cli import eval as eval_command
from pgzoo.cli import train, tune
from pgzoo.training.arguments import in_words
from pgzoo.training.runs import TrainArguments

COMMANDS: dict[Callable[..., Any], click.Command] = {
    pgzoo.train: train.command,
    pgzoo.tune: tune.command,
    pgzoo.evaluate: eval_command.command,
}
NAMES_OF_FLAGS = {"num_threads"}
"""Flags that only the command has."""


def numbers_and_choices() -> Iterator[Any]:
    """Every flag with a range or choices, each with values just outside."""
    for function, command in COMMANDS.items():
        for flag in command.params:
            if flag.name in NAMES_OF_FLAGS:
                continue
            wrong: list[Any] = ["nothing"] if isinstance(flag.type, click.Choice) else []
            if isinstance(flag.type, (click.IntRange, click.FloatRange)):
                wrong = [flag.type.min - 1] if flag.type.min is not None else []
                wrong += [flag.type.max + 1] if flag.type.max is not None else []
            for value in wrong:
                yield pytest.param(function, flag, value, id=f"{function.__name__}-{flag.name}-{value}")


@pytest.mark.parametrize(("function", "flag", "value"), list(numbers_and_choices()))
def test_the_function_says_what_the_flag_says(
    function: Callable[..., Any], flag: click.Option, value: Any, tmp_path: Path
) -> None:
    """Click checks the flags by itself, so its sentence is independent of the function's."""
    printed = CliRunner().invoke(COMMANDS[function], [flag.opts[-1], str(value)])
    assert printed.exit_code == 2
    with pytest.raises(ConfigError) as refusal:
        function(log_folder=tmp_path, **{str(flag.name): value})
    sentence = str(refusal.value)
    if not isinstance(flag.type, click.Choice):
        name, _, sentence = sentence.partition(": ")
        assert name == flag.name
    else:
        assert sentence.startswith(f"unknown {flag.name} '{value}'")
        sentence = f"'{value}' is not one of"
    assert sentence in printed.output
    assert not list(tmp_path.iterdir())


def test_all_flags_with_numbers_have_a_range_of_the_function() -> None:
    """A flag without a range needs none: −1 and 0 both mean never."""
    of_numbers = {
        flag.name for command in COMMANDS.values() for flag in command.params if flag.type.name in ("integer", "float")
    }
    assert of_numbers == {"eval_freq", "save_freq"}
    ranged = [param for param in numbers_and_choices() if not isinstance(param.values[1].type, click.Choice)]
    assert len(ranged) > 30


WRONG: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (pgzoo.train, {"n_timesteps": 1.5}, "n_timesteps must be a whole number or None, not 1.5"),
    (pgzoo.train, {"n_envs": "2"}, "n_envs must be a whole number or None, not '2'"),
    (pgzoo.train, {"seed": True}, "seed must be a whole number or None, not True"),
    (pgzoo.train, {"fast": "maybe"}, "fast must be 'auto', True or False, not 'maybe'"),
    (pgzoo.train, {"hyperparams": "gamma:1"}, "hyperparams must be a mapping from names to values, not 'gamma:1'"),
    (pgzoo.train, {"hyperparams": {1: 2}}, "hyperparams must be a mapping from names"),
    (pgzoo.train, {"gym_packages": [3]}, "gym_packages must be a list of names, not"),
    (pgzoo.train, {"callback": [3]}, "callback must be a callback of SB3, a list of them or a function, not"),
    (pgzoo.train, {"log_folder": None}, "log_folder must be a path, not None"),
    (pgzoo.train, {"env": None}, "env must be text, not None"),
    (pgzoo.evaluate, {"path": 3}, "path must be a path or None, not 3"),
    (pgzoo.evaluate, {"load_best": "no"}, "load_best must be True or False, not 'no'"),
    (pgzoo.tune, {"metric": "finl"}, "unknown metric 'finl'; did you mean 'final'"),
    (pgzoo.tune, {"metric": []}, "a study needs a metric"),
    (pgzoo.tune, {"sampler": "tp"}, "unknown sampler 'tp'; did you mean 'tpe'"),
    (pgzoo.tune, {"pruner": "mean"}, "unknown pruner 'mean'; did you mean 'median'"),
    (pgzoo.tune, {"timeout": float("nan")}, "timeout: nan is not in the range x>=0"),
    (pgzoo.tune, {"plugins": [3]}, r"plugins must be a name or a list of names, not \[3\]"),
    (pgzoo.tune, {"plugins": []}, "does not name a recipe"),
    (pgzoo.tune, {"search": []}, "does not name a kind"),
    (pgzoo.tune, {"search_range": "gamma:0..1"}, "search_range must be a mapping"),
    (pgzoo.tune, {"fix": ["gamma"]}, "fix must be a mapping"),
    (PolicyGradient.from_zoo, {"seed": -2}, "seed: -2 is not in the range"),
    (PolicyGradient.from_zoo, {"n_envs": 0}, r"n_envs must lie in \[1, 100000\], not 0"),
    (PolicyGradient.from_zoo, {"registry": 3}, "registry must be a Registry or None, not 3"),
]


@pytest.mark.parametrize(("function", "arguments", "message"), WRONG)
def test_wrong_types_and_names(
    function: Callable[..., Any], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Finds a value that ends in a traceback, or after hours of training."""
    folder = {} if function == PolicyGradient.from_zoo else {"log_folder": tmp_path}
    with pytest.raises(ConfigError, match=message):
        function(**{**folder, **arguments})
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_numbers() -> None:
    arguments = TrainArguments(n_timesteps=np.int64(100), n_envs=np.float32(2.0))  # type: ignore[arg-type]
    assert (type(arguments.n_timesteps), type(arguments.n_envs)) == (int, int)
    assert (arguments.n_timesteps, arguments.n_envs) == (100, 2)


def test_a_range_in_the_words_of_click() -> None:
    for name in ("n_timesteps", "seed"):
        flag = next(flag for flag in train.command.params if flag.name == name)
        declared = train.bounds(name)
        assert isinstance(declared, click.IntRange)
        assert repr(flag.type) == repr(declared)
    assert in_words(pgzoo.Range(0, 2)) == "0<=x<=2"
    assert in_words(pgzoo.Range(1)) == "x>=1"
