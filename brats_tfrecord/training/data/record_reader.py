"""Boxes of voxels out of records: the bytes of a patch are read, and hardly any other.

An image lies in its record as raw [X, Y, Z, C]: one read for each plane of X takes the rows of Y
that are wanted into a buffer that stays in the processor's cache, and the patch is filled from
there, picked, flipped and turned in the same pass. Parsing the whole record copies 27 MB three
times over before the first voxel is cut. Only at a case's first use is its record read whole, to
be proved by its checksum.
"""

import contextlib
import os
import shutil
import threading
from pathlib import Path

import numpy as np

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.records import places, tfrecord


class RecordReader:
    """Reads boxes of the labelled cases of some folds; safe to share between threads.

    Attributes:
        case_ids: ids of the cases, sorted; a case is named by its place here.
        crop_shape: (X, Y, Z) of every record.
        image_dtype: NumPy dtype of the stored images.
    """

    def __init__(self, manifest, folds, modalities, *, cache="none", cache_dir=None):
        """Finds the cases.

        Args:
            manifest: `records.manifest.Manifest`.
            folds: whose cases to read.
            modalities: names of the channels to give, in that order.
            cache: "none" leaves caching to the system; "memory" keeps every record read (27 MB a
                case at 144x144x144); "disk" copies every shard read into `cache_dir`.
            cache_dir: folder on a local disk.

        Raises:
            InputError: a shard that is not what the manifest says.
        """
        self._places = sorted(places.find_places(manifest, folds), key=lambda at: at.case_id)
        self.crop_shape = manifest.crop_shape
        self._stored_channels = len(manifest.modalities)
        self._channels = [manifest.modalities.index(name) for name in modalities]
        self._source = _make_source(manifest, cache, cache_dir)
        self.case_ids = [place.case_id for place in self._places]
        self.image_dtype = np.dtype(manifest.recipe.image_dtype).newbyteorder("<")
        self._proved = set()

    def read_image(self, case, origin, into):
        """Fills `into` [x, y, z, C] of `image_dtype`, any view, with the box at voxel `origin`."""
        place = self._places[case]
        rows = np.empty(
            (into.shape[1], self.crop_shape[2], self._stored_channels), self.image_dtype
        )
        self._read(place, place.image, origin, into, rows, self._channels)

    def read_mask(self, case, origin, into):
        """Fills `into`, uint8 [x, y, z], any view, with the packed mask's box at `origin`."""
        place = self._places[case]
        rows = np.empty((into.shape[1], self.crop_shape[2], 1), np.uint8)
        self._read(place, place.mask, origin, into[..., None], rows, [0])

    def read_tumour(self, case):
        """Flat indices (C order) of the case's tumour voxels, int64 [N]."""
        place, packed = self._places[case], np.empty(self.crop_shape, np.uint8)
        with self._opened(place) as read_at:
            read_at(packed, place.mask)
        # Bit 0 is background; each tumour class sets a higher one.
        return np.flatnonzero(packed > 1)

    @contextlib.contextmanager
    def _opened(self, place):
        """As `_Files.opened`, of a record that is proved; two threads may prove the same."""
        with self._source.opened(place) as read_at:
            if place.case_id not in self._proved:
                record = np.empty(place.end + tfrecord.FOOTER_BYTES - place.begin, np.uint8)
                read_at(record, place.begin)
                if not tfrecord.fits_checksum(record.tobytes()):
                    raise InputError(
                        f"{place.shard}: {place.case_id}: its data do not fit their "
                        "checksum; copy or convert the dataset again"
                    )
                self._proved.add(place.case_id)
            yield read_at

    def _read(self, place, first_byte, origin, into, rows, channels):
        x, y, z = (int(n) for n in origin)
        row_bytes = rows[0].nbytes
        with self._opened(place) as read_at:
            for plane in range(into.shape[0]):
                read_at(rows, first_byte + ((x + plane) * self.crop_shape[1] + y) * row_bytes)
                for channel, stored in enumerate(channels):
                    into[plane, ..., channel] = rows[:, z : z + into.shape[2], stored]


def _make_source(manifest, cache, cache_dir):
    if cache == "memory":
        return _Memory(manifest.root)
    if cache == "disk":
        return _Copies(manifest, Path(cache_dir) / manifest.fingerprint[:16])
    return _Files(manifest.root)


class _Files:
    """Reads from the shards where they lie."""

    def __init__(self, root):
        self._root = root

    @contextlib.contextmanager
    def opened(self, place):
        """Gives a function (array, byte offset in the shard) that fills the array."""
        path = self._path(place.shard)
        # Opened anew each time: a descriptor for every shard could pass the system's limit.
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
    """Keeps each record from its first use on."""

    def __init__(self, root):
        super().__init__(root)
        self._kept, self._lock = {}, threading.Lock()

    @contextlib.contextmanager
    def opened(self, place):
        with self._lock:
            if place.case_id not in self._kept:
                self._kept[place.case_id] = self._load(place)
        record = self._kept[place.case_id]

        def read_at(array, offset):
            flat = array.reshape(-1).view(np.uint8)
            flat[:] = record[offset - place.begin :][: flat.size]

        yield read_at

    def _load(self, place):
        record = np.empty(place.end + tfrecord.FOOTER_BYTES - place.begin, np.uint8)
        with super().opened(place) as read_at:
            read_at(record, place.begin)
        return record


class _Copies(_Files):
    """Copies each shard at its first use; what an earlier run copied is used again."""

    def __init__(self, manifest, folder):
        super().__init__(folder)
        self._origin = manifest.root
        self._sizes = {shard.name: shard.bytes for shard in manifest.shards}
        self._whole, self._lock = set(), threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, shard):
        path = self._root / shard
        with self._lock:
            if shard not in self._whole:
                if not path.is_file() or path.stat().st_size != self._sizes[shard]:
                    with files.replacing(path) as temporary:
                        shutil.copyfile(self._origin / shard, temporary)
                self._whole.add(shard)
        return path


def _fill(descriptor, view, offset, path):
    """Reads until `view` is full: one call may give less, on network disks above all."""
    while view:
        count = os.preadv(descriptor, [view], offset)
        if not count:
            raise InputError(
                f"{path}: ends at byte {offset}, within a record; copy the dataset again"
            )
        view, offset = view[count:], offset + count
