"""A disk of 4 MB that fills up while each kind of file is written: a sentence, status 1, and the old files stay."""

from __future__ import annotations

import csv
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command import Result, pgzoo
from same import assert_same
from tuning import search, small

from pgzoo import PolicyGradient
from pgzoo.tuning.retrained import Retrained

PAGE = 4096
TRAIN = ["train", "--plugin", "a2c", "--n-envs", "2", "--no-progress", "--seed", "0", "--device", "cpu"]
NORMALIZED = ["-P", "normalize:true", "-P", "n_steps:16", "-P", "policy_kwargs:{net_arch: [4]}"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run, a study and a repository of the Hub, on another disk."""
    folder = tmp_path_factory.mktemp("sources")
    pgzoo(*TRAIN, "-n", "64", *NORMALIZED, "--eval-freq", "-1", "--eval-episodes", "1", cwd=folder)
    (folder / "logs" / "a2c" / "CartPole-v1_1").rename(folder / "run")
    search(small(plugins=("rtg",), pruner="none"), str(folder / "studies.db"), folder / "work", 3)
    return folder


def fill(disk: Path, free: int) -> None:
    """Write a file that leaves a number of bytes on the disk."""
    status = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize - free))


def content(disk: Path) -> dict[str, bytes]:
    """Return the files of the disk, hidden ones included."""
    return {str(p.relative_to(disk)): p.read_bytes() for p in disk.rglob("*") if p.is_file() and p.name != "filler"}


def check_refused(result: Result) -> None:
    """Check that a command ended as it should on a full disk."""
    assert result.returncode == 1, result
    assert "Traceback" not in result.stdout + result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) <= 2, result
    assert lines[0].startswith("Error: ")
    assert "No space left on device" in lines[0], result


WRITERS = {
    "onnx": "export RUN --to onnx -o DISK/policy.onnx",
    "torchscript": "export RUN --to torchscript -o DISK/policy.pt",
    "sb3": "export RUN --to sb3 -o DISK/policy.zip",
    "figure": "variance --env pgzoo/Chain-v0 --plugins rtg --batches 2 --episodes 4 --warmup 0 --json --out DISK/v.png",
    "report": "tune show small --storage STUDY --report DISK/report",
    "entry of hyperparameters": "tune show small --storage STUDY --write DISK/rtg.yml",
    "plugin": "plugins new mine --kind baseline --folder DISK/packageN",
    "episodes of enjoy": "enjoy RUN -n 60 --no-render --reward-log DISK/logN",
    "run of the Hub": "pull user/run --log-folder DISK/logs",
}
"""The command that writes a kind of file. RUN, STUDY and DISK become paths, and N the number of the call."""


@pytest.fixture
def prepared(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A winner that is not the default, and a stand-in for the client of the Hub."""

    values, of_default = {1: (80.0,), 2: (82.0,)}, {1: (50.0,), 2: (50.0,)}

    def winner(study: Any) -> list[Retrained]:
        return [
            Retrained("trial 2", "rtg", values, (1, 2), search_values=(99.0,), reported=values),
            Retrained("default rtg", "rtg", of_default, (1, 2), reported=of_default),
        ]

    monkeypatch.setattr("pgzoo.tuning.write.find_retrained", winner)
    hub: Any = SimpleNamespace(__spec__=True, snapshot_download=lambda repo_id, **_: str(sources / "run"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("kind", WRITERS)
def test_a_disk_that_fills_up_while_a_file_is_written(kind: str, sources: Path, small_disk: Path) -> None:
    """The disk has space for nothing, for half of the largest file, and for all but its last page.

    Finds a traceback, status 2, an old file that is lost, and a new one that is half-written.
    """
    if kind == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")

    def write(number: int) -> Result:
        paths = {"RUN": sources / "run", "STUDY": sources / "studies.db", "DISK": small_disk}
        command = re.sub("N$", str(number), WRITERS[kind])
        for name, path in paths.items():
            command = command.replace(name, str(path))
        return pgzoo(*command.split(), status=None)

    first = write(1)
    assert first.returncode == 0, first
    before = content(small_disk)
    pages = max(-(-len(data) // PAGE) for data in before.values())
    for free in sorted({0, pages // 2 * PAGE, (pages - 1) * PAGE}):
        fill(small_disk, free)
        check_refused(write(2))
        (small_disk / "filler").unlink()
        after = {name: data for name, data in content(small_disk).items() if data or not name.endswith("monitor.csv")}
        assert after == before, f"with {free} bytes"  # Monitor's file is opened before its first line is written


def readable(disk: Path) -> None:
    """Check that every file of the runs on a disk is whole."""
    for path in disk.rglob("*"):
        assert not path.name.startswith("."), path
        if path.suffix == ".zip":
            PolicyGradient.load(path, device="cpu")
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert all(arrays[name] is not None for name in arrays)
        elif path.name == "state.json":
            assert path.read_text().endswith("}")
        elif path.name == "progress.csv":
            with path.open(encoding="utf-8") as file:
                list(csv.reader(file))


COMMAND = [*TRAIN, "-n", "128", *NORMALIZED, "--eval-freq", "40", "--eval-episodes", "1", "--save-freq", "60"]


@pytest.mark.parametrize(
    "space", [0.0, 0.1, 0.3, 0.6, 0.9, *(pytest.param(i / 40, marks=pytest.mark.slow) for i in range(1, 36) if i % 4)]
)
def test_a_disk_that_fills_up_during_a_run(space: float, small_disk: Path, tmp_path: Path) -> None:
    """A share of the space that the run needs is free. Every file that is there in the end is whole."""
    command = [*COMMAND, "--checkpoint-every", "32", "--tensorboard-log", str(tmp_path / "tensorboard")]
    pgzoo(*command, cwd=small_disk)
    used = sum(-(-len(data) // PAGE) * PAGE for data in content(small_disk).values())
    before = content(small_disk)
    fill(small_disk, int(space * used))
    result = pgzoo(*command, cwd=small_disk, status=None)
    check_refused(result)
    (small_disk / "filler").unlink()
    after = content(small_disk)
    assert {name: after[name] for name in before} == before
    readable(small_disk)
    if "--resume" in result.stderr:
        resumed = "logs/a2c/CartPole-v1_2"
        pgzoo("train", "--resume", resumed, "--no-progress", "--device", "cpu", "--trust", cwd=small_disk)
        runs = [small_disk / "logs" / "a2c" / f"CartPole-v1_{number}" for number in (1, 2)]
        whole, continued = (PolicyGradient.load(run / "CartPole-v1.zip", device="cpu") for run in runs)
        assert_same(whole.policy.state_dict(), continued.policy.state_dict())


def test_a_disk_that_fills_up_under_tensorboard(small_disk: Path, tmp_path: Path) -> None:
    """TensorBoard writes in a thread of its own. Finds the traceback of the thread."""
    command = [*TRAIN, "-n", "9000", "-P", "log_interval:10", "--eval-freq", "-1", "--tensorboard-log", str(small_disk)]
    fill(small_disk, PAGE)
    check_refused(pgzoo(*command, cwd=tmp_path, status=None, in_process=False))
    assert (tmp_path / "logs" / "a2c" / "CartPole-v1_1" / "CartPole-v1.zip").is_file()
