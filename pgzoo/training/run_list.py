"""The runs in a folder: what was trained, how far, how well, and whether it still runs."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgzoo.errors import ConfigError, PgzooError
from pgzoo.training.run_folder import RunFolder, finished_steps, saved_steps
from pgzoo.training.run_logs import RunLogs, open_logs
from pgzoo.training.run_state import run_state, seconds_since_change
from pgzoo.training.yaml_files import read_yaml_mapping

DAMAGED = "damaged"
MAX_BYTES = 10_000_000
"""The largest description of a saved model that is read."""


@dataclass(frozen=True)
class Score:
    """An evaluation during training.

    Attributes:
        mean: the mean return.
        steps: the environment steps before it.
    """

    mean: float
    steps: int


@dataclass(frozen=True)
class ListedRun:
    """A run in a list.

    Attributes:
        path: its folder.
        plugin: the recipe or combination; `ppo (RL Zoo)` for an algorithm of RL Zoo.
        env: the environment.
        seed: the seed; None if it is not known.
        state: see `run_state`; `damaged` if a file cannot be read.
        steps: environment steps so far, as far as the logs tell.
        n_timesteps: the steps it should make; None if it does not say.
        last: the last evaluation; None if there was none.
        best: the best evaluation; None if there was none.
        n_episodes: episodes per evaluation.
        age: seconds since its logs changed; infinity if it has none.
        problem: what is damaged; empty otherwise.
    """

    path: Path
    plugin: str
    env: str
    seed: int | None
    state: str
    steps: int
    n_timesteps: int | None
    last: Score | None
    best: Score | None
    n_episodes: int
    age: float
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain data for JSON."""
        scores = {name: score and {"mean_return": score.mean, "steps": score.steps} for name, score in
                  (("last", self.last), ("best", self.best))}  # fmt: skip
        age = self.age if self.age < float("inf") else None
        return {**vars(self), **scores, "path": str(self.path), "age": age}


ORDERS: dict[str, Callable[[ListedRun], Any]] = {
    "name": lambda run: (),
    "env": lambda run: run.env,
    "plugin": lambda run: run.plugin,
    "steps": lambda run: -run.steps,
    "score": lambda run: float("inf") if run.last is None else -run.last.mean,
    "best": lambda run: float("inf") if run.best is None else -run.best.mean,
    "age": lambda run: run.age,
    "state": lambda run: run.state,
}
"""How a list is sorted: the largest steps and scores first, the youngest first; equal runs by name."""


def list_runs(
    folder: Path, *, env: str | None = None, plugin: str | None = None, sort: str = "name"
) -> list[ListedRun]:
    """Return the runs in a folder and below it.

    Args:
        folder: the folder.
        env: only runs of this environment.
        plugin: only runs of this recipe or combination; `ppo` includes RL Zoo's.
        sort: a key of ORDERS.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; `pgzoo train` creates one")
    paths = sorted({file.parent.parent for file in folder.rglob("*/args.yml")}, key=_number)
    runs = [_listed(path) for path in paths]
    chosen = [
        run for run in runs if env in (None, run.env) and plugin in (None, run.plugin, run.plugin.partition(" ")[0])
    ]
    return sorted(chosen, key=ORDERS[sort])


def _listed(path: Path) -> ListedRun:
    """Return a run. A file that cannot be read makes it a damaged one, and not the list."""
    age = float("inf")
    try:
        age = seconds_since_change(path)
        logs = open_logs(path)
        folder = _folder(path)
        config = read_yaml_mapping(folder.details / "config.yml")
        n_timesteps = _whole(config.get("n_timesteps"))
        model_steps = _model_steps(folder.model)
        evaluations = logs.evaluations
        last = best = None
        if evaluations is not None:
            scores = [Score(float(y), int(x)) for x, y in zip(evaluations.steps, evaluations.returns, strict=True)]
            last, best = scores[-1], max(scores, key=lambda score: score.mean)
        return ListedRun(
            path,
            logs.name,
            logs.env,
            logs.seed,
            state=run_state(folder, n_timesteps, model_steps),
            steps=_steps(folder, logs, model_steps),
            n_timesteps=n_timesteps,
            last=last,
            best=best,
            n_episodes=evaluations.n_episodes if evaluations else 0,
            age=age,
        )
    except (PgzooError, OSError) as error:
        env = next(path.glob("*/args.yml")).parent.name
        return ListedRun(path, path.parent.name, env, None, DAMAGED, 0, None, None, None, 0, age, str(error))


def _folder(path: Path) -> RunFolder:
    return RunFolder(path, sorted(path.glob("*/args.yml"))[0].parent.name)


def _steps(folder: RunFolder, logs: RunLogs, model_steps: int | None) -> int:
    """Return the most environment steps that a file of a run tells of."""
    known = [finished_steps(folder) or 0, model_steps or 0, *saved_steps(folder)]
    if logs.evaluations is not None:
        known.append(int(logs.evaluations.steps[-1]))
    if logs.episodes is not None:
        known.append(int(logs.episodes.steps[-1]))
    return max(known)


def _model_steps(model: Path) -> int | None:
    """Return the environment steps after which a model was saved, from SB3's description of it; None if unknown."""
    with suppress(Exception), zipfile.ZipFile(model) as archive:  # zipfile and zlib raise many kinds
        info = archive.getinfo("data")
        if info.file_size <= MAX_BYTES:
            data = json.loads(archive.read(info))
            return _whole(data.get("num_timesteps")) if isinstance(data, dict) else None
    return None


def _whole(value: Any) -> int | None:
    """Return a number of steps as an int. RL Zoo writes it as a float."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return int(value) if is_number and abs(value) < 2**63 else None


def _number(path: Path) -> tuple[str, str, int]:
    """Return a sort key under which run 10 follows run 9."""
    name, _, number = path.name.rpartition("_")
    return (str(path.parent), name, int(number)) if number.isdecimal() else (str(path.parent), path.name, 0)
