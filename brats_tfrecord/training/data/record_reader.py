"""Reads boxes of voxels from records without reading the whole records.

The manifest holds the byte offsets of the voxels, and an image is stored as raw [X, Y, Z, C]. One
read takes the bytes of some planes of X, as many as stay in the processor's cache, into a buffer of
the thread; one copy from there fills that part of the patch, which also selects channels, flips and
turns. Python holds its interpreter lock between such calls only, and a patch of 128x128x128 voxels
takes some fifty of them: more and smaller ones would make the threads wait for each other.

Files are read, not mapped: a mapped file that is truncated, or on a network disk that fails, ends
the process with a signal instead of an error that names the file. A record is read whole only at
the first use of its case, to check its checksum.
"""

import functools
import os
import resource
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brats_tfrecord import brain, files
from brats_tfrecord.errors import InputError
from brats_tfrecord.records import example, tfrecord
from brats_tfrecord.records.manifest import FILE_NAME, CaseRow, Manifest

READ_BYTES = 2**20
"""Bytes of one read. It fits into the second-level cache of a processor core."""

SKIP_BYTES = 2**15
"""Where more bytes than these lie between two planes, a further read costs less than they do."""


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
        self._check_once = _OncePerKey(self._check_record)

    def read_image(self, case: int, origin: Sequence[int], into: np.ndarray) -> None:
        """Reads a box of the image of a case.

        Args:
            case: index of the case in `case_ids`.
            origin: (x, y, z) of the first voxel of the box.
            into: array or view [x, y, z, C] of `image_dtype`, which is filled. The channels of a
                voxel lie side by side.
        """
        item = self.image_dtype.itemsize
        if self._channels == list(range(self._stored_channels)):
            # Whole voxels are copied three times as fast as channel by channel.
            parts = [(0, into.view(f"V{item * self._stored_channels}")[..., 0])]
        else:
            parts = [(item * stored, into[..., n]) for n, stored in enumerate(self._channels)]
        offset = self._rows[case].image_offset
        self._read(case, offset, item * self._stored_channels, origin, parts)

    def read_mask(self, case: int, origin: Sequence[int], into: np.ndarray) -> None:
        """Reads a box of the packed mask of a case; arguments as for `read_image`, without C."""
        self._read(case, self._rows[case].mask_offset, 1, origin, [(0, into)])

    def read_background(self, case: int) -> np.ndarray:
        """Reads the background value of each channel of a case, `image_dtype` [C]; see `brain`."""
        voxels = brain.corners(self.crop_shape)
        values = np.empty((len(voxels), 1, 1, 1, len(self._channels)), self.image_dtype)
        for voxel, into in zip(voxels, values):
            self.read_image(case, voxel, into)
        return brain.background_of_corners(values[:, 0, 0, 0])

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
        packed = np.empty(self.crop_shape, np.uint8)
        self.read_mask(case, (0, 0, 0), packed)
        return packed

    def _read(self, case, offset, voxel_bytes, origin, parts):
        """Fills a box with some bytes of every voxel.

        Args:
            case: index of the case.
            offset: of the voxels in the record.
            voxel_bytes: distance of two voxels.
            origin: first voxel of the box.
            parts: pairs (first byte within a voxel, view [x, y, z] to fill).
        """
        row = self._rows[case]
        self._check_once(row.case_id, row)
        strides = np.cumprod([voxel_bytes, *self.crop_shape[:0:-1]])[::-1].tolist()
        first = row.record_offset + offset + sum(int(n) * s for n, s in zip(origin, strides))
        shape = parts[0][1].shape
        # Of the last plane, and of its last row, only the bytes up to the last voxel are read.
        plane_bytes = sum((n - 1) * s for n, s in zip(shape[1:], strides[1:])) + voxel_bytes
        skips = strides[0] - plane_bytes > SKIP_BYTES
        step = 1 if skips else max(1, READ_BYTES // strides[0])
        for x in range(0, shape[0], step):
            planes = min(step, shape[0] - x)
            data = self._source.read(
                row, first + x * strides[0], (planes - 1) * strides[0] + plane_bytes
            )
            for byte, view in parts:
                view[x : x + planes] = np.ndarray(
                    (planes, *shape[1:]), view.dtype, data, byte, strides
                )

    def _check_record(self, row):
        self._checks.check_record(row, self._source.read_record(row))


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
        """Raises InputError if a framed record, uint8 [N], is damaged or not that of `row`."""
        try:
            payload = tfrecord.unframe(framed)
        except ValueError as error:
            raise self._error(row, str(error)) from error
        # The voxels are not searched for the id, nor copied: this would hold the interpreter lock.
        edges = sorted(n for _, offset, size in self._voxels(row) for n in (offset, offset + size))
        between = zip([0, *edges[1::2]], [*edges[::2], len(payload)])
        if not any(example.is_of_case(payload[a:b].tobytes(), row.case_id) for a, b in between):
            raise self._error(row, "the record at its offset is of another case")
        for (name, offset, _), before in zip(
            self._voxels(row), (self._before_image, self._before_mask)
        ):
            if payload[max(offset - len(before), 0) : offset].tobytes() != before:
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


def _most_open_files():
    """An eighth of what a process may open, because every input pipeline has a reader."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if limit == resource.RLIM_INFINITY else max(1, limit // 8)


def _make_source(manifest, cache, cache_dir):
    if cache == "memory":
        return _Memory(manifest.root)
    if cache == "disk":
        return _Copies(manifest, Path(cache_dir) / manifest.fingerprint[:16])
    return _Files(manifest.root)


class _OncePerKey:
    """Calls a function once for each case or shard, whichever thread asks first.

    Threads that ask for the same meanwhile wait for the result; all others go on.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._locks: dict[str, threading.Lock] = {}
        self._results: dict[str, Any] = {}

    def __call__(self, key: str, *arguments: Any) -> Any:
        """Returns function(*arguments) of the first call for `key` that did not raise."""
        if key not in self._results:
            with self._locks.setdefault(key, threading.Lock()):
                if key not in self._results:
                    self._results[key] = self._function(*arguments)
        return self._results[key]


class _Files:
    """Reads from the shards of the dataset."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._shard = functools.lru_cache(_most_open_files())(self._open)
        self._thread = threading.local()

    def read(self, row: CaseRow, offset: int, size: int) -> np.ndarray:
        """Returns bytes of the shard of a case, uint8 [size], until the thread's next call."""
        buffer = getattr(self._thread, "buffer", None)
        if buffer is None or len(buffer) < size:
            # Kept, because the system clears new memory page by page.
            buffer = self._thread.buffer = np.empty(max(size, READ_BYTES), np.uint8)
        self._shard(row.shard).read(buffer[:size], offset)
        return buffer

    def read_record(self, row: CaseRow) -> np.ndarray:
        """Returns a record with its frame, uint8 [N]."""
        framed = np.empty(
            tfrecord.HEADER_BYTES + row.record_bytes + tfrecord.FOOTER_BYTES, np.uint8
        )
        self._shard(row.shard).read(framed, row.record_offset - tfrecord.HEADER_BYTES)
        return framed

    def _open(self, shard):
        return _OpenFile(self._root / shard)


class _Memory(_Files):
    """Keeps each record in memory after its first use."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._read_once = _OncePerKey(super().read_record)

    def read_record(self, row: CaseRow) -> np.ndarray:
        """Returns a record with its frame, uint8 [N], which must not be changed."""
        return self._read_once(row.case_id, row)

    def read(self, row: CaseRow, offset: int, size: int) -> np.ndarray:
        """Returns bytes of the record in memory, uint8 [size]."""
        first = offset - row.record_offset + tfrecord.HEADER_BYTES
        return self.read_record(row)[first : first + size]


class _Copies(_Files):
    """Copies each shard to a local folder at its first use; later runs use the copies."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        super().__init__(folder)
        self._dataset_root = manifest.root
        self._sizes = {shard.name: shard.bytes for shard in manifest.shards}
        self._copy_once = _OncePerKey(self._copy)
        folder.mkdir(parents=True, exist_ok=True)

    def _open(self, shard):
        self._copy_once(shard, shard)
        return super()._open(shard)

    def _copy(self, shard):
        path = self._root / shard
        if not path.is_file() or path.stat().st_size != self._sizes[shard]:
            with files.replacing(path) as temporary:
                shutil.copyfile(self._dataset_root / shard, temporary)


class _OpenFile:
    """A file that is closed when its last user drops it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unreadable(error) from error

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, into: np.ndarray, offset: int) -> None:
        """Fills uint8 [N] with the bytes from `offset`.

        Raises:
            InputError: the file ends before, or the disk fails.
        """
        view = into.data
        while view:  # a single call may return less, above all on network disks
            try:
                count = os.preadv(self._descriptor, [view], offset)
            except OSError as error:
                raise self._unreadable(error) from error
            if not count:
                raise InputError(
                    f"{self._path}: ends at byte {offset}, within a record; copy the dataset again"
                )
            view, offset = view[count:], offset + count

    def _unreadable(self, error):
        return InputError(
            f"{self._path}: cannot be read ({error.strerror}); copy the dataset again"
        )
