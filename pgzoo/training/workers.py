"""What commands need that run work in other processes: signals that do not reach these, and Ray."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pgzoo.errors import ConfigError


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals that a terminal sends to all processes. Those that start inside inherit this.

    The parent receives them too, and stops its workers by SIGTERM.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def connect_ray(address: str | None) -> Any:
    """Return the module ray, connected to a cluster.

    Raises:
        ConfigError: Ray is not installed, or its cluster does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--executor ray needs Ray: pip install 'pgzoo[ray]'") from error
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"cannot reach Ray at {address or 'auto'}: {str(error).splitlines()[0]}") from error
    return ray
