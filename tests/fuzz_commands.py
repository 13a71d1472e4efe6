"""Random hyperparameters, YAML and options, and what must be true of them. See `fuzzing`."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import click
from command import pgzoo
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pgzoo import PgzooError
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
TEXTS = st.booleans().flatmap(
    lambda listed: (
        st.sampled_from(VALUES)
        if listed
        else st.one_of(
            NUMBERS.map(str),
            NUMBERS.map(lambda x: f"lin_{x}"),
            st.text(max_size=8),
            st.lists(st.sampled_from(VALUES), max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        )
    )
)
"""Half of them are listed above."""
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
