"""Requests to stop a program: a signal, or the end of its time limit."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

STARTED = time.monotonic()
"""About when the process started. A time limit counts from here, over all runs in the process."""

_EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


class StopRequest:
    """Tells a run whether it should stop; the run asks between its steps.

    Attributes:
        reason: why the run should stop, in words; None while it should continue.
        exit_code: 75 (run the same command again), or 130 after Ctrl-C.
    """

    def __init__(self, time_limit_minutes: float = 0.0) -> None:
        """Starts without a request.

        Args:
            time_limit_minutes: minutes from the start of the process after which the run should
                stop; 0 is no limit.
        """
        self.exit_code = 75
        self._limit = time_limit_minutes
        self._signal: signal.Signals | None = None

    @property
    def reason(self) -> str | None:
        """Why the run should stop, in words; None while it should continue."""
        if self._signal:
            return f"stopped by {self._signal.name}"
        if self._limit and time.monotonic() >= STARTED + 60 * self._limit:
            return f"--time_limit_minutes={self._limit:g} are over"
        return None

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Takes SIGTERM and SIGINT as requests; a second signal raises KeyboardInterrupt at once.

        Outside the main thread Python allows no signal handlers; signals are then left alone.
        """
        with _handling(self._on_signal, *_EXIT_CODES):
            yield self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number)
        self.exit_code = _EXIT_CODES[self._signal]


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, so that it stops the program in the same way as Ctrl-C."""


def raise_terminated(number: int, frame: FrameType | None) -> NoReturn:
    """Raises `Terminated`; a handler for `signal.signal`."""
    raise Terminated


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raises `Terminated` on SIGTERM within the block; outside the main thread, does nothing."""
    with _handling(raise_terminated, signal.SIGTERM):
        yield


@contextlib.contextmanager
def _handling(handler: Callable, *numbers: signal.Signals) -> Iterator[None]:
    """Installs a signal handler for the duration of the block."""
    previous = {}
    try:
        for number in numbers:
            previous[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
