"""Folders of strangers: no command ends with a traceback, hangs, or touches a file outside of the folder."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import pgzoo

from pgzoo import ConfigError
from pgzoo.benchmark.config import LARGEST_SEED, parse_seeds
from pgzoo.benchmark.summary import summarize
from pgzoo.training.run_logs import continuous

ENV = "CartPole-v1"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the log folder of a run that ended after its first checkpoint."""
    logs = tmp_path_factory.mktemp("logs")
    pgzoo("train", "--plugin", "a2c", "-n", "80", "--n-envs", "2", "--eval-freq", "40", "--eval-episodes", "1",
          "--seed", "0", "--checkpoint-every", "20", "--no-progress", "-f", str(logs))  # fmt: skip
    (logs / "a2c" / f"{ENV}_1" / "checkpoints" / "finished").unlink()
    return logs


@pytest.fixture
def run(interrupted: Path, tmp_path: Path) -> Path:
    """Return a copy of the run's folder."""
    import shutil

    return Path(shutil.copytree(interrupted / "a2c" / f"{ENV}_1", tmp_path / "logs" / "a2c" / f"{ENV}_1"))


def link_checkpoints(run: Path, outside: Path) -> None:
    (run / "checkpoints").rename(outside / "checkpoints")
    (run / "checkpoints").symlink_to(outside / "checkpoints")


def link_monitor(run: Path, outside: Path) -> None:
    (run / "0.monitor.csv").rename(outside / "victim.txt")
    (run / "0.monitor.csv").symlink_to(outside / "victim.txt")


def link_lock(run: Path, outside: Path) -> None:
    (run / "checkpoints" / "lock").unlink()
    (run / "checkpoints" / "lock").symlink_to(outside / "new")


@pytest.mark.parametrize("attack", [link_checkpoints, link_monitor, link_lock])
def test_a_resumed_run_stays_in_its_folder(attack: Callable[[Path, Path], None], run: Path, tmp_path: Path) -> None:
    """Finds links through which --resume deletes folders, appends to files, or makes them somewhere else."""
    outside = tmp_path / "outside"
    outside.mkdir()
    attack(run, outside)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    error = pgzoo("train", "--resume", str(run), "--no-progress", status=2).stderr
    assert "leads out of the run's folder" in error
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tensorboard_log", "/elsewhere", "would log in /elsewhere"),
        ("tensorboard_log", "../elsewhere", "would log in ../elsewhere"),
        ("track", "true", "would log to Weights & Biases"),
        ("n_eval_envs", "1000000000", "n_eval_envs"),
    ],
)
def test_a_resumed_run_sends_nothing_elsewhere(key: str, value: str, message: str, run: Path) -> None:
    file = run / ENV / "args.yml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith(f"{key}:")]
    file.write_text("\n".join([*lines, f"{key}: {value}"]) + "\n")
    assert message in pgzoo("train", "--resume", str(run), "--no-progress", status=2).stderr


def save_npz(**arrays: Any) -> Callable[[Path], None]:
    return lambda file: np.savez(file, **arrays)


def nested_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", "[" * 100_000)


def write(content: str) -> Callable[[Path], None]:
    def to(file: Path) -> None:
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)

    return to


