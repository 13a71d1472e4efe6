"""Random input of every kind that pgzoo reads, drawn by hypothesis, and what must be true of each case.

An input is refused with a documented error in one or two lines, or it is accepted and means what it says: a damaged
model that loads is equal to what was saved, and a hyperparameter has the value that was written. No case ends with
another exception, hangs, or leaves a file behind. The tests draw a few hundred cases, `benchmarks/fuzz.py` thousands.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import signal
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import click
import hypothesis
import numpy as np
import torch
from command import pgzoo
from hypothesis import strategies as st
from ruamel.yaml import YAML
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from zips import members

from pgzoo import PgzooError, PolicyGradient
from pgzoo.errors import DivergenceError, MachineError
from pgzoo.interface.hyperparameters import declared
from pgzoo.registry.plugins import Registry
from pgzoo.registry.policy_arguments import PolicyArguments
from pgzoo.registry.settings import AlgorithmConfig
from pgzoo.training.config import ExperimentConfig, RunConfig, config_from_entry, resolved_entry
from pgzoo.training.keyword_arguments import MonitorArguments, NormalizeArguments
from pgzoo.training.run_folder import write_yaml
from pgzoo.training.yaml_files import read_yaml_mapping

Case: TypeAlias = tuple[Any, ...]

TIME_LIMIT = 20
"""The most seconds of a case, on a loaded machine."""
ACCEPTED, REFUSED = "accepted", "refused"

# ---------------------------------------------------------------- values and names

VALUES = [
    "", " ", "~", "none", "true", "False", "yes", "0", "-1", "1", "3", "0.5", "1.5", "1e3", "1e23", "1e400",
    "-1e400", "9" * 400, "0x_", "0x1F", "0b", "1_0", "+", "-", ".", ".inf", "-.inf", ".nan", "nan", "inf", "1e-320",
    "2001-99-99", "12:30:45", "!!int x", "!!float []", "!!python/name:os.system", "!x", "!!str", "lin_", "lin_inf",
    "lin_-1", "lin_3e-4", "lin_nan", "{}", "[]", "[[]]", "[1, 2", "{a: 1}", "{a: b: c}", "{1: 2}", "[.inf]",
    "{x: .nan}", "[" * 1000, "{a: " * 300, "&a [*a]", "*a", "&a 1", "<<", "{<<: 3}", "? x", "- x", "a: b", "a\nb: c",
    "\t", "%", "@x", "`", "'", '"', "|", ">", "#", "---", "...", "γ", "😀", "\x00", "\x1b[31m", "\udcff", "\u2028",
    "{schedule: linear}", "{schedule: constant, initial: 1, final: 5}", "{schedule: linear, initial: .inf}",
    "{schedule: linear, initial: 1, end_fraction: 0}", "{name: value}", "{name: 3}",
    "{name: ppo_clip, clip_range: -1}", "value", "valu", "os.path", "os.system", "no.such.Name", ".x", "x.", "a.b.c",
    "[3, none]", "{os.getcwd: 3}", "{a.b: [1]}", "{net_arch: {foo: [4]}}", "{net_arch: [0]}", "{net_arch: [1e9]}",
    "{log_std_init: x}", "{optimizer_kwargs: {maximize: true}}", "{optimizer_kwargs: {lr: 1}}", "{clip_obs: 0}",
    "{gamma: 5}", "{norm_obs: x}", "{norm_obs_keys: [3]}", "{info_keywords: 3}", "{filename: x}", "MlpPolicy",
    "MlpPolic",
]  # fmt: skip
"""What a person, a wrong file or an attacker may write as a value."""

HYPERPARAMETERS = [*declared(AlgorithmConfig), *declared(RunConfig)]
NAMES = [
    *HYPERPARAMETERS, *declared(PolicyArguments), *declared(NormalizeArguments), *declared(MonitorArguments),
    "estimator", "baseline", "objective", "algorithm", "estimator.name", "estimator.gae_lambda", "objective.clip_range",
    ".gamma", "gamma.", "..", "algorithm.gamma", "algorithm.", "baseline.gamma", "a.b.gamma", "gamma ", "GAMMA",
    "clip_range", "gae_lambda", "self", "__class__", "name", "plugin", "\x00", "γ", "",
]  # fmt: skip
RECIPES = ["rtg_value", "ppo", "a2c", "grpo", "gae", "reward_to_go+value", "lambda_return+value+ppo_clip"]

OPTIONS = {
    "train": [
        "--seed", "-n", "--n-envs", "--num-threads", "--eval-freq", "--eval-episodes", "--n-eval-envs", "--save-freq",
        "--verbose", "--vec-env", "--plugin", "--env", "--conf-file", "--plugin-file", "--gym-packages", "--env-kwargs",
        "--device", "--trial", "--storage", "-P",
    ],
    "eval": ["--seed", "-n", "--n-envs", "--num-threads", "--exp-id", "--plugin", "--env", "-f", "--plugin-file"],
    "enjoy": ["--seed", "-n", "--exp-id", "--num-threads", "--plugin", "--env"],
    "plugins check": ["--episodes", "--seed", "--mdps", "--plugin-file"],
    "plugins show": [],
    "plugins new": ["--kind", "--folder"],
}  # fmt: skip
ARGUMENTS = [
    "", "x", "value", "rtg_value", "-1", "..", "/", "/dev/null", "x" * 300, "x" * 5000, "γ", "\udcff", "*",
    "-", "--", "empty.py", "exits.py", "exits", "2147483648", "4294967296", "100000",
]  # fmt: skip

NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(0, 300), st.floats(0, 1))
TEXTS = st.one_of(
    st.sampled_from(VALUES), NUMBERS.map(str), NUMBERS.map(lambda x: f"lin_{x}"), st.text(max_size=8),
    st.lists(st.sampled_from(VALUES), max_size=3).map(lambda items: f"[{', '.join(items)}]"),
)  # fmt: skip
SHELL_TEXTS = TEXTS.filter(lambda text: "\x00" not in text)
"""A program's arguments end at a null character, so that it cannot be in one."""
PLAIN = st.recursive(
    st.one_of(
        st.none(), st.booleans(), NUMBERS.filter(math.isfinite), st.text(max_size=6), st.sampled_from(VALUES[:-1])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
"""What a run writes into its YAML files."""


# ---------------------------------------------------------------- what is true of every case


@contextlib.contextmanager
def time_limit(seconds: int = TIME_LIMIT) -> Iterator[None]:
    """Raise TimeoutError in a case that hangs."""

    def expired(*arguments: Any) -> None:
        raise TimeoutError(f"after {seconds} s")

    previous = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def ran(arguments: list[str], folder: Path) -> tuple[str, str]:
    """Run a command. Return whether it accepted its input, and its output.

    Its status is 0, or 2 with one or two lines, apart from warnings of plugin files and the steps of a resumed run.
    """
    result = pgzoo(*arguments, cwd=folder, status=None)
    assert result.returncode in (0, 2), result
    assert "Traceback" not in result.stdout + result.stderr, result
    if result.returncode == 0:
        return ACCEPTED, result.stdout
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("Warning: plugin", "Resumed"))]
    assert 1 <= len(lines) <= 2, result
    assert lines[0].startswith("Error: "), result
    return REFUSED, result.stderr


