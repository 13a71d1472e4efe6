"""Where studies are kept: SQLite, PostgreSQL, MySQL, a journal file, or Optuna's gRPC proxy to any of these."""

from __future__ import annotations

import json
import random
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.errors import ConfigError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

FORMS = "FILE.db, journal:FILE, postgresql+psycopg://…, mysql+pymysql://… or grpc://host:port"
SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
MAX_RETRIES = 3
"""How often a trial whose worker died is tried again."""
GRACE = 3
"""A worker that was silent for this many heartbeats is taken for dead."""
TRIES = 20
PROBE_SECONDS = 5
BUSY_SECONDS = 60


def open_storage(url: str, heartbeat: int = 20) -> BaseStorage:
    """Open a storage, making it where it is a file that does not exist.

    Args:
        url: see FORMS.
        heartbeat: seconds between two signs of life of a worker.

    Raises:
        ConfigError: it cannot be reached, is locked, or is something else.
    """
    import optuna

    with storage_errors(url), _opening_errors(url):
        if url.startswith("grpc://"):
            return _grpc(*_host_and_port(url))
        if url.startswith("journal:"):
            from optuna.storages.journal import JournalFileBackend

            path = Path(url.removeprefix("journal:").removeprefix("//"))
            path.parent.mkdir(parents=True, exist_ok=True)
            return optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        if "://" not in url and Path(url).suffix not in SQLITE_SUFFIXES:
            raise ConfigError(f"{url!r} is no storage; it is written {FORMS}")
        if url in ("sqlite://", "sqlite:///:memory:"):
            raise ConfigError(f"{url} is each process's own memory; a study needs a file, such as studies.db")
        engine: dict[str, Any] = {"pool_pre_ping": True}  # a connection that the server closed is made anew
        if (path_of_file := sqlite_file(url)) is not None:
            _probe(path_of_file)
            url = f"sqlite:///{path_of_file}"
            engine = {"connect_args": {"timeout": BUSY_SECONDS}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage: optuna.storages.RDBStorage = _made_once(
                lambda: optuna.storages.RDBStorage(
                    url,
                    engine_kwargs=engine,
                    heartbeat_interval=heartbeat,
                    grace_period=GRACE * heartbeat,
                    heartbeat_stale_trial_callback=retry_callback(),
                )
            )
        if path_of_file is not None:
            _lock_from_the_start(storage.engine)
        return storage


def _made_once(make: Callable[[], Any]) -> Any:
    """Make the storage; again where another process makes its tables in the same moment."""
    import sqlalchemy.exc

    for left in reversed(range(TRIES)):
        try:
            return make()
        except sqlalchemy.exc.DBAPIError as error:
            same_moment = any(word in str(error) for word in ("already exists", "UNIQUE", "duplicate key", "Duplicate"))
            if not (same_moment and left):
                raise
            time.sleep(random.uniform(0.1, 0.5))


def _lock_from_the_start(engine: Any) -> None:
    """Have each transaction of SQLite take its lock when it begins.

    Optuna reads a trial's state and then sets it, with the row locked by SELECT … FOR UPDATE. SQLite has no such lock:
    two processes can both read WAITING and both take the trial.
    """
    from sqlalchemy import event

    def leave_begin_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", leave_begin_to_us)
    event.listen(engine, "begin", begin)
    engine.dispose()


def open_existing(url: str) -> BaseStorage:
    """Open a storage to read it.

    Raises:
        ConfigError: as `open_storage`, or it is a file that does not exist.
    """
    path = Path(url.removeprefix("journal:").removeprefix("//")) if url.startswith("journal:") else sqlite_file(url)
    if path is not None and not path.is_file():
        raise ConfigError(f"there is no storage {path}; pgzoo tune makes one")
    return open_storage(url)


def retry_callback() -> Any:
    """Return what puts a lost trial back into the queue, with the values it had drawn."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RetryHeartbeatStaleTrialCallback(MAX_RETRIES)


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite storage; None for another kind."""
    if url.startswith("sqlite:///"):
        return Path(url.removeprefix("sqlite:///"))
    if "://" in url or url.startswith("journal:"):
        return None
    return Path(url)


def _probe(path: Path) -> None:
    """Raise sqlite3.Error if the file is locked or no database; make its folder if there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    with closing(sqlite3.connect(path, timeout=PROBE_SECONDS)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _host_and_port(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("grpc://").partition(":")
    if not host or not (port or "0").isdecimal():
        raise ConfigError(f"{url!r} is no storage; it is written {FORMS}")
    return host, int(port or 13000)


def _grpc(host: str, port: int) -> BaseStorage:
    import grpc
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.GrpcStorageProxy(host=host, port=port)
    try:
        storage.wait_server_ready(timeout=PROBE_SECONDS)
    except (grpc.FutureTimeoutError, ConnectionError) as error:
        raise ConfigError(f"cannot reach a storage at {host}:{port}: no answer within {PROBE_SECONDS} s") from error
    return storage


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn what a storage raises into one sentence."""
    import sqlalchemy.exc
    from optuna.exceptions import StorageInternalError

    shown = without_password(url)
    try:
        yield
    except (sqlalchemy.exc.NoSuchModuleError, sqlalchemy.exc.ArgumentError) as error:
        raise ConfigError(f"{shown!r} is no storage; it is written {FORMS}") from error
    except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
        raise ConfigError(f"cannot use the storage {shown}: {_sentence(error)}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the storage {shown} is broken: {error}") from error


@contextmanager
def _opening_errors(url: str) -> Iterator[None]:
    """Turn what opening a storage may raise besides into one sentence."""
    shown = without_password(url)
    try:
        yield
    except ImportError as error:
        cause = error.__cause__ or error
        raise ConfigError(f"the storage {shown} needs a driver that is not installed: {cause}") from error
    except OSError as error:
        raise ConfigError(f"cannot use the storage {shown}: {error.strerror or error}") from error


def without_password(url: str) -> str:
    """Return the storage's address as it may be shown."""
    scheme, found, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}:…@{host}" if found and at and ":" in user else url


def _sentence(error: BaseException) -> str:
    """Return the innermost error's first line: the database's own words."""
    while (inner := getattr(error, "orig", None) or error.__cause__) is not None:
        error = inner
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
