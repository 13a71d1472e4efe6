"""The logs of runs of pgzoo, RL Zoo and SB3: training episodes, evaluations and logged values."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pgzoo.errors import ConfigError, converted
from pgzoo.interface.types import Array
from pgzoo.training.config import is_atari
from pgzoo.training.run_folder import RunFolder
from pgzoo.training.run_state import LOGS, RUNNING, SILENT_SECONDS, run_state, seconds_since_change
from pgzoo.training.yaml_files import read_yaml_mapping

MONITORS, EVALUATIONS, PROGRESS = LOGS
NOT_COMPARED = ("n_timesteps", "log_interval", "env")
"""Settings in which two runs of one recipe may differ and still be seeds of the same experiment."""
ATARI_FRAME_SKIP = 4
"""The frames that SB3's AtariWrapper skips."""


@dataclass(frozen=True)
class Episodes:
    """The training episodes of a run, in the order in which they ended.

    Attributes:
        returns: (n,).
        lengths: steps, (n,).
        seconds: wall time since the run began, (n,).
    """

    returns: Array
    lengths: Array
    seconds: Array

    @cached_property
    def steps(self) -> Array:
        """The environment steps of all episodes up to each one (n,), as SB3's `ts2xy` counts them."""
        return np.cumsum(self.lengths)


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of a run.

    Attributes:
        steps: environment steps of training before each one, (n,).
        returns: mean return of each one, (n,).
        lengths: mean length of each one, (n,).
        successes: success rate of each one, (n,); None if the environment does not report it.
        n_episodes: episodes per evaluation.
    """

    steps: Array
    returns: Array
    lengths: Array
    successes: Array | None
    n_episodes: int


@dataclass(frozen=True)
class RunLogs:
    """The logs in a run's folder. Each kind is read when it is used.

    Attributes:
        path: the folder.
        name: the recipe or algorithm, or the folder's name if it does not say.
        env: the environment; empty if it is not known.
        seed: the seed; None if it is not known.
        settings: the run's configuration; empty if it is not known.
        frames_per_step: what Monitor counts in a step of the agent: the frames of Atari games, since it is inside the
            wrapper that skips them.
    """

    path: Path
    name: str
    env: str
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    frames_per_step: int = 1

    def is_running(self) -> bool:
        """Whether a process is training the run, see `run_state`. Without a configuration: whether its logs change."""
        if details := _details(self.path):
            return run_state(RunFolder(self.path, details.name)) == RUNNING
        return seconds_since_change(self.path) < SILENT_SECONDS

    @cached_property
    def episodes(self) -> Episodes | None:
        """The training episodes; None if there are no monitor files, or if no episode has ended.

        Raises:
            ConfigError: a monitor file is damaged.
        """
        parts = [read_monitor(file) for file in sorted(self.path.glob(MONITORS))]
        rows = np.concatenate([rows for _, rows in parts] or [np.empty((0, 3))])
        if not len(rows):
            return None
        first = min(start for start, _ in parts)
        offsets = np.concatenate([np.full(len(rows), start - first) for start, rows in parts])
        order = np.argsort(rows[:, 2] + offsets, kind="stable")
        returns, lengths, seconds = rows[order].T
        return Episodes(returns, lengths / self.frames_per_step, seconds + offsets[order])

    @cached_property
    def evaluations(self) -> Evaluations | None:
        """The evaluations; None if there are none.

        Raises:
            ConfigError: the file is damaged.
        """
        file = self.path / EVALUATIONS
        if not file.is_file():
            return None
        with converted(f"{file} cannot be read"), np.load(file, allow_pickle=False) as arrays:
            steps, results, lengths = (np.asarray(arrays[name]) for name in ("timesteps", "results", "ep_lengths"))
            successes = np.asarray(arrays["successes"]) if "successes" in arrays else None
            if not len(steps):
                return None
            if results.shape != lengths.shape or len(results) != len(steps):
                raise ConfigError(f"{file} has {len(steps)} steps for {len(results)} evaluations")
            if steps.ndim != 1 or results.ndim != 2 or not np.isfinite(steps.astype(float)).all():
                raise ConfigError(f"{file} is not a list of steps and a table of returns")
            return Evaluations(
                steps.astype(float),
                results.mean(axis=1),
                lengths.mean(axis=1),
                successes.mean(axis=1) if successes is not None and len(successes) == len(steps) else None,
                results.shape[1],
            )

    @cached_property
    def progress(self) -> dict[str, Array]:
        """The columns of progress.csv, with nan where a row has no number; empty without such a file.

        Raises:
            ConfigError: the file is damaged.
        """
        file = self.path / PROGRESS
        rows = _read_csv(file) if file.is_file() else []
        if not rows:
            return {}
        (_, header), *body = rows
        for number, row in body:
            if len(row) > len(header):
                raise ConfigError(f"{file}:{number}: the row has {len(row)} values for {len(header)} columns")
        columns = {name: np.full(len(body), np.nan) for name in header}
        for i, (_, row) in enumerate(body):
            for name, text in zip(header, row, strict=False):
                with suppress(ValueError):  # empty, or a logged text
                    columns[name][i] = float(text)
        return columns


def find_runs(paths: Iterable[Path]) -> list[RunLogs]:
    """Return the runs in folders and the folders below them, in the order of their names.

    Raises:
        ConfigError: a folder is missing, or has no logs.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"there is no folder {path}")
        folders = {file.parent for pattern in LOGS for file in path.rglob(pattern)}
        if not folders:
            raise ConfigError(f"{path} has no logs: no monitor.csv, {EVALUATIONS} or {PROGRESS} in it or below it")
        for folder in sorted(folders, key=_natural):
            found.setdefault(folder.resolve(), folder)
    return [open_logs(folder) for folder in found.values()]


