"""Requests to stop: a signal, or the end of the time that was given."""

import contextlib
import signal
import time

_BEGAN = time.monotonic()
"""About when the program did: a time limit counts from there, over all runs of a program."""

_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


class StopRequest:
    """Whether a run shall stop, looked at between its steps.

    Attributes:
        reason: what asked for it, in words, or None.
        exit_code: 75 where the same command shall be run again, 130 for Ctrl-C.
    """

    def __init__(self, time_limit_minutes=0.0):
        """Of a program that may run for so long; 0 minutes are no limit."""
        self.exit_code, self._signal = 75, None
        self._end = _BEGAN + 60 * time_limit_minutes if time_limit_minutes else None
        self._limit = time_limit_minutes

    @property
    def reason(self):
        """What asked to stop, or None."""
        if self._signal:
            return f"stopped by {self._signal.name}"
        if self._end is not None and time.monotonic() >= self._end:
            return f"--time_limit_minutes={self._limit:g} are over"
        return None

    @contextlib.contextmanager
    def listening(self):
        """Takes SIGTERM and SIGINT as requests; a second one interrupts at once."""
        before = {}
        try:
            for number in _CODES:
                before[number] = signal.signal(number, self._take)
        except ValueError:  # not the main thread: whoever called us has the signals
            pass
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number, frame):
        if self._signal:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number)
        self.exit_code = _CODES[self._signal]
