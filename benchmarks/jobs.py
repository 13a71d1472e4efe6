"""The jobs of a benchmark: one recipe, environment and seed each. Results are appended to a file at once."""

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

JobResult: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str, int]
"""Recipe, environment, seed."""


def fingerprint(config: Any, *more: Any) -> str:
    """Return a short hash of a run's hyperparameters, and of `more`, by which its results are recognised.

    Hyperparameters with their default value are left out, so a new hyperparameter does not invalidate old results.
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
    """Return what must be equal for speeds to be compared: a hash of the code, and the machine."""
    root = Path(__file__).parents[1]
    files = [file for folder in ("pgzoo", "plugins") for file in (root / folder).rglob("*.py")]
    digest = hashlib.sha256()
    for file in sorted([*files, root / "benchmarks" / "competitors.py"]):
        digest.update(file.read_bytes())
    return {"code": digest.hexdigest()[:12], "host": platform.node()}


def run_missing(
    run: Callable[..., JobResult],
    wanted: Sequence[Key],
    configs: dict[tuple[str, str], str],
    out: Path,
    n_processes: int,
    *more: Any,
) -> list[JobResult]:
    """Run the jobs whose results the file lacks, in parallel. Return all wanted results, in their order.

    Args:
        run: called in another process as run(recipe, env, seed, *more).
        wanted: the jobs.
        configs: the fingerprint that a result must have to count, by recipe and environment.
        out: the file, with one JSON object per line. A benchmark that was stopped resumes.
        n_processes: how many jobs run at a time.
        more: further arguments of `run`.
    """
    done = {_key(result) for result in _read(out, configs)}
    out.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    with ProcessPoolExecutor(n_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run, *key, *more): key for key in wanted if key not in done}
        try:
            for future in as_completed(running):
                name = " ".join(map(str, running[future]))
                try:
                    result = future.result()
                except Exception as error:  # the other jobs continue
                    failures += 1
                    click.echo(f"{name}: {type(error).__name__}: {error}", err=True)
                    continue
                with out.open("a") as file:
                    file.write(json.dumps({**result, "config": configs[_key(result)[:2]]}) + "\n")
                click.echo(f"{name}: {result['final']} in {result['seconds']} s", err=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    if failures:
        raise click.ClickException(f"{failures} jobs failed; the results of the others are in {out}")
    results = {_key(result): result for result in _read(out, configs)}
    return [results[key] for key in wanted]


def _read(path: Path, configs: dict[tuple[str, str], str]) -> list[JobResult]:
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [result for result in results if configs.get(_key(result)[:2]) == result["config"]]


def _key(result: JobResult) -> Key:
    return result["recipe"], result["env"], result["seed"]
