"""The folder of a job: its settings, its versions, and how it ended.

<out>/<environment>/<algorithm>/seed_<n>/
    job.json      the settings, the command, and the versions of each process that worked on it
    result.json   the result; a job with this file is finished
    error.txt     the error; a job with this file has failed
    log.txt       what the job printed
    run/          the run's folder, with the agents
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pgzoo
from pgzoo.benchmark.config import RANDOM, Job
from pgzoo.benchmark.peers import peer_config
from pgzoo.errors import converted
from pgzoo.files import atomic_write
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import load_config
from pgzoo.training.run_folder import PACKAGES, package_version, plain

SETTINGS, RESULT, ERROR, LOG, RUN = "job.json", "result.json", "error.txt", "log.txt", "run"


def hyperparameters(job: Job, registry: Registry) -> tuple[dict[str, Any], str]:
    """Return the hyperparameters of a job, and where they come from.

    Raises:
        PgzooError: a name is unknown, or a value is wrong.
    """
    if job.algorithm == RANDOM:
        return {}, ""
    if job.is_peer:
        config, _ = peer_config(job, registry)
    else:
        config = load_config(registry, job.algorithm, job.env, overrides=job.hyperparams)
    return dict(plain(config.entry)), config.source


def settings(job: Job, registry: Registry) -> dict[str, Any]:
    """Return everything that a job's result depends on, apart from versions."""
    entry, source = hyperparameters(job, registry)
    config = job.config
    numbers = {
        name: getattr(config, name) for name in ("steps", "eval_points", "eval_episodes", "final_episodes", "vec_env")
    }
    who = {"algorithm": job.algorithm, "env": job.env, "seed": job.seed}
    return {**who, **numbers, "hyperparameters": entry, "source": source}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the settings that differ, as text."""
    flat_old, flat_new = _flat(old), _flat(new)
    keys = [key for key in dict.fromkeys([*flat_old, *flat_new]) if key != "source"]
    return [
        f"{key} {flat_old.get(key, 'unset')} → {flat_new.get(key, 'unset')}"
        for key in keys
        if flat_old.get(key) != flat_new.get(key)
    ]


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with hyperparameters beside the others."""
    return {
        **{key: value for key, value in data.items() if key != "hyperparameters"},
        **data.get("hyperparameters", {}),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that results depend on, and the machine."""
    found = {name: package_version(name) for name in (*PACKAGES, "sb3-contrib")}
    return {
        **{name: version for name, version in found.items() if version != "not installed"},
        "code": _code(),
        "python": platform.python_version(),
        "cpu": _cpu(),
    }


def _code() -> str:
    """Return a hash of the code that trains: pgzoo's packages below this one, and the built-in plugins."""
    core = Path(pgzoo.__file__).parent
    others = ("benchmark", "cli", "export", "lab", "rl_zoo3", "tuning")
    files = [file for file in core.rglob("*.py") if file.relative_to(core).parts[0] not in others]
    plugins = importlib.util.find_spec("pgzoo_plugins")
    if plugins is not None and plugins.origin is not None:
        files += Path(plugins.origin).parent.rglob("*.py")
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _cpu() -> str:
    """Return the CPU's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def read_json(file: Path) -> Any:
    """Return the content of a JSON file; None if it is missing.

    Raises:
        ConfigError: it is damaged.
    """
    if not file.is_file():
        return None
    with converted(f"{file} is damaged; remove it to run the job again"):
        return json.loads(file.read_text(encoding="utf-8"))


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file, with one line per key."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in data.items())
    with atomic_write(file) as partial:
        partial.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