STRANGE: list[tuple[str, Callable[[Path], None]]] = [
    ("checkpoints/finished", write("abc")),
    ("checkpoints/finished", write("9" * 5000)),
    ("0.monitor.csv", write("#" + "[" * 100_000 + "\nr,l,t\n1,2,3\n")),
    ("0.monitor.csv", write(f'#{{"t_start": {"9" * 400}}}\nr,l,t\n1,2,3\n')),
    ("0.monitor.csv", write('#{"t_start": 0}\nr,l,t\n1,nan,3\n')),
    ("0.monitor.csv", write('#{"t_start": 0}\nr,l,t\n1e308,2,3\n-1e308,2,4\n')),
    ("evaluations.npz", save_npz(timesteps=[np.nan], results=[[1.0]], ep_lengths=[[1]])),
    ("evaluations.npz", save_npz(timesteps=[[1]], results=[[1.0]], ep_lengths=[[1]])),
    ("evaluations.npz", save_npz(timesteps=[1], results=[[[1.0]]], ep_lengths=[[[1]]])),
    (f"{ENV}.zip", nested_zip),
    ("9.monitor.csv", lambda file: file.symlink_to("nowhere")),
    (f"{ENV}/args.yml", write("plugin: \"\\e]0;title\\a\"\nenv: CartPole-v1\nseed: 0\n")),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_a_strange_file_ends_no_list_and_no_plot(number: int, run: Path, tmp_path: Path) -> None:
    """Finds files of one run that keep the others from being listed, or that end a command with a traceback."""
    name, make = STRANGE[number]
    make(run / name)
    listed = pgzoo("list", cwd=tmp_path)
    assert f"{ENV}_1" in listed.stdout
    assert "\x1b" not in listed.stdout
    drawn = pgzoo("plot", "logs", cwd=tmp_path, status=None)
    assert drawn.returncode in (0, 2)
    assert len(drawn.stderr.splitlines()) <= 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_is_not_waited_for(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints" / "lock").unlink()
    os.mkfifo(run / "checkpoints" / "lock")
    (run / "0.monitor.csv").unlink()
    os.mkfifo(run / "0.monitor.csv")
    assert "damaged" in pgzoo("list", cwd=tmp_path).stdout


def result(**changes: Any) -> dict[str, Any]:
    settings = {"env": ENV, "algorithm": "ppo", "seed": 0, "steps": 100}
    curve = {"steps": [50, 100], "returns": [[1.0], [2.0]]}
    whole = {"settings": settings, "versions": [], "final": {"mean": 1.0}, "curve": curve, "seconds": 1.0}
    return {**whole, **changes}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        result(final={"mean": "much"}),
        result(final={"mean": float("nan")}),
        result(curve={"steps": [], "returns": []}),
        result(curve={"steps": [1], "returns": [[1.0], [2.0]]}),
        result(versions=[{"torch": 2}]),
    ],
)
def test_a_damaged_result_is_named(document: Any, tmp_path: Path) -> None:
    file = tmp_path / ENV / "ppo" / "seed_0" / "result.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"result.json is damaged"):
        summarize(tmp_path)


def test_a_score_is_higher_for_a_better_recipe_if_peers_are_worse_than_random(tmp_path: Path) -> None:
    """Random −100, peer −200, recipes 0 and −300. Finds a scale whose direction depends on the sign of a difference."""
    for algorithm, score in (("random", -100.0), ("sb3:ppo", -200.0), ("good", 0.0), ("bad", -300.0)):
        for seed in range(3):
            settings = {"env": ENV, "algorithm": algorithm, "seed": seed, "steps": 100}
            file = tmp_path / ENV / algorithm.replace(":", "-") / f"seed_{seed}" / "result.json"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(result(settings=settings, final={"mean": score})))
    (environment,) = summarize(tmp_path).environments
    good, peer, bad = (environment.normalized(np.array([score]))[0] for score in (0.0, -200.0, -300.0))
    assert (good, peer, bad) == (3.0, 1.0, 0.0)  # 0 is the worst run, −300, and 1 the best peer, −200


def test_a_seed_whose_evaluation_has_no_seed_is_refused() -> None:
    assert parse_seeds(f"{LARGEST_SEED}..{LARGEST_SEED}") == (LARGEST_SEED,)
    with pytest.raises(ConfigError, match="at most 4,000,000"):
        parse_seeds("5000000..5000001")


def test_times_of_a_run_that_was_resumed_twice() -> None:
    """5 s, then a new clock, and another one: 1, 5, 5 + 2, 7 + 1, 8 + 3."""
    assert continuous(np.array([1.0, 5.0, 2.0, 1.0, 4.0])).tolist() == [1.0, 5.0, 7.0, 8.0, 11.0]


def test_a_folder_with_brackets_is_evaluated(run: Path, tmp_path: Path) -> None:
    """Finds a path that rich reads as a style."""
    (tmp_path / "x[").mkdir()
    renamed = run.rename(tmp_path / "x[" / "b]")
    assert "[/b]" in pgzoo("eval", str(renamed), "-n", "1").stdout
