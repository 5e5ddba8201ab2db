"""Reads the voxels of one NIfTI file as finite intensities or labels in LPS order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from brats_tfrecord.cohort.content import MemoryFile, open_content
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.cohort.header import parse_header
from brats_tfrecord.errors import CaseError


class Voxels:
    """The stored voxels of one file.

    Args:
        path: the file.
        four_d: whether the file must be 4-D, one channel per modality, instead of 3-D.

    Attributes:
        path: the file.
        header: its `header.Header`.

    Raises:
        CaseError: missing, empty, truncated or damaged file, or another number of dimensions.
    """

    def __init__(self, path: Path | str | MemoryFile, *, four_d: bool = False) -> None:
        self.path = path
        with open_content(path) as content:
            self.header = parse_header(path, content.head, four_d=four_d)
            stored = content.voxel_bytes(self.header.offset, self.header.byte_count)
            self._misnamed = content.compressed != str(path).lower().endswith(".gz")
        self._stored = stored.view(self.header.dtype).reshape(self.header.shape, order="F")

    def notes(self) -> Iterator[str]:
        """Yields the anomalies of the file, each "finding: consequence"."""
        if self._misnamed:
            yield "gzip or not, the name says otherwise than the content: read by content"
        if self.header.dropped_axes:
            yield "trailing axes of length one: dropped"

    def fill(self, target: np.ndarray, channel: int | None = None) -> float:
        """Copies the intensities in LPS order to `target`.

        Args:
            target: float32 [X, Y, Z] array of the geometry's `lps_shape`, overwritten.
            channel: index on the fourth axis of a 4-D file, None for a 3-D file.

        Returns:
            the lowest intensity.

        Raises:
            CaseError: no such channel, or values that are not finite in float32.
        """
        stored = self._channel(channel)
        with np.errstate(all="ignore"):
            values = self._scaled(stored)
            _copy(target, self.header.geometry.to_lps(values))
            exact = values if values.dtype.kind in "iu" else target
            lowest, highest = float(exact.min()), float(exact.max())
        if not np.isfinite([lowest, highest]).all():
            self._refuse(values)
        return lowest

    def labels(self, geometry: Geometry) -> tuple[np.ndarray, bool]:
        """Returns the label values in LPS order.

        Args:
            geometry: the geometry to reorient by; usually the file's own.

        Returns:
            (int16 [X, Y, Z], whether values had to be rounded).

        Raises:
            CaseError: values that are not near whole numbers, or out of range of int16.
        """
        with np.errstate(all="ignore"):
            values = self._scaled(self._channel(None))
        rounded = False
        if values.dtype.kind == "f":
            if not np.isfinite(values).all():
                self._refuse(values)
            whole = np.rint(values)
            error = np.abs(values - whole).max()
            if error > 1e-3:
                raise CaseError(
                    f"{self.path}: holds values that are not whole numbers; expected "
                    "label values; is it an image? (a mask resampled with "
                    "interpolation must be redone with nearest neighbour)"
                )
            values, rounded = whole, bool(error)
        low, high = values.min(), values.max()
        if low < -32768 or high > 32767:
            raise CaseError(
                f"{self.path}: holds values from {low:g} to {high:g}; expected label "
                "values such as 0, 1, 2 and 4, is it an image?"
            )
        labels = np.empty(geometry.lps_shape, np.int16)
        _copy(labels, geometry.to_lps(values))
        return labels, rounded

    def _channel(self, channel):
        if channel is None:
            return self._stored
        if channel >= self.header.channels:
            raise CaseError(
                f"{self.path}: has {self.header.channels} volumes; expected the four "
                "of MSD Task01, FLAIR, T1w, T1gd and T2w, or those that its dataset.json declares"
            )
        return self._stored[..., channel]

    def _scaled(self, stored):
        if not self.header.scaled:
            return stored
        values = stored.astype(np.float64)
        values *= self.header.slope
        values += self.header.intercept
        return values

    def _refuse(self, values):
        with np.errstate(all="ignore"):
            count = int(np.count_nonzero(~np.isfinite(values)))
        if count:
            raise CaseError(
                f"{self.path}: {count} voxels are NaN or infinite; expected finite "
                "intensities, replace them (with 0 outside the brain)"
            )
        raise CaseError(
            f"{self.path}: holds values up to {np.abs(values).max():.3g}, beyond "
            "32-bit floats; expected intensities, rescale them"
        )


def _copy(target, source):
    """Copies `source` to `target`, both [X, Y, Z], plane by plane if their fastest axes differ.

    The first axis is the fastest in NIfTI, the last one in NumPy. A plane of both fits into the
    processor's cache.
    """
    fastest = int(np.argmin(np.abs(source.strides)))
    if fastest == 2:
        target[...] = source
        return
    axis = 1 - fastest
    for to, plane in zip(np.moveaxis(target, axis, 0), np.moveaxis(source, axis, 0)):
        to[...] = plane
