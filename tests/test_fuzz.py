"""Random input on the command line and in YAML: it is accepted, or refused with status 2 in one or two lines.

The inputs are made of what has broken programs before, and of random changes to valid files. Seeds are fixed, so that a
failure can be repeated. A run that is accepted ends before its folder is made, except in the last test.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import pytest
from command import pgzoo

from pgzoo.interface.hyperparameters import declared
from pgzoo.registry.policy_arguments import PolicyArguments
from pgzoo.registry.settings import AlgorithmConfig
from pgzoo.training.config import RunConfig
from pgzoo.training.keyword_arguments import MonitorArguments, NormalizeArguments

BATCHES, PER_BATCH = 25, 20
"""500 cases in all: each test below takes its share."""


def seeds(start: int, stop: int) -> pytest.MarkDecorator:
    """Parametrize over batches, of which every third is a default test."""
    later = (pytest.param(i, marks=pytest.mark.slow) for i in range(start, stop) if (i - start) % 3)
    return pytest.mark.parametrize("seed", [*range(start, stop, 3), *later])


VALUES = [
    "", " ", "~", "none", "true", "False", "yes", "0", "-1", "1", "3", "0.5", "1.5", "1e3", "1e23", "1e400",
    "-1e400", "9" * 400, "0x_", "0x1F", "0b", "1_0", "+", "-", ".", ".inf", "-.inf", ".nan", "nan", "inf", "1e-320",
    "2001-99-99", "12:30:45", "!!int x", "!!float []", "!!python/name:os.system", "!x", "!!str", "lin_", "lin_inf",
    "lin_-1", "lin_3e-4", "lin_nan", "{}", "[]", "[[]]", "[1, 2", "{a: 1", "{a: b: c}", "{1: 2}", "[.inf]",
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
    "plugins new": ["--kind", "--folder"],
}  # fmt: skip
ARGUMENTS = [
    "", "x", "value", "rtg_value", "-1", "..", "/", "/dev/null", "x" * 300, "x" * 5000, "γ", "\udcff", "*",
    "-", "--",
]  # fmt: skip
SHELL_VALUES = [value for value in VALUES if "\x00" not in value]
"""A program's arguments end at a null character, so that it cannot be in one."""
TIME_LIMIT = 20


