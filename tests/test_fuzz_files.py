"""Damaged models and run folders: `pgzoo eval` and `train -i` end with status 0, or with 2 and a sentence."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import pgzoo
from zips import members, write

N_ZIPS, N_FOLDERS, N_STARTS = 140, 80, 40
SHORT = ["-n", "64", "--n-envs", "2", "--no-progress", "--eval-freq", "-1", "--eval-episodes", "1", "--seed", "0"]
NORMALIZED = ["-P", "normalize:true"]
JUNK: list[Any] = [None, 0, -1, 1e400, "", "x", [], {}, [[1]], {"a": 1}, True, "\x00", 10**400]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a short run with a part that learns, and statistics."""
    path = tmp_path_factory.mktemp("fuzz")
    pgzoo("train", "--plugin", "rtg_moving_average", *SHORT, *NORMALIZED, cwd=path)
    return path / "logs" / "rtg_moving_average" / "CartPole-v1_1"


def changed_tensors(data: bytes, rng: random.Random) -> bytes:
    """Return a saved state dict with one entry changed: its shape, numbers, type or name."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    name = rng.choice(list(state)) if state else "x"
    changes: list[Callable[[Any], Any]] = [
        lambda x: x.flatten()[:-1] if isinstance(x, torch.Tensor) else None,
        lambda x: torch.full_like(x, float("nan")) if isinstance(x, torch.Tensor) and x.is_floating_point() else "x",
        lambda x: torch.full_like(x, float("inf")) if isinstance(x, torch.Tensor) and x.is_floating_point() else [],
        lambda x: x.to(torch.complex64) if isinstance(x, torch.Tensor) else {},
        lambda x: rng.choice(JUNK),
    ]
    if rng.random() < 0.2:
        state.pop(name, None)
    elif rng.random() < 0.2:
        state[rng.choice(["extra", "action_net.weight.x", ""])] = torch.zeros(2)
    else:
        state[name] = rng.choice(changes)(state.get(name))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def changed_document(data: bytes, rng: random.Random) -> bytes:
    """Return the JSON of a saved model with one entry changed, removed or added, at any depth."""
    document = json.loads(data)
    entries = document
    while rng.random() < 0.8 and (inner := [x for x in entries.values() if isinstance(x, dict) and x]):
        entries = rng.choice(inner)
    name = rng.choice(list(entries))
    action = rng.random()
    if action < 0.2:
        del entries[name]
    elif action < 0.4:
        entries[rng.choice(["predict", "learn", "policy", "save", "__class__", "_setup_model", "train", "$x"])] = 1
    elif action < 0.5:
        entries[name] = {rng.choice(["$array", "$class", "$made", "$dict", "$deque", "$numpy"]): rng.choice(JUNK)}
    else:
        entries[name] = rng.choice(JUNK)
    return json.dumps(document).encode()


def damage_zip(path: Path, rng: random.Random) -> None:
    """Damage a saved model in one way."""
    if rng.random() < 0.15:
        data = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(bytes(data[: rng.choice([len(data), len(data) // 2, 10, 0])]))
        return
    content = members(path)
    name = rng.choice(list(content))
    action = rng.random()
    if action < 0.1:
        del content[name]
    elif action < 0.2:
        content[name] = content[name][: len(content[name]) // 2]
    elif action < 0.6:
        content["pgzoo.json"] = changed_document(content["pgzoo.json"], rng)
    else:
        name = rng.choice([name for name in content if name.endswith(".pth") and "variables" not in name])
        content[name] = changed_tensors(content[name], rng)
    write(path, content)


def damage_folder(folder: Path, rng: random.Random) -> None:
    """Damage a file of a run's folder other than its model: remove it, cut it, or replace a value."""
    file = rng.choice([path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".zip"])
    action = rng.random()
    if action < 0.2:
        file.unlink()
    elif action < 0.3:
        file.unlink()
        file.mkdir()
    elif action < 0.5:
        data = bytearray(file.read_bytes())
        for _ in range(rng.randint(1, 10)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        file.write_bytes(bytes(data[: rng.choice([len(data), len(data) // 2, 0])]))
    else:
        file = folder / "CartPole-v1" / rng.choice(["config.yml", "args.yml"])
        lines = file.read_text().splitlines()
        number = rng.randrange(len(lines))
        name = lines[number].partition(":")[0]
        values = [
            "",
            " null",
            " -1",
            " .nan",
            " [1, x]",
            " {a: 1}",
            " x",
            " !!int y",
            " 1e400",
            " &a [*a]",
            " 2001-99-99",
        ]
        lines[number] = (
            f"{name}:{rng.choice(values)}" if rng.random() < 0.8 else rng.choice([name, "  - x", "%", "\t: a"])
        )
        file.write_text("\n".join(lines))


def seeds(n: int) -> pytest.MarkDecorator:
    """Parametrize over n seeds, of which a quarter are default tests."""
    return pytest.mark.parametrize(
        "seed", [*range(n // 4), *(pytest.param(i, marks=pytest.mark.slow) for i in range(n // 4, n))]
    )


def check(result: Any) -> None:
    """Check that a command ended with status 0, or with a sentence and without a traceback."""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Warning: plugin")]
    assert result.returncode in (0, 2), result.stderr
    assert "Traceback" not in result.stderr
    if result.returncode == 2:
        assert len(lines) <= 2, result.stderr
        assert lines[0].startswith("Error: "), result.stderr


@pytest.mark.filterwarnings("ignore")
@seeds(N_ZIPS)
def test_a_damaged_model_is_refused_in_a_sentence(seed: int, run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    damage_zip(folder / "CartPole-v1.zip", random.Random(seed))
    check(pgzoo("eval", str(folder), "-n", "1", cwd=tmp_path, status=None))


@pytest.mark.filterwarnings("ignore")
@seeds(N_FOLDERS)
def test_a_damaged_run_folder_is_refused_in_a_sentence(seed: int, run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    damage_folder(folder, random.Random(1000 + seed))
    check(pgzoo("eval", str(folder), "-n", "1", cwd=tmp_path, status=None))


@pytest.mark.filterwarnings("ignore")
@seeds(N_STARTS)
def test_a_damaged_start_is_refused_in_a_sentence(seed: int, run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    damage_zip(folder / "CartPole-v1.zip", random.Random(2000 + seed))
    start = ["-i", str(folder / "CartPole-v1.zip"), "-P", "learning_rate:0"]
    check(pgzoo("train", "--plugin", "rtg_moving_average", *SHORT, *NORMALIZED, *start, cwd=tmp_path, status=None))
