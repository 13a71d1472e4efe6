"""Storages of studies: databases, which Optuna opens by their URL. A file is one of SQLite."""

from __future__ import annotations

import os
import random
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.engine import URL, make_url

from pgzoo.errors import ConfigError, MachineError, PgzooError, describe, machine_fault, unknown
from pgzoo.tuning._optuna import experimental_allowed

FORMS = "FILE.db, postgresql+psycopg://… or mysql+pymysql://…"
SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
MAX_RETRIES = 3
"""How often a trial is repeated if its worker dies."""
GRACE = 3
"""The number of heartbeats after which a silent worker is considered dead."""
CREATION_TRIES = 20
PROBE_SECONDS = 5
BUSY_SECONDS = 60
MACHINE_MESSAGES = (
    "disk is full", "disk I/O error", "readonly database", "unable to open database file", "out of memory",
    "No space left on device", "Permission denied", "Read-only file system", "Too many open files",
)  # fmt: skip
"""Parts of the messages with which databases report that the machine is to blame."""


def open_storage(url: str, heartbeat: int = 20) -> RDBStorage:
    """Open a storage. A file that does not exist is created.

    Args:
        url: a URL or a file, as in FORMS.
        heartbeat: seconds between two heartbeats of a worker.

    Raises:
        ConfigError: the storage cannot be reached, is locked, or is not a storage.
    """
    with storage_errors(url, opening=True):
        return _open_database(url, heartbeat)


def open_existing(url: str) -> RDBStorage:
    """Open a storage to read it.

    Raises:
        ConfigError: as `open_storage`, or the storage is a file that does not exist.
    """
    with storage_errors(url, opening=True):
        path = sqlite_file(url)
    if path is not None and not path.is_file():
        raise ConfigError(f"there is no storage {path}; pgzoo tune creates one")
    return open_storage(url)


def _open_database(url: str, heartbeat: int) -> RDBStorage:
    sqlite = _sqlite_url(url)
    if sqlite is None:
        engine: dict[str, Any] = {"pool_pre_ping": True}  # reconnect if the server closed the connection
        return _connect(url, heartbeat, engine)
    assert sqlite.database is not None
    file = Path(sqlite.database)
    if file.exists():
        _probe(file)
    else:
        _create_sqlite(file)
    engine = {} if "timeout" in sqlite.query else {"connect_args": {"timeout": BUSY_SECONDS}}
    storage = _connect(sqlite.render_as_string(hide_password=False), heartbeat, engine)
    _lock_at_begin(storage.engine)
    return storage


def _connect(url: str, heartbeat: int, engine: dict[str, Any]) -> RDBStorage:
    template = url.replace("{", "{{").replace("}", "}}")  # Optuna formats the URL
    with experimental_allowed():
        return _create_tables(
            lambda: RDBStorage(
                template,
                engine_kwargs=engine,
                heartbeat_interval=heartbeat,
                grace_period=GRACE * heartbeat,
                heartbeat_stale_trial_callback=retry_callback(),
            )
        )


def _create_sqlite(file: Path) -> None:
    """Create the file with all its tables in one step.

    SQLite commits each table separately, so a kill in between would leave only some of them.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{file.name}")
    try:
        _connect(URL.create("sqlite", database=str(partial)).render_as_string(), 1, {}).engine.dispose()
        try:
            os.link(partial, file)
        except FileExistsError:
            return  # another process was faster
        except OSError:  # this file system does not have hard links
            if not file.exists():
                partial.rename(file)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


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
    """Return the file of an SQLite storage, or None for another kind of storage.

    Raises:
        ConfigError: SQLite does not get the name of a file.
    """
    parsed = _sqlite_url(url)
    return None if parsed is None or parsed.database is None else Path(parsed.database)


def _sqlite_url(url: str) -> URL | None:
    """Return the parsed URL of an SQLite storage, which may also be a plain path; None for another database."""
    parsed = make_url(url) if "://" in url else URL.create("sqlite", database=url)
    if parsed.get_backend_name() != "sqlite":
        return None
    if "://" not in url and (Path(url).suffix not in SQLITE_SUFFIXES or "?" in url):
        raise ConfigError(f"{url!r} is not a storage; use {FORMS}")
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigError(f"{url} is in the memory of one process; a study needs a file, such as studies.db")
    if parsed.database.startswith("file:"):
        raise ConfigError(f"{url} is SQLite's own form of a URL; use sqlite:///FILE.db")
    for name, value in parsed.query.items():
        if name != "timeout":
            raise ConfigError(f"{url}: {unknown('option of an SQLite storage', name, ['timeout'])}")
        if not isinstance(value, str) or not value.isdecimal():
            raise ConfigError(f"{url}: timeout must be a number of seconds, not {value!r}")
    return parsed


def _probe(path: Path) -> None:
    """Raise sqlite3.Error if the file is locked or not a database."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, not a storage; use {FORMS}")
    with closing(sqlite3.connect(path, timeout=PROBE_SECONDS)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def is_storage_failure(error: BaseException) -> bool:
    """Return whether a database raised the error."""
    return isinstance(error, (sqlalchemy.exc.SQLAlchemyError, StorageInternalError))


@contextmanager
def storage_errors(url: str, *, opening: bool = False) -> Iterator[None]:
    """Convert the errors of a storage to ConfigError, or to MachineError if the machine is to blame.

    Args:
        url: the storage.
        opening: whether the block only opens the storage. Then every exception is the storage's.
    """
    try:
        yield
    except PgzooError:
        raise
    except Exception as error:
        if not (opening or is_storage_failure(error) or isinstance(error, sqlite3.Error)):
            raise
        raise _converted(error, without_password(url)) from error


def _converted(error: Exception, shown: str) -> PgzooError:
    """Return the error of a storage, whose URL is `shown`, as an error with an owner."""
    if isinstance(error, (sqlalchemy.exc.NoSuchModuleError, sqlalchemy.exc.ArgumentError)):
        return ConfigError(f"{shown!r} is not a storage; use {FORMS}")
    if isinstance(error, ImportError):
        return ConfigError(f"the storage {shown} needs a driver that is not installed: {error.__cause__ or error}")
    if is_storage_failure(error) or isinstance(error, sqlite3.Error):
        message = _innermost_message(error)
    else:
        message = (error.strerror if isinstance(error, OSError) else None) or describe(error)
    by_machine = machine_fault(error) is not None or any(words in message for words in MACHINE_MESSAGES)
    return (MachineError if by_machine else ConfigError)(f"cannot use the storage {shown}: {message}")


def without_password(url: str) -> str:
    """Return the storage's URL with any password replaced by an ellipsis."""
    url = re.sub(r"(?<=[?&]password=)[^&]*", "…", url)
    scheme, separator, address = url.partition("://")
    user, at, host = address.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}:…@{host}" if separator and at and ":" in user else url


def _innermost_message(error: BaseException) -> str:
    """Return the first line of the innermost error, which is the database's message."""
    while (cause := getattr(error, "orig", None) or error.__cause__) is not None:
        error = cause
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
