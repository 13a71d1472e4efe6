"""Journal files: Optuna's, made safe against writers that die or run out of disk in the middle of a line."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from pgzoo.errors import ConfigError
from pgzoo.files import writing

FIRST_BYTES = b'{"op_code":'
"""How each line of a journal begins."""
BLOCK = 1 << 16
LOCK_SECONDS = 30
"""How long a writer may be silent before its lock is taken from it."""


class Journal(JournalFileBackend):
    """A journal file whose last line may be incomplete, because its writer was killed or the disk was full.

    Optuna's reader ignores an incomplete last line, but its writer continues that line, which destroys both the old and
    the new record. Here the writer first completes or removes it, under the lock that all writers take.
    """

    def __init__(self, path: Path) -> None:
        # The lock is a link to the journal, by which waiting writers see whether the writer is alive. Optuna writes the
        # path as given into the link. A relative path would then be relative to the wrong folder.
        self._journal = path.absolute()
        self._writers_lock = JournalFileSymlinkLock(str(self._journal), LOCK_SECONDS)
        super().__init__(str(self._journal), self._writers_lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, all of them or none.

        Raises:
            MachineError: the file cannot be written.
        """
        data = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        with self._locked(), writing(self._journal):
            descriptor = os.open(self._journal, os.O_RDWR | os.O_APPEND)
            try:
                end_last_line(descriptor, self._journal)
                _append(descriptor, data)
            finally:
                os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._writers_lock.acquire()
        try:
            yield
        finally:
            with suppress(RuntimeError):  # another writer considered this one dead and took the lock
                self._writers_lock.release()


def _append(descriptor: int, data: bytes) -> None:
    """Write the data at the end. If only a part of it fits on the disk, remove that part."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        rest = data
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        # Readers do not take the lock. They ignore a part of a line, but may already have read a complete one.
        if os.lseek(descriptor, 0, os.SEEK_END) < end + len(data):
            os.ftruncate(descriptor, end)
        raise
    os.fsync(descriptor)


def end_last_line(descriptor: int, path: Path) -> None:
    """Complete an incomplete last line that lacks only its end, and move any other to `<path>.torn`.

    Raises:
        ConfigError: the file is not a journal.
    """
    line = _last_line(descriptor)
    if not line:
        return
    if _is_record(line):
        if not line.endswith(b"\n"):
            _append(descriptor, b"\n")
        return
    start = os.lseek(descriptor, 0, os.SEEK_END) - len(line)
    if start == 0 and not (line.startswith(FIRST_BYTES) or FIRST_BYTES.startswith(line)):
        raise ConfigError(f"{path} is not a journal of Optuna")
    torn = path.with_name(f"{path.name}.torn")
    with torn.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    os.ftruncate(descriptor, start)
    warnings.warn(
        f"{path} ended with an incomplete record, as after a crash; its {len(line)} bytes are now in {torn}",
        stacklevel=2,
    )


def _last_line(descriptor: int) -> bytes:
    """Return the last line of a file, with or without its end; b"" if the file is empty."""
    start = os.lseek(descriptor, 0, os.SEEK_END)
    line = b""
    while start > 0 and b"\n" not in line[:-1]:
        size = min(BLOCK, start)
        start -= size
        os.lseek(descriptor, start, os.SEEK_SET)
        line = os.read(descriptor, size) + line
    return line[line.rfind(b"\n", 0, -1) + 1 :] if line else b""


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:  # also UnicodeDecodeError
        return False