def stopped_at_its_folder(arguments: list[str], folder: Path, check: Callable[[Any], None]) -> str:
    """Run `train` up to the moment at which it would make its folder. Nothing is written.

    Args:
        arguments: the command's arguments.
        folder: the working directory.
        check: is called with the configuration of a run that is accepted.
    """
    before = sorted(folder.rglob("*"))

    def accept(config: Any, *_: Any) -> None:
        check(config)
        raise click.exceptions.Exit(0)

    with mock.patch("pgzoo.cli.train.prepare", accept), mock.patch("pgzoo.cli.options.set_threads"):
        outcome, _ = ran(arguments, folder)
    assert sorted(folder.rglob("*")) == before
    return outcome


def check_written(config: ExperimentConfig) -> None:
    """Check that the config.yml of a run says what the run does."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "config.yml"
        write_yaml(file, resolved_entry(config))
        entry = read_yaml_mapping(file)
    again = config_from_entry(REGISTRY, config.combination.plugin, config.env, entry)
    assert (again.run, again.combination) == (config.run, config.combination)


REGISTRY = Registry.discover()


# ---------------------------------------------------------------- hyperparameters, YAML and options

NAME = st.sampled_from(HYPERPARAMETERS) | st.sampled_from([name for name in NAMES if name != "\x00"])
PAIRS = st.one_of(
    st.lists(st.tuples(NAME, SHELL_TEXTS), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from(HYPERPARAMETERS), NUMBERS.map(str)), min_size=1, max_size=2),
)


def hyperparameter_cases(folder: Path) -> st.SearchStrategy[Case]:
    """`-P name:value`, mostly with names that exist and values that do not fit."""
    return st.tuples(st.sampled_from(RECIPES), PAIRS)


def check_hyperparameters(folder: Path, recipe: str, pairs: list[tuple[str, str]]) -> str:
    """A number that JSON can read is the value of its hyperparameter, if it is accepted."""

    def check(config: ExperimentConfig) -> None:
        check_written(config)
        values = {**vars(config.run), **vars(config.combination.algorithm)}
        for name, text in dict(pairs).items():
            with contextlib.suppress(json.JSONDecodeError):
                number = json.loads(text)
                if name in values and type(number) in (int, float):
                    assert values[name] == number, name

    return stopped_at_its_folder(["train", "--plugin", recipe, *flags(pairs)], folder, check)


def flags(pairs: list[tuple[str, str]]) -> list[str]:
    return [argument for name, value in pairs for argument in ("-P", f"{name}:{value}")]


def file_cases(folder: Path) -> st.SearchStrategy[Case]:
    """Changed copies of the files that pgzoo ships: values, lines and characters that are replaced, doubled or lost."""
    line, text = st.integers(0, 200), st.one_of(TEXTS, st.sampled_from(NAMES))
    change = st.one_of(
        st.tuples(st.just("value"), line, text),
        st.tuples(st.just("double"), line, line),
        st.tuples(st.just("delete"), line),
        st.tuples(st.just("insert"), line, st.integers(0, 40), text),
        st.tuples(st.just("entry"), line, st.sampled_from(NAMES), text),
    )
    noise = st.none() | st.tuples(st.integers(0, 3000), st.binary(max_size=5))
    recipes = st.sampled_from(["ppo", "a2c", "grpo", "rtg_value", "gae"])
    return st.tuples(recipes, st.lists(change, min_size=1, max_size=4), noise)


def check_file(folder: Path, recipe: str, changes: list[Case], noise: tuple[int, bytes] | None) -> str:
    text = (files("pgzoo.hyperparams") / f"{recipe}.yml").read_text(encoding="utf-8")
    data = changed_lines(text, changes)
    if noise is not None:
        data = data[: noise[0]] + noise[1] + data[noise[0] :]
    (folder / "a.yml").write_bytes(data)
    return stopped_at_its_folder(["train", "--plugin", recipe, "--conf-file", "a.yml"], folder, check_written)


def changed_lines(text: str, changes: list[Case]) -> bytes:
    lines = text.splitlines()
    for what, number, *rest in changes:
        i = number % len(lines)
        if what == "value":
            lines[i] = f"{lines[i].partition(':')[0]}: {rest[0]}"
        elif what == "double":
            lines.insert(i, lines[rest[0] % len(lines)])
        elif what == "delete" and len(lines) > 1:
            del lines[i]
        elif what == "insert":
            lines[i] = lines[i][: rest[0]] + rest[1] + lines[i][rest[0] :]
        elif what == "entry":
            lines[i] = f"  {rest[0]}: {rest[1]}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def yaml_cases(folder: Path) -> st.SearchStrategy[Case]:
    """What a run may write into its YAML files."""
    return st.tuples(st.dictionaries(st.text(min_size=1, max_size=5), PLAIN, max_size=4))


def check_yaml(folder: Path, values: dict[str, Any]) -> str:
    """What is written is read again, by pgzoo and by ruamel.yaml. Surrogates and control characters may be refused."""
    file = folder / "a.yml"
    try:
        write_yaml(file, values)
        read = read_yaml_mapping(file)
    except (PgzooError, UnicodeEncodeError):
        return REFUSED
    for again in (read, YAML(typ="safe", pure=True).load(file)):
        assert json.dumps(again, sort_keys=True) == json.dumps(values, sort_keys=True)
    return ACCEPTED


def option_cases(folder: Path) -> st.SearchStrategy[Case]:
    """Options and arguments of the commands with values of any kind."""
    (folder / "empty.py").write_text("")
    (folder / "exits.py").write_text("raise SystemExit(3)\n")
    value = st.one_of(SHELL_TEXTS, st.sampled_from(ARGUMENTS))
    option = {command: st.tuples(st.sampled_from([*names, "-x"]), value) for command, names in OPTIONS.items()}
    commands = st.sampled_from(["train", *OPTIONS])
    return commands.flatmap(
        lambda command: st.tuples(
            st.just(command), st.none() | st.sampled_from(ARGUMENTS), st.lists(option[command], max_size=2)
        )
    )


def check_options(folder: Path, command: str, argument: str | None, options: list[tuple[str, str]]) -> str:
    arguments = command.split()
    if command == "plugins check":
        arguments.append("valu")  # an unknown name, so that no check begins
    elif command in ("eval", "plugins show", "plugins new") and argument is not None:
        arguments.append(argument)
    arguments += [text for option in options for text in option]
    return stopped_at_its_folder(arguments, folder, check_written)


SHORT = [
    "--n-envs",
    "1",
    "--no-progress",
    "--eval-freq",
    "-1",
    "--eval-episodes",
    "1",
    "--seed",
    "0",
    "--device",
    "cpu",
]


def run_cases(folder: Path) -> st.SearchStrategy[Case]:
    """Arguments that reach VecNormalize, Monitor, the policy and its optimizer."""
    owners: dict[str, list[str]] = {
        "env_kwargs": ["render_mode", "sutton_barto_reward", "x"],
        "policy_kwargs": list(declared(PolicyArguments)),
        "normalize": list(declared(NormalizeArguments)),
        "monitor_kwargs": list(declared(MonitorArguments)),
    }
    mappings = [
        st.tuples(st.just(owner), st.tuples(st.sampled_from(names), SHELL_TEXTS).map(lambda x: f"{{{x[0]}: {x[1]}}}"))
        for owner, names in owners.items()
    ]
    optimizer = st.tuples(st.sampled_from(["eps", "betas", "fused"]), SHELL_TEXTS).map(
        lambda x: ("policy_kwargs", f"{{optimizer_kwargs: {{{x[0]}: {x[1]}}}}}")
    )
    paths = st.tuples(st.sampled_from(["env_wrapper", "vec_env_wrapper", "callback", "policy"]), SHELL_TEXTS)
    return st.tuples(st.one_of(*mappings, optimizer, paths))


def check_run(folder: Path, pair: tuple[str, str]) -> str:
    """A run of one step, or a refusal that leaves nothing behind."""
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        arguments = ["train", "--plugin", "a2c", "-n", "1", "--n-envs", "1", *SHORT, "-P", "n_steps:1", *flags([pair])]
        outcome, _ = ran(arguments, Path(directory))
        assert outcome == ACCEPTED or not list(Path(directory).iterdir())
    return outcome


# ---------------------------------------------------------------- saved models

JUNK: list[Any] = [None, 0, -1, 1e400, "", "x", [], {}, [[1]], {"a": 1}, True, "\x00", 10**400, 0.5, 10**9]
SPACE = ["Discrete", {"n": 2, "start": 0, "dtype": "<i8"}]
JSON = st.one_of(
    st.sampled_from(JUNK), NUMBERS, st.text(max_size=5),
    st.tuples(
        st.sampled_from(["$array", "$class", "$made", "$dict", "$deque", "$numpy", "$tuple", "$float"]),
        st.sampled_from([*JUNK, "0", "torch.nn.ReLU", ["float32", 0.5], SPACE]),
    ).map(lambda item: {item[0]: item[1]}),
)  # fmt: skip
KEYS = ["predict", "learn", "policy", "save", "__class__", "_setup_model", "train", "$x", "note", "env", "device"]
REMOVED = "removed"
"""Stands for a value that is removed."""
TENSOR_CHANGES: dict[str, Callable[[Any], Any]] = {
    "flat": lambda x: x.flatten()[:-1] if isinstance(x, torch.Tensor) else None,
    "nan": lambda x: torch.full_like(x, float("nan")) if isinstance(x, torch.Tensor) and x.is_floating_point() else "x",
    "inf": lambda x: torch.full_like(x, float("inf")) if isinstance(x, torch.Tensor) and x.is_floating_point() else [],
    "complex": lambda x: x.to(torch.complex64) if isinstance(x, torch.Tensor) else {},
    "half": lambda x: x.half() if isinstance(x, torch.Tensor) else 1.5,
    "next": lambda x: x + 1 if isinstance(x, torch.Tensor) else x,
    "removed": lambda x: REMOVED,
    **{repr(junk)[:9]: lambda _, junk=junk: junk for junk in JUNK},  # type: ignore[misc]
}


def save_model(file: Path) -> None:
    """Save a small model with a part that learns, statistics, and an attribute of the user."""
    env = VecNormalize(make_vec_env("CartPole-v1", 2, seed=0), clip_obs=3.0, norm_reward=False)
    model: Any = PolicyGradient(
        "MlpPolicy", env, "advantage", policy_kwargs={"net_arch": [4]}, device="cpu", seed=0, n_steps=16
    )
    model.note = {"of": ("the user", 3)}
    model.learn(30)
    model.save(file)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every entry of a JSON document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def model_cases(folder: Path) -> st.SearchStrategy[Case]:
    """Damage to a saved model: to its bytes, its members, its document and its tensors."""
    file = folder / "model.zip"
    save_model(file)
    size, content = file.stat().st_size, members(file)
    name, position = st.sampled_from(sorted(content)), st.integers(0, size - 1)
    flip = st.tuples(position, st.integers(1, 255))
    data = st.one_of(st.binary(max_size=40), st.integers(0, 3000).map(lambda n: n.to_bytes(2, "big")))
    tensors = [member for member in content if member.endswith(".pth") and "variables" not in member]
    new = st.sampled_from(["x", "setup.py", "../x.pth", "/x.pth", "pgzoo/99.npy", "critic.pth", "data", "pgzoo/00.npy"])
    document = json.loads(content["pgzoo.json"])
    return st.one_of(
        st.tuples(st.just("flip"), st.lists(flip, min_size=1, max_size=9)),
        st.tuples(st.just("cut"), position),
        st.tuples(st.just("insert"), position | st.just(size), data),
        st.tuples(st.just("without"), name),
        st.tuples(st.just("swap"), name, name),
        st.tuples(st.just("rename"), name, new),
        st.tuples(st.just("add"), new, data),
        st.tuples(st.just("member"), name, st.integers(0, 9000), st.integers(0, 50), data),
        st.tuples(st.just("entry"), st.sampled_from(list(places(document))), st.just(REMOVED) | JSON),
        st.tuples(st.just("new entry"), st.sampled_from(list(document)), st.sampled_from(KEYS) | st.text(), JSON),
        st.tuples(
            st.just("tensor"), st.sampled_from(tensors), st.integers(0, 20), st.sampled_from(list(TENSOR_CHANGES))
        ),
    )


def damaged(data: bytes, what: str, *details: Any) -> bytes:
    """Return a saved model with one kind of damage."""
    if what == "flip":
        flipped = bytearray(data)
        for position, mask in details[0]:
            flipped[position] ^= mask
        return bytes(flipped)
    if what == "cut":
        return data[: details[0]]
    if what == "insert":
        return data[: details[0]] + details[1] + data[details[0] :]
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        content = {name: file.read(name) for name in file.namelist()}
    change_members(content, what, *details)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file, quiet():
        for name, member in content.items():
            file.writestr(name, member)
    return stream.getvalue()


def change_members(content: dict[str, bytes], what: str, name: Any, *details: Any) -> None:
    if what == "without":
        del content[name]
    elif what == "swap":
        content[name], content[details[0]] = content[details[0]], content[name]
    elif what == "rename":
        content[details[0]] = content.pop(name)
    elif what == "add":
        content[name] = details[0]
    elif what == "member":
        start, length, data = details
        content[name] = content[name][:start] + data + content[name][start + length :]
    elif what == "tensor":
        content[name] = changed_tensors(content[name], *details)
    else:
        document = json.loads(content["pgzoo.json"])
        path, value = (name, details[0]) if what == "entry" else ((name, details[0]), details[1])
        change_entry(document, path, value)
        content["pgzoo.json"] = json.dumps(document).encode("utf-8", "surrogatepass")


def change_entry(document: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    if isinstance(value, str) and value == REMOVED:
        del document[path[-1]]
    elif isinstance(document, dict) or isinstance(path[-1], int):
        document[path[-1]] = value


def changed_tensors(data: bytes, number: int, change: str) -> bytes:
    """Return a saved state dict with one entry changed, at any depth."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    path = list(places(state))[number % len(list(places(state)))]
    value = state
    for key in path:
        value = value[key]
    change_entry(state, path, TENSOR_CHANGES[change](value))
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def meaning(data: bytes) -> dict[str, Any]:
    """Return what a saved model says, read without pgzoo: its document with arrays in their places, and its tensors."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:

        def resolved(value: Any) -> Any:
            if isinstance(value, list):
                return [resolved(item) for item in value]
            if not isinstance(value, dict):
                return value
            if list(value) == ["$array"]:
                return np.load(io.BytesIO(file.read(f"pgzoo/{value['$array']}.npy")), allow_pickle=False)
            return {key: resolved(item) for key, item in value.items()}

        tensors = {
            name: torch.load(io.BytesIO(file.read(name)), weights_only=True)
            for name in ("policy.pth", "policy.optimizer.pth")
        }
        return {"document": resolved(json.loads(file.read("pgzoo.json"))), **tensors}


def check_contains(actual: Any, said: Any, path: tuple[Any, ...] = ()) -> None:
    """Check that a model has what a file says. It may have more: defaults of what the file lacks."""
    where = ".".join(map(str, path))
    of_torch = any(str(key).endswith((".pth", "part_state_arrays")) for key in path)  # which keeps its own dtype
    if path[1:] == ("attributes", "saved_by"):
        return
    if path[1:3] == ("parts", "parts") and path[-1] in ("distribution", "class"):
        return  # where a part came from; a warning names another source
    if path[1:3] == ("states", "part_state_arrays") and "param_groups" in path:
        return  # the options of a part's optimizer are hyperparameters of the part
    if isinstance(said, dict) and any(str(key).startswith("$") for key in said):
        assert list(actual) == list(said), where
    if isinstance(said, dict):
        assert isinstance(actual, dict), where
        for key, value in said.items():
            assert key in actual, f"{where}.{key}"
            check_contains(actual[key], value, (*path, key))
    elif isinstance(said, (list, tuple)):
        assert len(actual) == len(said), where
        for i, (item, value) in enumerate(zip(actual, said, strict=True)):
            check_contains(item, value, (*path, i))
    elif isinstance(said, (torch.Tensor, np.ndarray)):
        number, expected = np.asarray(actual), np.asarray(said)
        assert number.dtype == expected.dtype or of_torch, where
        np.testing.assert_array_equal(number, expected.astype(number.dtype), err_msg=where)
    elif isinstance(actual, (torch.Tensor, np.ndarray)) and isinstance(said, (int, float)):
        assert (actual.ndim, float(actual)) == (0, np.float32(said)), where  # torch's Adam counts steps in a tensor
    else:
        assert type(actual) is type(said) or {type(actual), type(said)} == {int, float}, f"{where}: {actual!r}"
        assert actual == said or (actual != actual and said != said), f"{where}: {actual!r}"


def check_model(folder: Path, *damage: Any) -> str:
    """Damaged bytes are refused, or change nothing that is read. A changed content is refused, or is what is loaded."""
    original = (folder / "model.zip").read_bytes()
    data = damaged(original, *damage)
    try:
        with quiet(), contextlib.redirect_stdout(None):
            model = PolicyGradient.load(io.BytesIO(data), device="cpu")
    except MachineError as error:
        raise AssertionError("a limit of the format is too high") from error
    except PgzooError as error:
        if not 1 <= len(str(error).splitlines()) <= 2:
            raise AssertionError(f"an error has too many lines: {error}") from error
        return REFUSED
    stream = io.BytesIO()
    model.save(stream)
    expected = meaning(original if damage[0] in ("flip", "cut", "insert") else data)
    check_contains(meaning(stream.getvalue()), expected)
    with contextlib.suppress(DivergenceError):  # a weight is NaN
        model.predict(np.zeros(4, dtype=np.float32))
    return ACCEPTED


# ---------------------------------------------------------------- run folders and checkpoints

LINE_VALUES = [
    "", " null", " -1", " .nan", " [1, x]", " {a: 1}", " x", " !!int y", " 1e400", " &a [*a]", " 2001-99-99", " 0",
    " 10000000000", " true", " ''", " 0.5",
]  # fmt: skip
TRAIN = ["train", "--plugin", "rtg_moving_average", "-n", "64", "--n-envs", "2", *SHORT, "-P", "normalize:true"]


def folder_cases(folder: Path) -> st.SearchStrategy[Case]:
    """Damage to a file of a run's folder: it is removed, replaced by a folder, cut or flipped, or a line is changed."""
    pgzoo(*TRAIN, cwd=folder)
    run = folder / "logs" / "rtg_moving_average" / "CartPole-v1_1"
    shutil.move(run, folder / "run")
    (folder / "expected").write_text(pgzoo("eval", "run", "-n", "1", "--json", cwd=folder).stdout)
    names = sorted(str(path.relative_to(folder / "run")) for path in (folder / "run").rglob("*") if path.is_file())
    line = st.tuples(
        st.just("line"), st.sampled_from(["CartPole-v1/config.yml", "CartPole-v1/args.yml"]), st.integers(0, 60),
        st.sampled_from(LINE_VALUES) | st.sampled_from(VALUES),
    )  # fmt: skip
    return st.one_of(file_damage(names), line, line)


