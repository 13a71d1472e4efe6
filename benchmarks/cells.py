"""Cells of a benchmark: one recipe, environment and seed each, appended to a file as soon as they are done."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeAlias

import click

Cell: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str, int]
"""Recipe, environment, seed."""


def fingerprint(config: Any, *more: Any) -> str:
    """Return a short hash of a run's hyperparameters, and of what else counts: other results are not taken for it.

    Those that stand at their default are left out, so that a new hyperparameter does not make old results void.
    """
    from pgzoo.interface.hyperparameters import declared
    from pgzoo.registry.settings import AlgorithmConfig
    from pgzoo.training.config import RunConfig, resolved_entry

    defaults = {name: param.default for cls in (RunConfig, AlgorithmConfig) for name, param in declared(cls).items()}
    entry = {
        key: value for key, value in resolved_entry(config).items() if key not in defaults or value != defaults[key]
    }
    text = json.dumps([entry, *more], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def source() -> dict[str, str]:
    """Return what must be the same for samples of speed to be compared: the code that runs, and the machine."""
    root = Path(__file__).parents[1]
    files = [file for folder in ("pgzoo", "plugins") for file in (root / folder).rglob("*.py")]
    digest = hashlib.sha256()
    for file in sorted([*files, root / "benchmarks" / "contestants.py"]):
        digest.update(file.read_bytes())
    return {"code": digest.hexdigest()[:12], "host": platform.node()}


def run_missing(
    run: Callable[..., Cell],
    wanted: Sequence[Key],
    configs: dict[tuple[str, str], str],
    out: Path,
    jobs: int,
    *more: Any,
) -> list[Cell]:
    """Run the cells that the file does not have, side by side; return all that are wanted, in their order.

    Args:
        run: called in a process of its own as run(recipe, env, seed, *more).
        wanted: the cells.
        configs: by recipe and environment, the fingerprint that a cell must have to count.
        out: the file, one JSON object a line; a run that was stopped goes on where it was.
        jobs: processes.
        more: further arguments of `run`.
    """
    done = {_key(cell) for cell in _read(out, configs)}
    out.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run, *key, *more): key for key in wanted if key not in done}
        try:
            for future in as_completed(running):
                name = " ".join(map(str, running[future]))
                try:
                    cell = future.result()
                except Exception as error:  # the other cells go on
                    failures += 1
                    click.echo(f"{name}: {type(error).__name__}: {error}", err=True)
                    continue
                with out.open("a") as file:
                    file.write(json.dumps({**cell, "config": configs[_key(cell)[:2]]}) + "\n")
                click.echo(f"{name}: {cell['final']} in {cell['seconds']} s", err=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    if failures:
        raise click.ClickException(f"{failures} cells failed; the others are in {out}")
    found = {_key(cell): cell for cell in _read(out, configs)}
    return [found[key] for key in wanted]


def _read(path: Path, configs: dict[tuple[str, str], str]) -> list[Cell]:
    cells = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [cell for cell in cells if configs.get(_key(cell)[:2]) == cell["config"]]


def _key(cell: Cell) -> Key:
    return cell["recipe"], cell["env"], cell["seed"]
