"""TFRecord files without TensorFlow: framing and checksums.

A record is its length (uint64), the masked CRC-32C of those eight bytes, the payload, and the
masked CRC-32C of the payload; all little-endian. Files of records can be concatenated. Workers
that convert write records this way: importing TensorFlow would cost each of them seconds and half
a gigabyte.
"""

import struct

import google_crc32c

_LENGTH, _CRC = struct.Struct("<Q"), struct.Struct("<I")
HEADER_BYTES, FOOTER_BYTES = _LENGTH.size + _CRC.size, _CRC.size


class DamagedRecord(ValueError):
    """A record whose bytes are not what was written.

    Attributes:
        index: its place in the file, from 0.
    """

    def __init__(self, index, what):
        super().__init__(index, what)
        self.index, self.what = index, what

    def __str__(self):
        return f"record {self.index}: {self.what}"


def frame(payload):
    """The pieces of a record, bytes, in the order in which they are written."""
    length = _LENGTH.pack(len(payload))
    return (length, _CRC.pack(masked_crc(length)), payload, _CRC.pack(masked_crc(payload)))


def read_records(path):
    """Yields the payload of every record, bytes, each proved by its checksums.

    A payload's damage is raised only after the records before it were yielded; what follows a
    damaged record can still be read with `framed_records`, unless its length is what is damaged.

    Raises:
        DamagedRecord: a checksum that does not fit, or a file that ends within a record.
    """
    for index, framed in enumerate(framed_records(path)):
        if not fits_checksum(framed[HEADER_BYTES:]):
            raise DamagedRecord(index, "its data do not fit their checksum")
        yield framed[HEADER_BYTES:-FOOTER_BYTES]


def framed_records(path):
    """Yields every record with its frame, bytes, as it lies in the file; payloads unchecked.

    Raises:
        DamagedRecord: a length that does not fit its checksum, or a file that ends too early.
    """
    with open(path, "rb") as stream:
        index = 0
        while header := stream.read(HEADER_BYTES):
            if len(header) < HEADER_BYTES:
                raise DamagedRecord(index, "the file ends within it")
            [length] = _LENGTH.unpack(header[: _LENGTH.size])
            if masked_crc(header[: _LENGTH.size]) != _CRC.unpack(header[_LENGTH.size :])[0]:
                raise DamagedRecord(index, "its length does not fit its checksum")
            rest = stream.read(length + FOOTER_BYTES)
            if len(rest) < length + FOOTER_BYTES:
                raise DamagedRecord(index, "the file ends within it")
            yield header + rest
            index += 1


def payload_bytes(header):
    """Length of the payload that follows `header`, the first bytes of a record.

    Raises:
        ValueError: a header that does not fit its checksum, or is cut short.
    """
    length, crc = header[: _LENGTH.size], header[_LENGTH.size :]
    if len(crc) < _CRC.size or masked_crc(length) != _CRC.unpack(crc)[0]:
        raise ValueError("a record's length does not fit its checksum")
    return _LENGTH.unpack(length)[0]


def fits_checksum(data):
    """Whether a payload, with the footer that follows it, is what was written."""
    return masked_crc(data[:-FOOTER_BYTES]) == _CRC.unpack(data[-FOOTER_BYTES:])[0]


def masked_crc(data):
    """CRC-32C of `data`, rotated and shifted as TFRecord files hold it, an unsigned 32-bit int."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
