"""One memory budget for all sessions that read or unpack a case at the same time."""

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator

from app.intake import MEMORY_LIMIT
from brats_tfrecord.errors import InputError

Reserve = Callable[[int], None]
"""Function (bytes): waits until that much of the budget is free, then takes it."""


class MemoryBudget:
    """Bytes that concurrent readers share; a reader waits for its turn.

    Args:
        limit: bytes of all readers together.
        patience: seconds after which a waiting reader is refused.
    """

    def __init__(self, limit: int, patience: float = 120) -> None:
        self._limit, self._patience = limit, patience
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def reader(self) -> Iterator[Reserve]:
        """Yields a `Reserve`; what it has taken is free again when the block ends.

        The `Reserve` raises `InputError` if the bytes do not become free in time, or exceed the
        limit.
        """
        taken = 0

        def reserve(count: int) -> None:
            nonlocal taken
            self._take(count)
            taken += count

        try:
            yield reserve
        finally:
            with self._changed:
                self._taken -= taken
                self._changed.notify_all()
            return_freed()

    def _take(self, count):
        deadline = time.monotonic() + self._patience
        with self._changed:
            while self._taken + count > self._limit:
                left = deadline - time.monotonic()
                if left <= 0 or count > self._limit:
                    raise InputError(
                        f"other sessions are reading cases, and {count / 1e9:.2g} GB for this one "
                        f"are not free of the {self._limit / 1e9:.2g} GB for all; try again in a "
                        "minute"
                    )
                self._changed.wait(left)
            self._taken += count


READING = MemoryBudget(MEMORY_LIMIT)
"""The budget of this server."""


def return_freed() -> None:
    """Returns freed memory to the operating system.

    glibc keeps free pages in an arena per thread, and every session and every segmentation has a
    thread of its own.
    """
    with contextlib.suppress(OSError, AttributeError):  # the C library is not glibc
        ctypes.CDLL(None).malloc_trim(0)