def file_damage(names: list[str]) -> st.SearchStrategy[Case]:
    """Damage to one of some files."""
    name, position = st.sampled_from(names), st.integers(0, 100_000)
    return st.one_of(
        st.tuples(st.just("remove"), name),
        st.tuples(st.just("folder"), name),
        st.tuples(st.just("cut"), name, position),
        st.tuples(st.just("flip"), name, st.lists(st.tuples(position, st.integers(1, 255)), min_size=1, max_size=9)),
    )


def damage_file(folder: Path, what: str, name: str, *details: Any) -> None:
    file = folder / name
    data = file.read_bytes()
    file.unlink()
    if what == "folder":
        file.mkdir()
    elif what == "cut":
        file.write_bytes(data[: details[0] % max(len(data), 1)])
    elif what == "flip":
        flipped = bytearray(data)
        for position, mask in details[0] if data else ():
            flipped[position % len(data)] ^= mask
        file.write_bytes(flipped)
    elif what == "line":
        file.write_bytes(changed_lines(data.decode(), [("value", *details)]))


def check_folder(folder: Path, *damage: Any) -> str:
    """What `eval` accepts gives the result of the undamaged run, unless its configuration was changed."""
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        shutil.copytree(folder / "run", Path(directory) / "run")
        damage_file(Path(directory) / "run", *damage)
        outcome, printed = ran(["eval", "run", "-n", "1", "--json"], Path(directory))
    if outcome == ACCEPTED and damage[1].endswith((".zip", ".csv", ".npz", ".pkl")):
        assert json.loads(printed) == json.loads((folder / "expected").read_text())
    return outcome


