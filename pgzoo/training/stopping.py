"""How a run ends early: signals become exceptions, but never while a model is written."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, TypeVar

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask a program to end: Ctrl-C, a request of another program, and a terminal that is closed."""
IGNORED_SECONDS = 1.0
"""After a signal, further ones are ignored for this time: a second Ctrl-C is often pressed with the first."""

Self = TypeVar("Self", bound="StopSignals")


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end.

    Attributes:
        signal: the signal.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


def stop_signal(error: KeyboardInterrupt) -> signal.Signals:
    """Return the signal behind an exception: SIGINT for a plain KeyboardInterrupt."""
    return error.signal if isinstance(error, Stopped) else signal.SIGINT


def raise_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise `Stopped`, as Ctrl-C raises KeyboardInterrupt. Ignored signals stay ignored."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)


class StopSignals:
    """A context that remembers the first signal. It is raised only inside `raising`, so that nothing else is cut short.

    A signal that arrives soon after another, such as a second Ctrl-C, is ignored: the run is ending already. One that
    arrives later raises again, in case code of the user's has swallowed the first. Outside the main thread, where
    Python has no signal handlers, only a KeyboardInterrupt is remembered.

    Attributes:
        received: the signal that ended the run; None if there was none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[int, Any] = {}
        self._raising = False
        self._last = -IGNORED_SECONDS

    def __enter__(self: Self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        if self._raising and time.monotonic() - self._last >= IGNORED_SECONDS:
            self._last = time.monotonic()
            raise Stopped(number)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let signals raise `Stopped` in the block, also one that was received before."""
        try:
            self._raising = True
            if self.received is not None:
                raise Stopped(self.received)
            yield
        except KeyboardInterrupt as error:
            self._raising = False
            self.received = self.received or stop_signal(error)
            raise
        finally:
            self._raising = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
