"""The bytes of a NIfTI file, compressed or not, told by the content and not by the name."""

import contextlib
import os
import stat

import numpy as np
from isal import isal_zlib

from brats_tfrecord.errors import CaseError

HEAD = 544
"""Bytes that hold any NIfTI header."""

_GZIP = b"\x1f\x8b"
_PIECE = 1 << 16
_MOST_PIECE = 1 << 20
_MOST_BEHIND = 1 << 26
_DEFLATE_LIMIT = 1032
"""No deflate stream expands further than this."""

_EMPTY = "the file is empty; copy it again"
_MEMBERS, _MEMBER_BYTES = 1024, 1024
"""A file of more gzip members than the first is refused if they hold fewer bytes each than the
second: BGZF's hold 64 KiB; millions of empty ones only cost time."""


class MemoryFile:
    """A file whose bytes are in memory, such as an upload; stands where the path of one does.

    Args:
        name: what messages call it; never used as a path.
        data: its content, bytes-like; not copied.
    """

    def __init__(self, name, data):
        self.name = name
        self.data = memoryview(data).cast("B")

    def __str__(self):
        return self.name

    def size(self):
        """Bytes of the content; raises `CaseError` if there are none."""
        if not self.data.nbytes:
            raise CaseError(f"{self.name}: {_EMPTY}")
        return self.data.nbytes

    def open(self):
        """A stream from its first byte, as a file of the disk would be opened."""
        return contextlib.closing(_MemoryStream(self.data))


class _MemoryStream:
    """`read` and `close` over bytes in memory (`io.BytesIO` would copy a memoryview)."""

    def __init__(self, data):
        self._rest = data

    def read(self, count):
        piece, self._rest = bytes(self._rest[:count]), self._rest[count:]
        return piece

    def close(self):
        self._rest = None


@contextlib.contextmanager
def open_content(path):
    """Opens the file at `path` as a `Content`; anything but a regular file is refused.

    Args:
        path: a path, or a `MemoryFile`.

    Raises:
        CaseError: no such file, not a regular file (never waits on a pipe), not readable, empty, or
            truncated or damaged while the block reads.
    """
    in_memory = isinstance(path, MemoryFile)
    size = path.size() if in_memory else regular_size(path)
    try:
        with path.open() if in_memory else open(path, "rb", buffering=0) as stream:
            yield Content(path, stream, size)
    except OSError as error:
        raise CaseError(
            f"{path}: cannot be read ({error.strerror or error}); check its "
            "permissions and its disk"
        ) from error
    except MemoryError as error:
        raise CaseError(f"{path}: its voxels do not fit into memory; give fewer --jobs") from error
    except (EOFError, isal_zlib.error) as error:
        raise CaseError(
            f"{path}: its data cannot be read ({error}); the file is truncated or "
            "damaged, copy it again"
        ) from error


def regular_size(path):
    """Bytes of the regular file at `path`; it is not opened.

    Raises:
        CaseError: no such file, not a regular one, or empty.
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
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise CaseError(f"{path}: is {what}, not a regular file; expected a NIfTI image")
    if not status.st_size:
        raise CaseError(f"{path}: {_EMPTY}")
    return status.st_size


class Content:
    """The uncompressed bytes of an open file, read once from front to back.

    Attributes:
        head: the first `HEAD` bytes, or as many as there are.
        compressed: whether the content is gzip.
    """

    def __init__(self, path, stream, size):
        self._path, self._size = path, size
        first = stream.read(_PIECE)
        self.compressed = first.startswith(_GZIP)
        self._pieces = _inflated(stream, first) if self.compressed else _plain(stream, first)
        self._ahead = b""
        while len(self._ahead) < HEAD:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._ahead += piece
        self.head = self._ahead[:HEAD]

    def voxel_bytes(self, offset, count):
        """The `count` bytes from `offset` on, as uint8 array; reads the content to its end.

        The checksum of a compressed file stands at its end: without reading to there, damaged
        voxels would pass as wrong ones.
        """
        most = self._size * (_DEFLATE_LIMIT if self.compressed else 1)
        if offset + count > most:  # before anything is allocated
            raise EOFError(
                f"holds fewer than the {count:,} bytes of voxels that its header declares"
            )
        voxels = np.empty(count, np.uint8)
        target, start, end = memoryview(voxels), 0, 0
        for piece in self._from_start():
            start, end = end, end + len(piece)
            if end > offset and start < offset + count:
                part = piece[max(offset - start, 0) : offset + count - start]
                at = max(start - offset, 0)
                target[at : at + len(part)] = part
            if not self.compressed and end >= offset + count:
                break
            if end > offset + count + _MOST_BEHIND:
                raise CaseError(
                    f"{self._path}: holds far more than the voxels that its header "
                    "declares; the file is damaged, export it again"
                )
        if end < offset + count:
            raise EOFError(f"holds {max(end - offset, 0):,} of {count:,} bytes of voxels")
        return voxels

    def _from_start(self):
        yield self._ahead
        yield from self._pieces


def _plain(stream, first):
    piece = first
    while piece:
        yield piece
        piece = stream.read(_MOST_PIECE)


def _inflated(stream, data):
    """Yields what the gzip members hold, in pieces of at most `_MOST_PIECE` bytes.

    Each member's checksum is checked. ISA-L inflates more than twice as fast as zlib.
    """
    member, members, inflated = isal_zlib.decompressobj(31), 0, 0
    while True:
        piece = member.decompress(data, _MOST_PIECE)
        inflated += len(piece)
        if piece:
            yield piece
        if member.eof:
            members += 1
            if members > _MEMBERS + inflated // _MEMBER_BYTES:
                raise EOFError("consists of thousands of nearly empty gzip members")
            data = member.unused_data
            while not (data := data.lstrip(b"\0")):  # padding behind the last member
                data = stream.read(_PIECE)
                if not data:
                    return
            member = isal_zlib.decompressobj(31)
            continue
        data = member.unconsumed_tail or stream.read(_PIECE)
        if not data and not piece:
            raise EOFError("compressed data end too early")
