"""Atomic writes: a file or a folder is replaced only once the new one is complete and on the disk. Locks of files."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pgzoo.errors import ConfigError, MachineError, PgzooError, is_machine_fault


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which replaces `path` if the block succeeds.

    If the block raises, the temporary file is removed and `path` keeps its content. The temporary name ends as
    `path` does, because libraries choose the file format by the suffix. The new file is on the disk before it replaces
    the old one, so that after a power failure one of the two is complete.

        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8")

    Raises:
        MachineError: the file cannot be written.
    """
    partial = _hidden(path)
    try:
        with writing(path):
            yield partial
            _sync(partial)
            partial.replace(path)
        with suppress(OSError):  # the file is in place, and some file systems cannot sync a folder
            _sync(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder, which becomes `path` if the block succeeds. A folder that is there already is replaced.

    Each file in it must have been written with `atomic_write`, so that it is on the disk.

    Raises:
        MachineError: the folder cannot be written.
    """
    partial = _hidden(path)
    try:
        with writing(path):
            partial.mkdir(parents=True)
            yield partial
            _sync(partial)
            remove_folder(path)
            partial.rename(path)
        with suppress(OSError):
            _sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder, if it exists. It is renamed first, so that nobody reads a folder that is half removed."""
    hidden = _hidden(path)
    with suppress(OSError):
        path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process has left directly in a folder."""
    for path in folder.glob(".*"):
        if re.fullmatch(r"\.\d+-[0-9a-f]{8}\..+", path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def writing(where: str | Path) -> Iterator[None]:
    """Convert the OSError of a block that writes a file or a folder to MachineError, which names it.

    A path at which nothing can be written, such as one in a missing folder, is wrong input: the exit status is 2.
    """
    try:
        yield
    except PgzooError:
        raise
    except OSError as error:
        failure = MachineError(f"cannot write {where}: {error.strerror or error}")
        if not is_machine_fault(error):
            failure.exit_status = ConfigError.exit_status
        raise failure from error


@contextmanager
def file_lock(path: Path, message: str, wait: float = 0.0) -> Iterator[None]:
    """Lock a file in this context. The lock ends with the process, however it ends.

    Args:
        path: the file, which is created if it is missing.
        message: what the error says.
        wait: seconds to wait for the other process.

    Raises:
        ConfigError: another process has locked it.
        MachineError: the file cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with writing(path.parent):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    deadline = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise ConfigError(message) from error
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _hidden(path: Path) -> Path:
    """Return a temporary path in the same folder."""
    return path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{path.name}")


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows syncs only what it may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
