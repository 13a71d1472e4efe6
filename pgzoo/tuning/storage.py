"""Storages of studies: SQLite, PostgreSQL, MySQL, a journal file, or Optuna's gRPC proxy in front of any of these."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend

from pgzoo.errors import ConfigError
from pgzoo.tuning._optuna import experimental_allowed

FORMS = "FILE.db, journal:FILE, postgresql+psycopg://…, mysql+pymysql://… or grpc://host:port"
SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
GRPC_PORT = 13000
MAX_RETRIES = 3
"""How often a trial is repeated if its worker dies."""
GRACE = 3
"""The number of heartbeats after which a silent worker is considered dead."""
CREATION_TRIES = 20
PROBE_SECONDS = 5
BUSY_SECONDS = 60


def open_storage(url: str, heartbeat: int = 20) -> BaseStorage:
    """Open a storage. A file that does not exist is created.

    Args:
        url: a URL or a file, as in FORMS.
        heartbeat: seconds between two heartbeats of a worker.

    Raises:
        ConfigError: the storage cannot be reached, is locked, or is not a storage.
    """
    with storage_errors(url), _opening_errors(url):
        if url.startswith("grpc://"):
            return _open_grpc(*_host_and_port(url))
        if url.startswith("journal:"):
            path = _journal_file(url)
            path.parent.mkdir(parents=True, exist_ok=True)
            return optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        return _open_database(url, heartbeat)


def open_existing(url: str) -> BaseStorage:
    """Open a storage to read it.

    Raises:
        ConfigError: as `open_storage`, or the storage is a file that does not exist.
    """
    path = _journal_file(url) if url.startswith("journal:") else sqlite_file(url)
    if path is not None and not path.is_file():
        raise ConfigError(f"there is no storage {path}; pgzoo tune creates one")
    return open_storage(url)


def _open_database(url: str, heartbeat: int) -> RDBStorage:
    if "://" not in url and Path(url).suffix not in SQLITE_SUFFIXES:
        raise ConfigError(f"{url!r} is not a storage; use {FORMS}")
    if url in ("sqlite://", "sqlite:///:memory:"):
        raise ConfigError(f"{url} is in the memory of one process; a study needs a file, such as studies.db")
    engine: dict[str, Any] = {"pool_pre_ping": True}  # reconnect if the server closed the connection
    if (file := sqlite_file(url)) is not None:
        _probe(file)
        url = f"sqlite:///{file}"
        engine = {"connect_args": {"timeout": BUSY_SECONDS}}
    with experimental_allowed():
        storage = _create_tables(
            lambda: RDBStorage(
                url,
                engine_kwargs=engine,
                heartbeat_interval=heartbeat,
                grace_period=GRACE * heartbeat,
                heartbeat_stale_trial_callback=retry_callback(),
            )
        )
    if file is not None:
        _lock_at_begin(storage.engine)
    return storage


def _create_tables(make: Callable[[], RDBStorage]) -> RDBStorage:
    """Make the storage. Try again if another process creates its tables at the same moment."""
    for tries_left in reversed(range(CREATION_TRIES)):
        try:
            return make()
        except sqlalchemy.exc.DBAPIError as error:
            collided = any(word in str(error) for word in ("already exists", "UNIQUE", "duplicate key", "Duplicate"))
            if not (collided and tries_left):
                raise
            time.sleep(random.uniform(0.1, 0.5))
    raise AssertionError("the last try returns or raises")


def _lock_at_begin(engine: Any) -> None:
    """Let each transaction of SQLite take its lock when it begins.

    Optuna reads a trial's state and then sets it, with the row locked by SELECT … FOR UPDATE. SQLite does not have such
    a lock: two processes could both read WAITING and both take the trial.
    """
    from sqlalchemy import event

    def disable_implicit_begin(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", disable_implicit_begin)
    event.listen(engine, "begin", begin)
    engine.dispose()


def retry_callback() -> RetryHeartbeatStaleTrialCallback:
    """Return the callback that queues a lost trial again, with the parameters that it drew."""
    with experimental_allowed():
        return RetryHeartbeatStaleTrialCallback(MAX_RETRIES)


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite storage, or None for another kind of storage."""
    if url.startswith("sqlite:///"):
        return Path(url.removeprefix("sqlite:///"))
    if "://" in url or url.startswith("journal:"):
        return None
    return Path(url)


def _journal_file(url: str) -> Path:
    return Path(url.removeprefix("journal:").removeprefix("//"))


def _probe(path: Path) -> None:
    """Raise sqlite3.Error if the file is locked or not a database; create its folder if the file does not exist."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    with closing(sqlite3.connect(path, timeout=PROBE_SECONDS)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _host_and_port(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("grpc://").partition(":")
    if not host or not (port or "0").isdecimal():
        raise ConfigError(f"{url!r} is not a storage; use {FORMS}")
    return host, int(port or GRPC_PORT)


def _open_grpc(host: str, port: int) -> BaseStorage:
    import grpc

    with experimental_allowed():
        storage = optuna.storages.GrpcStorageProxy(host=host, port=port)
    try:
        storage.wait_server_ready(timeout=PROBE_SECONDS)
    except (grpc.FutureTimeoutError, ConnectionError) as error:
        raise ConfigError(f"cannot reach a storage at {host}:{port}: no answer within {PROBE_SECONDS} s") from error
    return storage


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Convert the errors of a storage in use to ConfigError."""
    shown = without_password(url)
    try:
        yield
    except (sqlalchemy.exc.NoSuchModuleError, sqlalchemy.exc.ArgumentError) as error:
        raise ConfigError(f"{shown!r} is not a storage; use {FORMS}") from error
    except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
        raise ConfigError(f"cannot use the storage {shown}: {_innermost_message(error)}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the storage {shown} is broken: {error}") from error


@contextmanager
def _opening_errors(url: str) -> Iterator[None]:
    """Convert the additional errors of opening a storage to ConfigError."""
    shown = without_password(url)
    try:
        yield
    except ImportError as error:
        cause = error.__cause__ or error
        raise ConfigError(f"the storage {shown} needs a driver that is not installed: {cause}") from error
    except OSError as error:
        raise ConfigError(f"cannot use the storage {shown}: {error.strerror or error}") from error


def without_password(url: str) -> str:
    """Return the storage's URL with any password replaced by an ellipsis."""
    scheme, separator, address = url.partition("://")
    user, at, host = address.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}:…@{host}" if separator and at and ":" in user else url


def _innermost_message(error: BaseException) -> str:
    """Return the first line of the innermost error, which is the database's message."""
    while (cause := getattr(error, "orig", None) or error.__cause__) is not None:
        error = cause
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
