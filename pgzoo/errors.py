"""The exceptions of pgzoo. A message says what is wrong, where, and the nearest right thing.

Every exception has an owner, and is made at the border where the owner is known:

    ConfigError           the user: a value, a name, a file or a combination of parts
    PluginError           a plugin: it is missing, broken, breaks the interface, or raises
    EnvironmentFailure    an environment: it raises, dies, or returns something that is not allowed
    DivergenceError       training: V, the loss, a gradient or a parameter is not finite
    MachineError          the machine: a full disk, a missing permission, too little memory

Any other exception is a bug of pgzoo.
"""

from __future__ import annotations

import difflib
import errno
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class PgzooError(ValueError):
    """An error with an owner, described in one or two lines. The command line prints them instead of a traceback.

    Attributes:
        exit_status: the exit status of the command line.
        note: a sentence to print below the message, such as where the model was saved; empty if there is none.
    """

    exit_status = 2
    note = ""


class PluginError(PgzooError):
    """A plugin is missing, broken, breaks the interface, or raises."""


class ConfigError(PgzooError):
    """A hyperparameter, a YAML file or a combination of parts is wrong."""


class ConfigAssertionError(ConfigError, AssertionError):
    """A ConfigError where SB3 raises AssertionError."""


class ConfigTypeError(ConfigError, TypeError):
    """A ConfigError where SB3 raises TypeError."""


class ConfigNotImplementedError(ConfigError, NotImplementedError):
    """A ConfigError where SB3 raises NotImplementedError."""


AS_IN_SB3: dict[type[Exception], type[ConfigError]] = {
    AssertionError: ConfigAssertionError,
    TypeError: ConfigTypeError,
    NotImplementedError: ConfigNotImplementedError,
}
"""ConfigErrors that programs also catch if they expect the error of SB3's constructors."""


class EnvironmentFailure(PgzooError):
    """An environment or one of its wrappers raises, dies, or returns something that is not allowed."""


class DivergenceError(PgzooError):
    """Training diverged: a number of the policy or of its update is not finite."""


class GradientError(DivergenceError):
    """The loss or the gradient of an optimizer step is not finite. The step has not changed the parameters."""


class MachineError(PgzooError, OSError):
    """The machine cannot do what was asked: the disk is full, a permission is missing, memory is short."""

    exit_status = 1

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class RemoteError(Exception):
    """What happened to an environment in another process. It has no owner yet.

    Attributes:
        number: the number of the environment.
        what: what happened: "raised KeyError: 'x'".
        machine: whether the machine caused it.
    """

    def __init__(self, number: int, what: str, *, machine: bool = False) -> None:
        super().__init__(f"environment {number} {what}")
        self.number, self.what, self.machine = number, what, machine


MACHINE_ERRNOS = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EFBIG")
    if hasattr(errno, name)
)
"""Errors of the operating system that are the machine's fault, wherever they occur."""


def is_machine_fault(error: BaseException) -> bool:
    """Whether the machine caused an exception: its disk is full or broken, or memory, files or processes run out."""
    if isinstance(error, RemoteError):
        return error.machine
    return is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in MACHINE_ERRNOS)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or torch on a CPU or GPU, ran out of memory. torch's exceptions are known by their names."""
    names = {cls.__name__ for cls in type(error).__mro__}
    torch_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or "OutOfMemoryError" in names or torch_cpu


def machine_fault(error: BaseException) -> MachineError | None:
    """Return the machine's error that is the error or one of its causes; None if the machine is not to blame.

    A missing permission is the machine's fault, too. Other numbers, such as ENOENT, are mostly mistakes of programs.
    """
    for cause in _causes(error):
        if isinstance(cause, MachineError):
            return MachineError(str(cause))  # even if the path is wrong: nobody typed it
        denied = isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM)
        if denied or is_machine_fault(cause):
            fault = MachineError(describe(cause))
            fault.__cause__ = cause
            return fault
    return None


def out_of_memory(error: BaseException) -> bool:
    """Return whether too little memory caused the error."""
    return any(map(is_out_of_memory, _causes(error)))


def process_died(error: BaseException) -> bool:
    """Return whether the end of another process caused the error, as its pipe or socket shows."""
    return any(isinstance(cause, (EOFError, BrokenPipeError, ConnectionResetError)) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, each once: a library may raise an error from itself."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


@contextmanager
def converted(where: str, to: type[PgzooError] = ConfigError) -> Iterator[None]:
    """Convert every exception of the block that has no owner yet to `to`, with the message "where: what happened".

    This is the border to code that may raise anything: an environment, a plugin, a file's content. What the machine
    causes becomes a MachineError. A ConfigError is also an AssertionError, TypeError or NotImplementedError, if the
    exception is one.

        with converted(f"cannot make {name}"):
            env = gym.make(name, **kwargs)
    """
    try:
        yield
    except PgzooError:
        raise
    except Exception as error:
        owner = MachineError if is_machine_fault(error) else to
        if owner is ConfigError:
            owner = next((also for kind, also in AS_IN_SB3.items() if isinstance(error, kind)), owner)
        raise owner(f"{where}: {describe(error)}") from error


LONGEST = 500
"""The most characters of another library's message that pgzoo repeats."""


def describe(error: BaseException) -> str:
    """Return an error's type, its first line, and the file and line that raised it."""
    if isinstance(error, RemoteError):
        return str(error)
    try:
        lines = str(error).strip().splitlines() or [""]
    except Exception:  # the exception's own code fails
        lines = [""]
    text = lines[0].strip()
    if text.endswith(":") and len(lines) > 1:  # torch lists mismatches below such a line
        text = f"{text} {lines[1].strip()}"
    text = f"{type(error).__name__}: {text[:LONGEST]}" if text else type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return "unknown <what> 'name'" with the nearest known names, or all of them if none is near.

    >>> unknown("baseline", "valeu", ["value", "none"])
    "unknown baseline 'valeu'; did you mean 'value'?"
    """
    names = sorted(known)
    lower = {known_name.lower(): known_name for known_name in names}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
    if near:
        return f"unknown {what} {name!r}; did you mean {' or '.join(map(repr, near))}?"
    return f"unknown {what} {name!r}; known: {', '.join(names) or 'none'}"