LAST = Path("checkpoints", "64")


def checkpoint_cases(folder: Path) -> st.SearchStrategy[Case]:
    """Damage to a checkpoint from which a run is resumed."""
    pair = ["-P", "n_steps:16", "-P", "policy_kwargs:{net_arch: [4]}", "-P", "normalize:true"]
    command = ["train", "--plugin", "a2c", "-n", "96", "--n-envs", "2", *SHORT, *pair, "--checkpoint-every", "32"]
    pgzoo(*command, cwd=folder)
    run = folder / "logs" / "a2c" / "CartPole-v1_1"
    shutil.copy(run / "CartPole-v1.zip", folder / "expected.zip")
    (run / "checkpoints" / "finished").unlink()
    (run / "CartPole-v1.zip").unlink()
    shutil.move(run, folder / "run")
    last = folder / "run" / "checkpoints" / "64"
    state = json.loads((last / "state.json").read_bytes())
    change = st.tuples(
        st.just("state"), st.just(str(LAST)), st.sampled_from(list(places(state))), st.just(REMOVED) | JSON
    )
    return st.one_of(file_damage([str(LAST / name) for name in ("model.zip", "state.json", "state.npz")]), change)


def change_state(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    """Change an entry of state.json, and its checksum."""
    state = json.loads((folder / "state.json").read_bytes())
    change_entry(state, path, value)
    text = json.dumps(state).encode("utf-8", "surrogatepass")
    (folder / "state.json").write_bytes(text)
    with np.load(folder / "state.npz") as file:
        arrays = {**file, "checksum": zlib.crc32(text)}
    np.savez(folder / "state.npz", **arrays)  # type: ignore[arg-type]


def check_checkpoint(folder: Path, what: str, *damage: Any) -> str:
    """A run that is resumed from a damaged checkpoint ends as the run that was not interrupted.

    Another state with the right checksum is only known to be refused without a traceback, or to be used.
    """
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        run = Path(directory) / "run"
        shutil.copytree(folder / "run", run)
        if what == "state":
            change_state(run / damage[0], *damage[1:])
        else:
            damage_file(run, what, *damage)
        outcome, _ = ran(["train", "--resume", "run", "--no-progress", "--device", "cpu"], Path(directory))
        if outcome == ACCEPTED and what != "state":
            resumed = meaning((run / "CartPole-v1.zip").read_bytes())
            expected = meaning((folder / "expected.zip").read_bytes())
            for name in ("policy.pth", "policy.optimizer.pth"):
                check_contains(resumed[name], expected[name])
    return outcome


# ---------------------------------------------------------------- all kinds


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        cases: prepares a folder, and returns the strategy that draws the arguments of a case.
        check: checks a case, given the folder and its arguments, and returns whether it was accepted.
        share: the share of all cases. A case of a command that runs an environment is a hundred times slower.
    """

    cases: Callable[[Path], st.SearchStrategy[Case]]
    check: Callable[..., str]
    share: float


KINDS = {
    "model files": Kind(model_cases, check_model, 0.4),
    "hyperparameters": Kind(hyperparameter_cases, check_hyperparameters, 0.2),
    "YAML files": Kind(file_cases, check_file, 0.15),
    "YAML that is written": Kind(yaml_cases, check_yaml, 0.1),
    "options": Kind(option_cases, check_options, 0.05),
    "run folders": Kind(folder_cases, check_folder, 0.05),
    "checkpoints": Kind(checkpoint_cases, check_checkpoint, 0.03),
    "runs of one step": Kind(run_cases, check_run, 0.02),
}


def run_kind(name: str, n_cases: int, folder: Path, seed: int = 0) -> Counter[str]:
    """Draw and check cases of one kind. Return how many were accepted and refused.

    Raises:
        AssertionError: a case fails. Hypothesis has printed the simplest one that it found.
    """
    outcomes: Counter[str] = Counter()
    kind = KINDS[name]
    strategy = kind.cases(folder)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=n_cases, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(strategy)
    def check(case: Case) -> None:
        with time_limit(), quiet():
            outcomes[kind.check(folder, *case)] += 1

    check()
    return outcomes
