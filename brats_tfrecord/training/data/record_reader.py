"""Reads boxes of voxels from records without reading the whole records.

The manifest holds the byte offsets of the voxels, and an image is stored as raw [X, Y, Z, C]. For
each plane of X one read takes the wanted rows of Y into a buffer that stays in the processor's
cache; from there the wanted part is copied into the patch, which also selects channels, flips and
turns. Parsing a record would copy its 27 MB three times. A record is read whole only at the first
use of its case, to check its checksum.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.records import example, tfrecord
from brats_tfrecord.records.manifest import FILE_NAME, CaseRow, Manifest

ReadAt = Callable[[np.ndarray, int], None]
"""Type of a function (array, byte offset in the shard) that fills the array."""


class RecordReader:
    """Reads boxes of the labelled cases of some folds; threads may share it.

    Attributes:
        case_ids: ids of the cases, sorted; the methods take the index of a case in this list.
        crop_shape: (X, Y, Z) of every record.
        image_dtype: NumPy dtype of the stored images.
    """

    def __init__(
        self,
        manifest: Manifest,
        folds: Collection[int],
        modalities: Sequence[str],
        *,
        cache: str = "none",
        cache_dir: Path | str | None = None,
    ) -> None:
        """Selects the cases and checks their offsets.

        Args:
            manifest: manifest of the dataset.
            folds: folds whose cases to read.
            modalities: names of the channels to return, in that order.
            cache: "none" relies on the file cache of the system; "memory" keeps every record that
                was read (27 MB per case of 144x144x144 voxels); "disk" copies every shard that is
                read to `cache_dir`.
            cache_dir: folder on a local disk, for cache="disk".

        Raises:
            InputError: the offsets of a case do not fit its shard.
        """
        self.crop_shape = manifest.crop_shape
        self.image_dtype = np.dtype(manifest.recipe.image_dtype).newbyteorder("<")
        self._rows = sorted(
            (row for row in manifest.cases if row.fold in folds), key=lambda row: row.case_id
        )
        self.case_ids = [row.case_id for row in self._rows]
        self._stored_channels = len(manifest.modalities)
        self._channels = [manifest.modalities.index(name) for name in modalities]
        self._source = _make_source(manifest, cache, cache_dir)
        self._checks = _RecordChecks(manifest, self.image_dtype)
        self._checks.check_offsets(self._rows)
        self._checked: set[str] = set()

    def read_image(self, case: int, origin: Sequence[int], into: np.ndarray) -> None:
        """Reads a box of the image of a case.

        Args:
            case: index of the case in `case_ids`.
            origin: (x, y, z) of the first voxel of the box.
            into: array or view [x, y, z, C] of `image_dtype`, which is filled.
        """
        row = self._rows[case]
        lines = np.empty(
            (into.shape[1], self.crop_shape[2], self._stored_channels), self.image_dtype
        )
        self._read(row, row.record_offset + row.image_offset, origin, into, lines, self._channels)

    def read_mask(self, case: int, origin: Sequence[int], into: np.ndarray) -> None:
        """Reads a box of the packed mask of a case; arguments as for `read_image`, without C."""
        row = self._rows[case]
        lines = np.empty((into.shape[1], self.crop_shape[2], 1), np.uint8)
        self._read(row, row.record_offset + row.mask_offset, origin, into[..., None], lines, [0])

    def read_tumour(self, case: int) -> np.ndarray:
        """Returns the flat indices (C order) of the tumour voxels of a case, int64 [N]."""
        return _tumour(self._read_packed(case))

    def read_classes(self, case: int) -> list[np.ndarray]:
        """Returns the indices of `read_tumour` for each tumour class that the case has."""
        packed = self._read_packed(case)
        tumour = _tumour(packed)
        bits = packed.reshape(-1)[tumour]
        present = int(np.bitwise_or.reduce(bits, initial=0))
        return [tumour[bits & bit != 0] for bit in (1 << n for n in range(1, 8)) if present & bit]

    def _read_packed(self, case):
        row, packed = self._rows[case], np.empty(self.crop_shape, np.uint8)
        with self._opened(row) as read_at:
            read_at(packed, row.record_offset + row.mask_offset)
        return packed

    @contextlib.contextmanager
    def _opened(self, row):
        """Opens a record as `_Files.opened` does, and checks it at the first time."""
        with self._source.opened(row) as read_at:
            if row.case_id not in self._checked:  # two threads may check the same record
                self._checks.check_record(row, _read_framed(row, read_at).tobytes())
                self._checked.add(row.case_id)
            yield read_at

    def _read(self, row, offset, origin, into, lines, channels):
        x, y, z = (int(n) for n in origin)
        line_bytes = lines[0].nbytes
        with self._opened(row) as read_at:
            for plane in range(into.shape[0]):
                read_at(lines, offset + ((x + plane) * self.crop_shape[1] + y) * line_bytes)
                for channel, stored in enumerate(channels):
                    into[plane, ..., channel] = lines[:, z : z + into.shape[2], stored]


def _tumour(packed):
    # Bit 0 is background; each tumour class sets a higher one.
    return np.flatnonzero(packed > 1)


class _RecordChecks:
    """Checks that records are at the offsets of the manifest."""

    def __init__(self, manifest, image_dtype):
        self._root = manifest.root
        self._shard_bytes = {shard.name: shard.bytes for shard in manifest.shards}
        voxels = int(np.prod(manifest.crop_shape))
        self._image_bytes = voxels * len(manifest.modalities) * image_dtype.itemsize
        self._mask_bytes = voxels
        self._before_image = example.bytes_before("image", self._image_bytes)
        self._before_mask = example.bytes_before("mask", self._mask_bytes)

    def check_offsets(self, rows):
        """Raises InputError if the manifest places a record or its voxels outside of the shard."""
        for row in rows:
            end = row.record_offset + row.record_bytes + tfrecord.FOOTER_BYTES
            for name, offset, size in self._voxels(row):
                if not 0 <= offset <= row.record_bytes - size:
                    raise self._error(
                        row,
                        f"{size} bytes of {name} at byte {offset} do not fit in its record of "
                        f"{row.record_bytes} bytes",
                    )
            if row.record_offset < tfrecord.HEADER_BYTES or end > self._shard_bytes[row.shard]:
                raise self._error(
                    row, f"its record at byte {row.record_offset} does not fit in the shard"
                )

    def check_record(self, row, framed):
        """Raises InputError if a framed record is damaged or not that of `row`."""
        try:
            payload = tfrecord.unframe(framed)
        except ValueError as error:
            raise self._error(row, str(error)) from error
        if not example.is_of_case(payload, row.case_id):
            raise self._error(row, "the record at its offset is of another case")
        for (name, offset, _), before in zip(
            self._voxels(row), (self._before_image, self._before_mask)
        ):
            if payload[max(offset - len(before), 0) : offset] != before:
                raise self._error(row, f"its {name} is not at byte {offset} of its record")

    def _voxels(self, row):
        return (
            ("image", row.image_offset, self._image_bytes),
            ("mask", row.mask_offset, self._mask_bytes),
        )

    def _error(self, row, reason):
        return InputError(
            f"{row.shard}: {row.case_id}: {reason}; the shard is damaged, or {FILE_NAME} is not "
            "its manifest: list the damage with convert_to_tfrecord.py --verify "
            f"--output_dir={self._root}, then copy or convert the dataset again"
        )


def _make_source(manifest, cache, cache_dir):
    if cache == "memory":
        return _Memory(manifest.root)
    if cache == "disk":
        return _Copies(manifest, Path(cache_dir) / manifest.fingerprint[:16])
    return _Files(manifest.root)


def _read_framed(row, read_at):
    """Reads a record with its frame, uint8 [N]."""
    framed = np.empty(tfrecord.HEADER_BYTES + row.record_bytes + tfrecord.FOOTER_BYTES, np.uint8)
    read_at(framed, row.record_offset - tfrecord.HEADER_BYTES)
    return framed


class _Files:
    """Reads from the shards of the dataset."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextlib.contextmanager
    def opened(self, row: CaseRow) -> Iterator[ReadAt]:
        """Yields a function that reads from the shard of a case."""
        path = self._path(row.shard)
        # Opened each time: one descriptor for each shard could exceed the limit of the system.
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); copy the dataset again"
            ) from error

        def read_at(array, offset):
            _fill(descriptor, memoryview(array).cast("B"), offset, path)

        try:
            yield read_at
        finally:
            os.close(descriptor)

    def _path(self, shard):
        return self._root / shard


