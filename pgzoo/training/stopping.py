"""How a run ends early: signals become exceptions, but never while a model is written."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, TypeVar

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask a program to end: Ctrl-C, a request of another program, and a terminal that is closed."""
IGNORED_SECONDS = 10.0
"""After a signal, further ones are ignored for this time, in which the run ends by itself."""

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
    """A context in which the first signal raises `Stopped`, and none interrupts what follows `hold`.

    A signal that arrives soon after another, such as a second Ctrl-C, is ignored: the run is ending already. Outside
    the main thread, where Python has no signal handlers, the context does nothing.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._held = False
        self._last = -IGNORED_SECONDS
        self._received: int | None = None

    def __enter__(self: Self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        recent = time.monotonic() - self._last < IGNORED_SECONDS
        if self._held:
            self._received = number
        elif not recent:
            self._last = time.monotonic()
            raise Stopped(number)

    def hold(self) -> None:
        """From now on, remember a signal instead of raising it."""
        self._held = True

    def release(self) -> signal.Signals | None:
        """Let signals raise again. Return the one that arrived since `hold`, if any did."""
        self._held = False
        received, self._received = self._received, None
        return None if received is None else signal.Signals(received)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
