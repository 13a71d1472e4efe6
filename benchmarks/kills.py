"""Kill short runs at random moments, resume each one, and compare it with a run that was not killed.

    python benchmarks/kills.py --kills 200

Each run is a process of its own, which SIGKILL ends at a random moment: while it sets up, samples, updates, evaluates,
or writes a file. The next process resumes it, and is killed as well, until one ends by itself. The counts so far are
printed whenever a run ends.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pgzoo import PolicyGradient, Registry
from pgzoo.errors import ConfigError
from pgzoo.training.checkpoints import last_checkpoint
from pgzoo.training.run_folder import RunFolder, open_folder, saved_steps
from pgzoo.training.runs import TrainArguments, prepare, prepare_resumed

RUNS = {
    "ppo": {"n_steps": 32, "batch_size": 32, "normalize": True},
    "reinforce": {"n_episodes": 4},
    "rloo": {"n_episodes": 4, "group_size": 2},
}
TIMES = ("time/fps", "time/time_elapsed")


@dataclass
class Counts:
    """What happened.

    Attributes:
        kills: how many processes were killed.
        before_start: those that were killed before the first checkpoint, so that the run began again.
        in_writing: those that left a partial file or folder.
        runs: how many runs ended.
        different: the runs that did not equal the one that was not killed.
        lost: how often a checkpoint was missing or unreadable.
    """

    kills: int = 0
    before_start: int = 0
    in_writing: int = 0
    runs: int = 0
    different: int = 0
    lost: int = 0


def start(plugin: str, log_folder: Path) -> None:
    """Begin a run."""
    arguments = TrainArguments(
        plugin=plugin, n_timesteps=400, n_envs=2, seed=7, log_folder=log_folder, device="cpu", eval_freq=100,
        eval_episodes=1, checkpoint_every="64",
    )  # fmt: skip
    registry = Registry.discover()
    config = arguments.configuration(registry, arguments.overrides(RUNS[plugin], {}))
    prepare(config, arguments, registry).start()


def resume(folder: Path) -> None:
    """Continue a run."""
    prepare_resumed(folder, Registry.discover).start()


def in_process(function: Callable[[], None], seconds: float | None) -> bool:
    """Run a function in a process that is killed after some seconds; None: never. Return whether it was killed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            function()
            status = 0
        finally:
            os._exit(status)
    deadline, (ended, status) = time.monotonic() + (seconds or 0), os.waitpid(pid, 0 if seconds is None else os.WNOHANG)
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
        ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"a run ended with status {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def fingerprint(folder: RunFolder) -> dict[str, str]:
    """Return hashes of the final and the best model, the episodes, the evaluations and the log without times."""
    parts = {}
    for path in (folder.model, folder.best_model):
        model = PolicyGradient.load(path, device="cpu")
        tensors = [tensor.numpy() for _, tensor in sorted(model.policy.state_dict().items())]
        for state in model.policy.optimizer.state_dict()["state"].values():
            tensors += [np.asarray(state[name]) for name in sorted(state)]
        parts[path.name] = b"".join(tensor.tobytes() for tensor in tensors)
    files = sorted(folder.path.glob("*monitor.csv"))
    lines = [[line.split(",")[:2] for line in file.read_text().splitlines()[1:]] for file in files]
    parts["episodes"] = repr(lines).encode()
    with np.load(folder.path / "evaluations.npz") as arrays:
        parts["evaluations"] = b"".join(arrays[name].tobytes() for name in ("timesteps", "results", "ep_lengths"))
    with (folder.path / "progress.csv").open(encoding="utf-8") as file:
        rows = [sorted((k, v) for k, v in row.items() if k not in TIMES) for row in csv.DictReader(file)]
    parts["log"] = repr(rows).encode()
    return {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}


def only_run(log_folder: Path) -> Path | None:
    """Return the folder of the only run, if it has a checkpoint."""
    paths = [path for path in log_folder.glob("*/*") if any(path.glob("checkpoints/[0-9]*"))]
    return paths[0] if paths else None


def kill_and_resume(
    plugin: str, expected: dict[str, str], seconds: float, n_kills: int, folder: Path, counts: Counts
) -> None:
    """Kill one run again and again until it ends, or until the kills are used up."""
    moments, killed, steps = random.Random(f"{plugin} {folder.name}"), True, -1
    while killed:
        path = only_run(folder)
        limit = moments.uniform(0, 2 * seconds) if counts.kills < n_kills else None
        killed = in_process(partial(start, plugin, folder) if path is None else partial(resume, path), limit)
        counts.kills += killed
        path = only_run(folder)
        if path is None:
            counts.before_start += killed
            continue
        counts.in_writing += any(path.rglob(".*"))
        try:
            run = open_folder(path)
            last_checkpoint(run)
            counts.lost += saved_steps(run)[-1] < steps
            steps = saved_steps(run)[-1]
        except ConfigError:
            counts.lost += 1
    assert path is not None
    counts.runs += 1
    if (got := fingerprint(open_folder(path))) != expected:
        counts.different += 1
        print(f"{plugin}: different {', '.join(name for name in expected if got[name] != expected[name])}", flush=True)


def measure(n_kills: int, plugins: tuple[str, ...] = tuple(RUNS)) -> Counts:
    """Kill n_kills processes, and return what happened."""
    torch.set_num_threads(1)
    counts = Counts()
    with tempfile.TemporaryDirectory() as directory:
        expected: dict[str, dict[str, str]] = {}
        seconds: dict[str, float] = {}
        for plugin in plugins:
            whole, begin = Path(directory) / f"whole-{plugin}", time.perf_counter()
            in_process(partial(start, plugin, whole), None)
            seconds[plugin] = time.perf_counter() - begin
            path = only_run(whole)
            assert path is not None
            expected[plugin] = fingerprint(open_folder(path))
        while counts.kills < n_kills:
            plugin = plugins[counts.runs % len(plugins)]
            folder = Path(directory) / f"run{counts.runs}"
            kill_and_resume(plugin, expected[plugin], seconds[plugin], n_kills, folder, counts)
            print(counts, flush=True)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    measure(parser.parse_args().kills)