@pytest.fixture
def stopped_before_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is accepted ends with status 0 where its folder would be made. Threads stay as they are."""

    def accept(*arguments: Any) -> None:
        raise click.exceptions.Exit(0)

    monkeypatch.setattr("pgzoo.training.run_folder.new_folder", accept)
    monkeypatch.setattr("pgzoo.cli.options.set_threads", lambda number: None)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
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


def is_handled(arguments: list[str], folder: Path) -> int:
    """Run a command and return its status. It must be 0, or 2 with one or two lines, and nothing may be written."""
    before = sorted(folder.rglob("*"))
    try:
        with time_limit(TIME_LIMIT):
            result = pgzoo(*arguments, cwd=folder, status=None)
    except Exception as error:
        raise AssertionError(f"pgzoo {arguments!r}") from error
    message = f"pgzoo {arguments!r}: {result}"
    assert result.returncode in (0, 2), message
    if result.returncode == 2:
        assert result.stderr.startswith("Error: "), message
        assert 1 <= len(result.stderr.splitlines()) <= 2, message
        assert "Traceback" not in result.stdout + result.stderr, message
    assert sorted(folder.rglob("*")) == before, message
    return result.returncode


def batch(seed: int) -> list[random.Random]:
    """Return one generator per case, so that each case can be repeated alone."""
    return [random.Random(f"{seed}-{case}") for case in range(PER_BATCH)]


@pytest.mark.usefixtures("stopped_before_its_folder")
@seeds(0, 10)
def test_hyperparameters(seed: int, tmp_path: Path) -> None:
    """`-P name:value`, mostly with names that exist and values that do not fit."""
    for draw in batch(seed):
        arguments = ["train", "--plugin", draw.choice(RECIPES)]
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            name = draw.choice(NAMES if draw.random() < 0.4 else HYPERPARAMETERS)
            arguments += ["-P", f"{name}:{draw.choice(VALUES)}"]
        is_handled(arguments, tmp_path)


def noise(draw: random.Random, text: str) -> bytes:
    """Return a YAML text with random changes: values, lines and characters that are replaced, doubled or lost."""
    lines = text.splitlines()
    for _ in range(draw.randint(1, 4)):
        i = draw.randrange(len(lines))
        change = draw.randrange(5)
        if change == 0:
            lines[i] = lines[i].partition(":")[0] + ": " + draw.choice(VALUES)
        elif change == 1:
            lines.insert(i, lines[draw.randrange(len(lines))])
        elif change == 2 and len(lines) > 1:
            del lines[i]
        elif change == 3:
            position = draw.randint(0, len(lines[i]))
            lines[i] = lines[i][:position] + draw.choice(VALUES) + lines[i][position:]
        else:
            lines[i] = f"  {draw.choice(NAMES)}: {draw.choice(VALUES)}"
    data = "\n".join(lines).encode("utf-8", "surrogateescape")
    if draw.random() < 0.1:
        data = data[: draw.randrange(len(data))] + draw.randbytes(5) + data[draw.randrange(len(data)) :]
    return data


@pytest.mark.usefixtures("stopped_before_its_folder")
@seeds(10, 18)
def test_files(seed: int, tmp_path: Path) -> None:
    """`--conf-file` with changed copies of the files that pgzoo ships."""
    for draw in batch(seed):
        recipe = draw.choice(["ppo", "a2c", "grpo", "rtg_value", "gae"])
        text = (files("pgzoo.hyperparams") / f"{recipe}.yml").read_text(encoding="utf-8")
        (tmp_path / "a.yml").write_bytes(noise(draw, text))
        is_handled(["train", "--plugin", recipe, "--conf-file", "a.yml"], tmp_path)


@pytest.mark.usefixtures("stopped_before_its_folder")
@seeds(18, BATCHES)
def test_options(seed: int, tmp_path: Path) -> None:
    """Options and arguments of the commands with values of any kind."""
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    for draw in batch(seed):
        command = draw.choice(
            ["train", "train", "train", "eval", "enjoy", "plugins show", "plugins check", "plugins new"]
        )
        arguments = command.split()
        if command in ("eval", "plugins show", "plugins new") and draw.random() < 0.8:
            arguments.append(draw.choice(ARGUMENTS))
        if command == "plugins check":
            arguments.append("valu")  # an unknown name, so that no check begins
        for option in draw.sample(OPTIONS.get(command, []), k=min(draw.randint(0, 2), len(OPTIONS.get(command, [])))):
            value = draw.choice(
                [*SHELL_VALUES, *ARGUMENTS, "empty.py", "exits.py", "exits", "2147483648", "4294967296", "100000"]
            )
            arguments += [option, value]
        is_handled(arguments, tmp_path)


RUNS: list[Callable[[random.Random], str]] = [
    lambda draw: f"env_kwargs:{{{draw.choice(['render_mode', 'sutton_barto_reward', 'x'])}: {draw.choice(VALUES)}}}",
    lambda draw: f"policy_kwargs:{{{draw.choice(list(declared(PolicyArguments)))}: {draw.choice(VALUES)}}}",
    lambda draw: f"normalize:{{{draw.choice(list(declared(NormalizeArguments)))}: {draw.choice(VALUES)}}}",
    lambda draw: f"monitor_kwargs:{{{draw.choice(list(declared(MonitorArguments)))}: {draw.choice(VALUES)}}}",
    lambda draw: f"{draw.choice(['env_wrapper', 'vec_env_wrapper', 'callback', 'policy'])}:{draw.choice(VALUES)}",
    lambda draw: (
        f"policy_kwargs:{{optimizer_kwargs: {{{draw.choice(['eps', 'betas', 'fused'])}: {draw.choice(VALUES)}}}}}"
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(BATCHES, BATCHES + 5))
def test_runs(seed: int, tmp_path: Path) -> None:
    """Arguments that reach VecNormalize, Monitor, the policy and its optimizer: a run of one step, or a refusal."""
    numbers = ["-n", "1", "--n-envs", "1", "--eval-episodes", "1", "--eval-freq", "-1"]
    short = [*numbers, "--no-progress", "--device", "cpu"]
    for case, draw in enumerate(batch(seed)):
        folder = tmp_path / str(case)
        folder.mkdir()
        arguments = ["train", "--plugin", "a2c", *short, "-P", "n_steps:1", "-P", draw.choice(RUNS)(draw)]
        with time_limit(TIME_LIMIT):
            result = pgzoo(*arguments, cwd=folder, status=None)
        message = f"pgzoo {arguments!r}: {result}"
        assert result.returncode in (0, 2), message
        if result.returncode == 2:
            assert len(result.stderr.splitlines()) <= 2, message
            assert not list(folder.iterdir()), message
