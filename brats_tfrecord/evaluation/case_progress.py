"""Progress of an evaluation on stderr: a bar in a terminal, lines in a log file."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

from brats_tfrecord.wording import duration

_SECONDS_BETWEEN_LINES = 10


class Progress:
    """Counts finished cases and estimates the remaining time."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        """Starts counting up to `total` cases; writes to `stream`, by default stderr."""
        self.done, self._total, self._evaluated = 0, total, 0
        self._stream = stream or sys.stderr
        self._started = self._last_line = time.monotonic()
        self._bar = (
            tqdm(total=total, unit="case", desc="evaluating", dynamic_ncols=True, file=self._stream)
            if self._stream.isatty()
            else None
        )

    def advance(self, restored: bool = False) -> None:
        """Counts one more case; one `restored` from an earlier run is left out of the speed."""
        self.done += 1
        self._evaluated += not restored
        if self._bar is not None:
            if restored:
                self._bar.initial += 1
            self._bar.update()
        elif self._line_is_due(restored):
            self._last_line = time.monotonic()
            self.write(self._line())

    def write(self, text: str) -> None:
        """Writes a line of text, above the bar if there is one."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def close(self) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()

    def _line_is_due(self, restored):
        first = self._evaluated == 1 and not restored
        late = time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES
        return first or late or self.done == self._total

    def _line(self):
        line = f"evaluating: {self.done}/{self._total} cases"
        if not self._evaluated:
            return line
        pace = (time.monotonic() - self._started) / self._evaluated
        return f"{line}, {pace:.1f} s a case, ETA {duration(pace * (self._total - self.done))}"
