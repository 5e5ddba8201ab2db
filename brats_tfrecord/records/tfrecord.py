"""Reads and writes TFRecord files without TensorFlow: framing and checksums.

A record is its length (uint64), the masked CRC-32C of those eight bytes, the payload, and the
masked CRC-32C of the payload; all little-endian. Files of records can be concatenated. The workers
of a conversion use this module because importing TensorFlow takes seconds and half a gigabyte each.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import google_crc32c
import numpy as np

Bytes = TypeVar("Bytes", bytes, np.ndarray)
"""Bytes, or an array uint8 [N]."""

_LENGTH, _CRC = struct.Struct("<Q"), struct.Struct("<I")
HEADER_BYTES, FOOTER_BYTES = _LENGTH.size + _CRC.size, _CRC.size


class DamagedRecord(ValueError):
    """A record whose bytes are not those that were written.

    Attributes:
        index: its index in the file, from 0.
        reason: the damage, in words.
    """

    def __init__(self, index: int, reason: str) -> None:
        """Stores the index and the reason."""
        super().__init__(index, reason)
        self.index, self.reason = index, reason

    def __str__(self) -> str:
        return f"record {self.index}: {self.reason}"


def frame(payload: bytes) -> tuple[bytes, ...]:
    """Returns the pieces of a framed record in the order in which they are written."""
    length = _LENGTH.pack(len(payload))
    return length, _checksum(length), payload, _checksum(payload)


def unframe(framed: Bytes) -> Bytes:
    """Returns the payload of one framed record after checking its checksums.

    Args:
        framed: bytes, or an array uint8 [N]; the payload of an array is a view of it.

    Raises:
        ValueError: a checksum does not fit, or the record has another length.
    """
    length = _payload_length(bytes(framed[:HEADER_BYTES]))
    payload, checksum = framed[HEADER_BYTES:-FOOTER_BYTES], bytes(framed[-FOOTER_BYTES:])
    if len(framed) != HEADER_BYTES + length + FOOTER_BYTES:
        raise ValueError("its length is another one")
    if checksum != _checksum(payload):
        raise ValueError("its data do not fit their checksum")
    return payload


def read_records(path: Path | str) -> Iterator[bytes]:
    """Yields the payload of every record after checking its checksums.

    Damage is raised after the records before it were yielded. The records after a damaged payload
    can be read with `framed_records`.

    Raises:
        DamagedRecord: a checksum does not fit, or the file ends within a record.
    """
    for index, framed in enumerate(framed_records(path)):
        try:
            yield unframe(framed)
        except ValueError as error:
            raise DamagedRecord(index, str(error)) from error


def framed_records(path: Path | str) -> Iterator[bytes]:
    """Yields every record with its frame; does not check the payloads.

    Raises:
        DamagedRecord: a length does not fit its checksum, or the file ends within a record.
    """
    with open(path, "rb") as stream:
        index = 0
        while header := stream.read(HEADER_BYTES):
            try:
                length = _payload_length(header)
            except ValueError as error:
                raise DamagedRecord(index, str(error)) from error
            body = stream.read(length + FOOTER_BYTES)
            if len(body) < length + FOOTER_BYTES:
                raise DamagedRecord(index, "the file ends within it")
            yield header + body
            index += 1


def read_payload(path: Path | str, offset: int, size: int) -> bytes:
    """Reads the payload of `size` bytes at byte `offset` of a file and checks its checksums.

    Raises:
        OSError: the file cannot be read.
        ValueError: there is no such record.
    """
    if offset < HEADER_BYTES:
        raise ValueError(f"no record is at byte {offset}")
    with open(path, "rb") as stream:
        stream.seek(offset - HEADER_BYTES)
        return unframe(stream.read(HEADER_BYTES + size + FOOTER_BYTES))


def _payload_length(header):
    if len(header) < HEADER_BYTES:
        raise ValueError("the file ends within it")
    length, checksum = header[: _LENGTH.size], header[_LENGTH.size :]
    if checksum != _checksum(length):
        raise ValueError("its length does not fit its checksum")
    return _LENGTH.unpack(length)[0]


def _checksum(data):
    """Computes the CRC-32C of `data`, rotated and shifted as TFRecord files store it, 4 bytes."""
    crc = google_crc32c.value(data)
    return _CRC.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
