"""Reads the uncompressed bytes of a NIfTI file, from the disk or from memory.

Whether a file is compressed is decided by its content, not by its name.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from isal import isal_zlib

from brats_tfrecord.errors import CaseError

HEAD = 544
"""Number of bytes that hold any NIfTI header."""

_InflateError: type[Exception] = isal_zlib.error  # type: ignore[assignment] # stubs: an instance

_GZIP = b"\x1f\x8b"
_COMPRESSED_CHUNK = 1 << 16
_CHUNK = 1 << 20
_MAX_TRAILING = 1 << 26
"""Uncompressed bytes that may follow the voxels before the file is refused."""

_DEFLATE_LIMIT = 1032
"""Largest ratio by which deflate can compress."""

_EMPTY = "the file is empty; copy it again"
_MEMBERS, _MEMBER_BYTES = 1024, 1024
"""A file with more gzip members than the first number is refused if they average fewer bytes than
the second. BGZF members hold 64 KiB; millions of empty members only cost time."""


class MemoryFile:
    """A file in memory, such as an upload. Readers accept it in place of a path.

    Args:
        name: the name used in messages; never used as a path.
        data: the content, bytes-like; not copied.
    """

    def __init__(self, name: str, data: Any) -> None:
        self.name = name
        self.data = memoryview(data).cast("B")

    def __str__(self) -> str:
        return self.name

    def size(self) -> int:
        """Returns the number of bytes; raises `CaseError` if the file is empty."""
        if not self.data.nbytes:
            raise CaseError(f"{self.name}: {_EMPTY}")
        return self.data.nbytes

    def open(self) -> contextlib.closing[Any]:
        """Opens a stream at the first byte."""
        return contextlib.closing(_MemoryStream(self.data))


class _MemoryStream:
    """`read` and `close` for bytes in memory (`io.BytesIO` would copy a memoryview)."""

    def __init__(self, data):
        self._remaining = data

    def read(self, count):
        chunk, self._remaining = bytes(self._remaining[:count]), self._remaining[count:]
        return chunk

    def close(self):
        self._remaining = None


@contextlib.contextmanager
def open_content(path: Path | str | MemoryFile) -> Iterator[Content]:
    """Opens a regular file or a `MemoryFile` as a `Content`.

    Raises:
        CaseError: no such file, not a regular file (a pipe is refused, not waited for), not
            readable, or empty; or reading in the block shows that it is truncated or damaged.
    """
    try:
        if isinstance(path, MemoryFile):
            with path.open() as stream:
                yield Content(path, stream, path.size())
        else:
            size = regular_size(path)
            with open(path, "rb", buffering=0) as stream:
                yield Content(path, stream, size)
    except OSError as error:
        raise CaseError(
            f"{path}: cannot be read ({error.strerror or error}); check its "
            "permissions and its disk"
        ) from error
    except MemoryError as error:
        raise CaseError(f"{path}: its voxels do not fit into memory; give fewer --jobs") from error
    except (EOFError, _InflateError) as error:
        raise CaseError(
            f"{path}: its data cannot be read ({error}); the file is truncated or "
            "damaged, copy it again"
        ) from error


def regular_size(path: Path | str) -> int:
    """Returns the size in bytes of a regular file without opening it.

    Raises:
        CaseError: no such file, not a regular file, or empty.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise CaseError(f"{path}: no such file; was it moved?") from error
    except OSError as error:
        raise CaseError(
            f"{path}: cannot be read ({error.strerror}); check its permissions and its disk"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise CaseError(f"{path}: is {kind}, not a regular file; expected a NIfTI image")
    if not status.st_size:
        raise CaseError(f"{path}: {_EMPTY}")
    return status.st_size


class Content:
    """The uncompressed bytes of an open file, read once from front to back.

    Attributes:
        head: the first `HEAD` bytes, or all bytes of a shorter file.
        compressed: whether the file is gzip.
    """

    def __init__(self, path: Path | str | MemoryFile, stream: IO[bytes], size: int) -> None:
        self._path, self._size = path, size
        first = stream.read(_COMPRESSED_CHUNK)
        self.compressed = first.startswith(_GZIP)
        self._chunks = _inflate(stream, first) if self.compressed else _read_plain(stream, first)
        self._start = b""
        while len(self._start) < HEAD and (chunk := next(self._chunks, b"")):
            self._start += chunk
        self.head = self._start[:HEAD]

    def voxel_bytes(self, offset: int, count: int) -> np.ndarray:
        """Returns `count` bytes from `offset` on, as a uint8 array.

        Compressed content is read to its end, where its checksum is: damaged voxels would
        otherwise be returned as valid ones.

        Raises:
            EOFError: the content ends before the last voxel.
            CaseError: far more bytes follow the last voxel.
        """
        limit = self._size * (_DEFLATE_LIMIT if self.compressed else 1)
        if offset + count > limit:  # before anything is allocated
            raise EOFError(
                f"holds fewer than the {count:,} bytes of voxels that its header declares"
            )
        voxels = np.empty(count, np.uint8)
        start = end = 0
        for chunk in self._all_chunks():
            start, end = end, end + len(chunk)
            if end > offset and start < offset + count:
                part = chunk[max(offset - start, 0) : offset + count - start]
                at = max(start - offset, 0)
                voxels[at : at + len(part)] = np.frombuffer(part, np.uint8)
            if not self.compressed and end >= offset + count:
                break
            if end > offset + count + _MAX_TRAILING:
                raise CaseError(
                    f"{self._path}: holds far more than the voxels that its header "
                    "declares; the file is damaged, export it again"
                )
        if end < offset + count:
            raise EOFError(f"holds {max(end - offset, 0):,} of {count:,} bytes of voxels")
        return voxels

    def _all_chunks(self):
        yield self._start
        yield from self._chunks


def _read_plain(stream, chunk):
    while chunk:
        yield chunk
        chunk = stream.read(_CHUNK)


def _inflate(stream, data):
    """Yields the content of all gzip members, in chunks of at most `_CHUNK` bytes.

    The checksum of each member is verified. ISA-L is more than twice as fast as zlib.
    """
    member, members, inflated = isal_zlib.decompressobj(31), 0, 0
    while True:
        chunk = member.decompress(data, _CHUNK)
        inflated += len(chunk)
        if chunk:
            yield chunk
        if member.eof:
            members += 1
            if members > _MEMBERS + inflated // _MEMBER_BYTES:
                raise EOFError("consists of thousands of nearly empty gzip members")
            data = member.unused_data
            while not (data := data.lstrip(b"\0")):  # zero padding after a member
                data = stream.read(_COMPRESSED_CHUNK)
                if not data:
                    return
            member = isal_zlib.decompressobj(31)
            continue
        data = member.unconsumed_tail or stream.read(_COMPRESSED_CHUNK)
        if not data and not chunk:
            raise EOFError("compressed data end too early")
