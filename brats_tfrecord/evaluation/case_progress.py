"""How far a long evaluation is, on stderr: a bar in a terminal, lines in a log file."""

import sys
import time

from tqdm import tqdm

from brats_tfrecord.wording import duration

_SECONDS_BETWEEN_LINES = 10


class Progress:
    """Counts finished cases and tells when the last one will be."""

    def __init__(self, total, stream=None):
        """Of `total` cases; `stream` is stderr unless told."""
        self.done, self._total, self._worked = 0, total, 0
        self._stream = stream or sys.stderr
        self._began = self._told = time.monotonic()
        self._bar = (
            tqdm(total=total, unit="case", desc="evaluating", dynamic_ncols=True, file=self._stream)
            if self._stream.isatty()
            else None
        )

    def advance(self, kept=False):
        """One more case is finished; `kept` from an earlier run, it says nothing of the speed."""
        self.done += 1
        self._worked += not kept
        if self._bar is not None:
            if kept:
                self._bar.initial += 1
            self._bar.update()
        elif self._is_due(kept):
            self._told = time.monotonic()
            self.say(self._line())

    def say(self, text):
        """One line of its own."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def close(self):
        """Takes the bar off."""
        if self._bar is not None:
            self._bar.close()

    def _is_due(self, kept):
        first = self._worked == 1 and not kept
        late = time.monotonic() - self._told >= _SECONDS_BETWEEN_LINES
        return first or late or self.done == self._total

    def _line(self):
        line = f"evaluating: {self.done}/{self._total} cases"
        if not self._worked:
            return line
        pace = (time.monotonic() - self._began) / self._worked
        return f"{line}, {pace:.1f} s a case, ETA {duration(pace * (self._total - self.done))}"
