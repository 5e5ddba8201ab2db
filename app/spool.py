"""Bytes by key in an unnamed temporary file of limited size."""

import logging
import tempfile
import threading
import zlib

_log = logging.getLogger(__name__)


class Spool:
    """Keeps bytes on disk while the server runs; the oldest are overwritten.

    The file has no name: no other program can open it, and the operating system removes it with
    the process, however that ends. It lies in the folder of temporary files (`TMPDIR`).
    """

    def __init__(self, limit: int) -> None:
        """Starts empty.

        Args:
            limit: bytes; longer values are not kept.
        """
        self._limit, self._end = limit, 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the spool
        self._places: dict[str, tuple[int, int, int]] = {}  # key -> (start, length, CRC-32)
        self._lock = threading.Lock()

    def put(self, key: str, value: bytes) -> None:
        """Keeps `value`; does nothing if it is too long or cannot be written."""
        with self._lock:
            self._places.pop(key, None)
            if len(value) > self._limit:
                return
            start = self._end if self._end + len(value) <= self._limit else 0
            stop = start + len(value)
            for other, (first, length, _) in list(self._places.items()):
                if first < stop and start < first + length:
                    del self._places[other]
            try:
                self._file.seek(start)
                self._file.write(value)
                self._file.flush()
            except OSError as error:
                _log.warning("a result is not kept on disk: %s", error.strerror)
                return
            self._end = stop
            self._places[key] = (start, len(value), zlib.crc32(value))

    def get(self, key: str) -> bytes | None:
        """Returns the value of `key`, or None if it was overwritten, damaged or never kept."""
        with self._lock:
            if key not in self._places:
                return None
            start, length, checksum = self._places[key]
            try:
                self._file.seek(start)
                value = self._file.read(length)
            except OSError:
                value = b""
            if len(value) == length and zlib.crc32(value) == checksum:
                return value
            del self._places[key]
            return None

    def keys(self) -> list[str]:
        """Returns the keys of the kept values, the oldest first."""
        with self._lock:
            return list(self._places)
