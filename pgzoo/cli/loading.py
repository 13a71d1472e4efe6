"""Opening a finished run for `pgzoo eval` and `pgzoo enjoy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pgzoo.cli import options
from pgzoo.registry.plugins import Registry
from pgzoo.training import finished_runs


def open_run(
    arguments: finished_runs.RunArguments,
    *,
    n_envs: int,
    render_mode: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    monitor_dir: Path | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> AbstractContextManager[finished_runs.FinishedRun]:
    """Open a finished run. Warn of plugins that cannot be used, set the threads, and check the device."""

    def discover(files: Sequence[Path]) -> Registry:
        registry = options.find_registry(tuple(files))
        options.set_threads(arguments.num_threads)
        options.check_device(arguments.device)
        return registry

    return finished_runs.open_run(
        arguments,
        n_envs=n_envs,
        render_mode=render_mode,
        env_kwargs=env_kwargs,
        monitor_dir=monitor_dir,
        custom_objects=custom_objects,
        discover=discover,
    )
