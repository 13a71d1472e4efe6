"""The cause of an error in a trial: the machine, a process that died, or the trial itself."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from pgzoo import errors
from pgzoo.errors import MachineError, describe, is_out_of_memory

MACHINE_ERRNOS = errors.MACHINE_ERRNOS | {errno.EACCES, errno.EPERM}
"""A full disk, a limit, a missing permission. Other numbers, such as ENOENT, are mostly mistakes of a program."""

DEAD_PROCESS = (EOFError, BrokenPipeError, ConnectionResetError)
"""Raised by reading or writing a pipe or socket whose other process has died."""


def machine_fault(error: BaseException) -> MachineError | None:
    """Return the machine's error that is the error or one of its causes; None if the machine is not to blame."""
    for cause in _causes(error):
        if isinstance(cause, MachineError):
            return MachineError(str(cause))  # even if the path is wrong: nobody typed it
        if is_out_of_memory(cause) or (isinstance(cause, OSError) and cause.errno in MACHINE_ERRNOS):
            fault = MachineError(describe(cause))
            fault.__cause__ = cause
            return fault
    return None


def out_of_memory(error: BaseException) -> bool:
    """Return whether too little memory caused the error."""
    return any(map(is_out_of_memory, _causes(error)))


def process_died(error: BaseException) -> bool:
    """Return whether the death of a process to which the trial was connected caused the error."""
    return any(isinstance(cause, DEAD_PROCESS) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, each once: a library may raise an error from itself."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__
