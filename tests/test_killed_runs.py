"""A run survives SIGKILL at any moment, and a disk that is full."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgzoo import PolicyGradient, Registry
from pgzoo.errors import MachineError
from pgzoo.training.checkpoints import last_checkpoint
from pgzoo.training.continued_files import cut, lengths
from pgzoo.training.run_folder import open_folder, saved_steps
from pgzoo.training.runs import Run, TrainArguments, prepare, prepare_resumed

ROOT = Path(__file__).resolve().parent.parent
REGISTRY = Registry.discover()
KILLED = 9
SYSTEM_CALLS = ("fsync", "replace", "rename", "link", "truncate")


def kills() -> Any:
    """Return the benchmark of random kills as a module."""
    spec = importlib.util.spec_from_file_location("kills", ROOT / "benchmarks" / "kills.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork")
def test_runs_that_are_killed_at_random_moments_lose_nothing() -> None:
    """The benchmark kills 200 times."""
    counts = kills().measure(30)
    assert counts.kills >= 30
    assert (counts.lost, counts.different) == (0, 0)


def prepared(log_folder: Path, **arguments: Any) -> Run:
    """Return a run of three updates, with a checkpoint and an evaluation after each."""
    options = {"n_timesteps": 48, "checkpoint_every": "16", "eval_freq": 16, "eval_episodes": 1, **arguments}
    run_arguments = TrainArguments(
        plugin="a2c", env="CartPole-v1", seed=1, log_folder=log_folder, device="cpu", **options
    )
    overrides = {"n_envs": 2, "n_steps": 8, "max_episode_steps": 10, "normalize": True}
    config = run_arguments.configuration(REGISTRY, run_arguments.overrides(overrides, {}))
    return prepare(config, run_arguments, REGISTRY)


def resumed(folder: Path) -> PolicyGradient:
    return prepare_resumed(folder, Registry.discover).start().model


def killed_at(k: int, run: Run) -> bool:
    """Start a run in a child process that dies right before its k-th system call. Return False if it ended before."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _die_at(k)
            run.start()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def _die_at(k: int) -> None:
    n_calls = 0

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal n_calls
            if n_calls == k:
                os._exit(KILLED)
            n_calls += 1
            return function(*args, **kwargs)

        return call

    for name in SYSTEM_CALLS:
        setattr(os, name, dying(getattr(os, name)))


@pytest.mark.parametrize("every", [73, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_run_that_dies_before_a_system_call(every: int, tmp_path: Path) -> None:
    """Finds a checkpoint that is there before all of its files are, and one that is removed too early."""
    whole = prepared(tmp_path / "whole").start().model.policy.state_dict()
    k, steps, killed = every // 2, -1, True
    while killed:
        run = prepared(tmp_path / str(k))
        killed = killed_at(k, run)
        k += every
        if not saved_steps(run.folder):
            assert steps == -1, "a checkpoint was lost"
            continue
        last_checkpoint(open_folder(run.folder.path))
        assert saved_steps(run.folder)[-1] >= steps
        steps = saved_steps(run.folder)[-1]
        model = resumed(run.folder.path)
        assert model.num_timesteps == 48
        for name, tensor in model.policy.state_dict().items():
            np.testing.assert_array_equal(tensor, whole[name], err_msg=f"{name} of a run that died at call {k - every}")
        assert not list(run.folder.path.rglob(".*"))
    assert steps == 32


@pytest.mark.parametrize("free", [0, 4096, 30_000, 60_000, 100_000])
def test_a_full_disk(free: int, small_disk: Path) -> None:
    """The disk fills up while a Monitor, the log, the evaluations, the best model or a checkpoint is written.

    Finds a traceback, a checkpoint that is lost, and a file that is half-written.
    """
    whole = prepared(small_disk / "whole").start().model.policy.state_dict()
    run, filler = prepared(small_disk / "full"), small_disk / "filler"

    def fill(*_: Any) -> bool:
        if saved_steps(run.folder)[-1:] == [16] and not filler.exists():
            size = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - free
            filler.write_bytes(bytes(size))
        return True

    with pytest.raises(MachineError, match="No space left on device") as caught:
        run.start(callback_of(fill))
    assert f"pgzoo train --resume {run.folder.path}" in caught.value.note
    before = saved_steps(run.folder)[-1]
    assert not list(run.folder.path.rglob(".*"))
    last_checkpoint(open_folder(run.folder.path))
    filler.unlink()
    model = resumed(run.folder.path)
    assert model.num_timesteps == 48 > before
    for name, tensor in model.policy.state_dict().items():
        np.testing.assert_array_equal(tensor, whole[name])


def callback_of(function: Callable[..., bool]) -> Any:
    from stable_baselines3.common.callbacks import ConvertCallback

    return ConvertCallback(function)


def test_files_are_cut(tmp_path: Path) -> None:
    """progress.csv got a column after the checkpoint, so its bytes changed. Its lines are counted."""
    monitor, progress = tmp_path / "0.monitor.csv", tmp_path / "progress.csv"
    monitor.write_text("#{}\nr,l,t\n1,1,1\n")
    progress.write_text("a,b\n1,2\n")
    sizes = lengths(tmp_path)
    with monitor.open("a") as file:
        file.write("2,2,2\n")
    progress.write_text("a,b,c\n1,2,\n3,4,5\n")
    cut(tmp_path, sizes)
    assert monitor.read_text() == "#{}\nr,l,t\n1,1,1\n"
    assert progress.read_text() == "a,b,c\n1,2,\n"
