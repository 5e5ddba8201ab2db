"""Where in its shard the voxels of each case lie, so that a patch is read without its record.

Only the heads of messages are read: some twenty short reads a case, whatever its size. Nothing
here proves a payload's checksum: whoever reads it does.
"""

import math
import os
from dataclasses import dataclass

import numpy as np

from brats_tfrecord.errors import InputError
from brats_tfrecord.records import tfrecord

_HEAD = 11
"""Bytes of the longest head of a field of ours: a tag below 16 and a varint of 64 bits."""
_LENGTH_DELIMITED = 2


@dataclass(frozen=True)
class Place:
    """A case in its shard.

    Attributes:
        case_id: its id.
        shard: file name of its shard.
        begin, end: the record's payload, as byte offsets in the file.
        image, mask: first byte of the image [X, Y, Z, C] and of the packed mask [X, Y, Z].
    """

    case_id: str
    shard: str
    begin: int
    end: int
    image: int
    mask: int


def find_places(manifest, folds):
    """Finds every labelled case of `folds`.

    Args:
        manifest: `records.manifest.Manifest`.
        folds: numbers of folds.

    Returns:
        list of `Place`, in the order of the shards and of their records.

    Raises:
        InputError: a shard that is not what the manifest says.
    """
    voxels = math.prod(manifest.crop_shape)
    image_bytes = voxels * len(manifest.modalities) * np.dtype(manifest.recipe.image_dtype).itemsize
    expected = {"image": image_bytes, "mask": voxels}
    return [
        place
        for path in manifest.shard_paths(folds)
        for place in _places_in(path, manifest, expected)
    ]


def _places_in(path, manifest, expected):
    case_ids = [case.case_id for case in manifest.cases if case.shard == path.name]
    try:
        stream = open(path, "rb", buffering=0)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); copy or convert the dataset again"
        ) from error
    with stream:
        try:
            for case_id, (begin, end) in zip(case_ids, payloads(stream), strict=True):
                spans = _features(stream, begin, end)
                _check(spans, stream, case_id, expected)
                yield Place(case_id, path.name, begin, end, spans["image"][0], spans["mask"][0])
        except (ValueError, LookupError) as error:
            raise InputError(
                f"{path}: its records are not those of {manifest.root.name}/dataset.json ({error})"
                "; name what is damaged with convert_to_tfrecord.py --verify --output_dir="
                f"{manifest.root}"
            ) from error


def _check(spans, stream, case_id, expected):
    first, last = spans["case_id"]
    found = os.pread(stream.fileno(), last - first, first).decode("utf-8", "replace")
    if found != case_id:
        raise ValueError(f"case {found} where {case_id} is expected")
    for name, size in expected.items():
        first, last = spans[name]
        if last - first != size:
            raise ValueError(f"{case_id}: {last - first} bytes of {name}, expected {size}")


def payloads(stream):
    """Yields (begin, end) of the payload of each record of `stream`, a raw binary file.

    Raises:
        ValueError: a length that does not fit its checksum, or a file that ends within a record;
            what lies before it was yielded.
    """
    begin, size = 0, os.fstat(stream.fileno()).st_size
    while begin < size:
        head = os.pread(stream.fileno(), tfrecord.HEADER_BYTES, begin)
        begin += tfrecord.HEADER_BYTES
        end = begin + tfrecord.payload_bytes(head)
        if end + tfrecord.FOOTER_BYTES > size:
            raise ValueError("the file ends within a record")
        yield begin, end
        begin = end + tfrecord.FOOTER_BYTES


def _features(stream, begin, end):
    """Feature name -> (begin, end) of its first bytes value; int features are left out."""
    spans = {}
    [features] = _fields(stream, begin, end, of=1)
    for entry in _fields(stream, *features, of=1):
        [key], [value] = _fields(stream, *entry, of=1), _fields(stream, *entry, of=2)
        name = os.pread(stream.fileno(), key[1] - key[0], key[0]).decode("utf-8", "replace")
        for bytes_list in _fields(stream, *value, of=1):
            [spans[name]] = _fields(stream, *bytes_list, of=1)
    return spans


def _fields(stream, begin, end, of):
    """(begin, end) of each length-delimited field number `of` of the message at begin … end."""
    found = []
    while begin < end:
        head = os.pread(stream.fileno(), min(_HEAD, end - begin), begin)
        if head[0] & 7 != _LENGTH_DELIMITED:
            raise ValueError("not a record of ours")
        length, used = _varint(head[1:])
        begin += 1 + used
        if begin + length > end:
            raise ValueError("a field leaves its record")
        if head[0] >> 3 == of:
            found.append((begin, begin + length))
        begin += length
    return found


def _varint(data):
    """(value, bytes used) of the varint that `data` begins with."""
    value = 0
    for position, byte in enumerate(data):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value, position + 1
    raise ValueError("not a record of ours")