def open_logs(folder: Path) -> RunLogs:
    """Return the logs of one folder, with the recipe, environment and seed that its args.yml names.

    A run of RL Zoo is named `ppo (RL Zoo)`, because its PPO is SB3's. `sb3:ppo` already says so.

    Raises:
        ConfigError: args.yml or config.yml is damaged.
    """
    if (details := _details(folder)) is None:
        return RunLogs(folder, folder.resolve().name, _monitored_env(folder))
    args, config = read_yaml_mapping(details / "args.yml"), details / "config.yml"
    settings = read_yaml_mapping(config) if config.is_file() else {}
    algo = str(args.get("algo"))
    name = str(args["plugin"]) if "plugin" in args else algo if ":" in algo else f"{algo} (RL Zoo)"
    seed, env = args.get("seed"), str(args.get("env", details.name))
    inside = is_atari(env) and args.get("vec_env") not in ("vector", "envpool")  # these skip frames themselves
    return RunLogs(
        folder,
        name,
        env,
        seed if isinstance(seed, int) else None,
        {key: value for key, value in _flat(settings).items() if key not in NOT_COMPARED},
        ATARI_FRAME_SKIP if inside else 1,
    )


def read_monitor(file: Path) -> tuple[float, Array]:
    """Return the start time of a monitor file, and the return, length and seconds of each episode (n, 3)."""
    rows = _read_csv(file)
    start = _header(file).get("t_start")
    start = float(start) if isinstance(start, (int, float)) and abs(start) < 2**63 else 0.0  # False for NaN
    if not rows:
        return start, np.empty((0, 3))
    (_, header), *body = rows
    if missing := [name for name in ("r", "l", "t") if name not in header]:
        raise ConfigError(f"{file} is not a monitor file: it has no column {', '.join(missing)}")
    at = [header.index(name) for name in ("r", "l", "t")]
    values = np.empty((len(body), 3))
    for i, (number, row) in enumerate(body):
        try:
            values[i] = [float(row[column]) for column in at]
        except (ValueError, IndexError) as error:
            raise ConfigError(
                f"{file}:{number}: {','.join(row)!r} is not an episode's return, length and time"
            ) from error
    if not np.isfinite(values[:, 1:]).all() or (values[:, 1] < 0).any():
        raise ConfigError(f"{file} has an episode whose length or time is not a number")
    values[:, 2] = continuous(values[:, 2])
    return start, values


def continuous(seconds: Array) -> Array:
    """Return a clock (n,) that goes on where it begins again at 0, as that of a resumed run does.

    >>> continuous(np.array([1.0, 5.0, 2.0, 3.0])).tolist()
    [1.0, 5.0, 7.0, 8.0]
    """
    ends = np.where(np.diff(seconds) < 0, seconds[:-1], 0.0)
    whole: Array = seconds + np.concatenate([[0.0], np.cumsum(ends)])
    return whole


def _read_csv(file: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file with their line numbers, without comments and an incomplete last line.

    Raises:
        ConfigError: the file cannot be read, or is not CSV.
    """
    if not file.is_file():
        raise ConfigError(f"{file} is not a file")
    with converted(f"{file} cannot be read"):
        text = file.read_text(encoding="utf-8")
        if "\0" in text:
            raise ConfigError(f"{file} is not text")
        lines = text[: text.rfind("\n") + 1].splitlines()  # a run may be writing the last one
        return [
            (number, next(csv.reader([line])))
            for number, line in enumerate(lines, 1)
            if line.strip() and not line.startswith("#")
        ]


def _header(file: Path) -> dict[str, Any]:
    """Return the first line of a monitor file, which is JSON after `#`; an empty mapping if it is anything else."""
    with suppress(OSError, ValueError, RecursionError), file.open(encoding="utf-8") as lines:
        line = lines.readline()
        header = json.loads(line[1:]) if line.startswith("#") else {}
        return header if isinstance(header, dict) else {}
    return {}


def _details(folder: Path) -> Path | None:
    """Return the folder of a run's args.yml; None if there is none."""
    return next((file.parent for file in sorted(folder.glob("*/args.yml"))), None)


def _monitored_env(folder: Path) -> str:
    names = (_header(file).get("env_id") for file in sorted(folder.glob(MONITORS)))
    return next((str(name) for name in names if name not in (None, "None")), "")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with keys such as `baseline.name`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key under which `run_10` follows `run_9`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]