class _Memory(_Files):
    """Keeps each record in memory after its first use."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._records: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def opened(self, row: CaseRow) -> Iterator[ReadAt]:
        """Yields a function that reads from the record in memory."""
        with self._lock:
            if row.case_id not in self._records:
                with super().opened(row) as read_file:
                    self._records[row.case_id] = _read_framed(row, read_file)
        framed = self._records[row.case_id]
        first = row.record_offset - tfrecord.HEADER_BYTES

        def read_at(array, offset):
            flat = array.reshape(-1).view(np.uint8)
            flat[:] = framed[offset - first :][: flat.size]

        yield read_at


class _Copies(_Files):
    """Copies each shard to a local folder at its first use; later runs use the copies."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        super().__init__(folder)
        self._dataset_root = manifest.root
        self._sizes = {shard.name: shard.bytes for shard in manifest.shards}
        self._complete: set[str] = set()
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, shard):
        path = self._root / shard
        with self._lock:
            if shard not in self._complete:
                if not path.is_file() or path.stat().st_size != self._sizes[shard]:
                    with files.replacing(path) as temporary:
                        shutil.copyfile(self._dataset_root / shard, temporary)
                self._complete.add(shard)
        return path


def _fill(descriptor, view, offset, path):
    """Reads until `view` is full; a single call may return less, above all on network disks."""
    while view:
        count = os.preadv(descriptor, [view], offset)
        if not count:
            raise InputError(
                f"{path}: ends at byte {offset}, within a record; copy the dataset again"
            )
        view, offset = view[count:], offset + count
