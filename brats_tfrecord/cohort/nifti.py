"""Reads NIfTI cases into LPS arrays with every geometry check, and writes arrays back.

Inside the project every array is in LPS order (`spec.ORIENTATION`); `Geometry` remembers how the
file lay, and is what undoes the reorientation on writing.
"""

import gzip
import zlib
from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel import orientations

from brats_tfrecord import files, spec
from brats_tfrecord.errors import CaseError

MAX_VOXELS = 640**3
"""A header that declares more is refused before anything is allocated."""

AFFINE_TOLERANCE_MM = 1e-3
"""How far corresponding corners of two volumes of a case may lie apart."""

SPACING_TOLERANCE = 0.05
"""How far spacings may be off the 1 mm that the recipe and its windows are made for."""

_READ_ERRORS = (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError,
                nibabel.spatialimages.HeaderDataError, KeyError, MemoryError, TypeError)


@dataclass(frozen=True)
class Geometry:
    """How a file's array lies in the world.

    Attributes:
        shape: (i, j, k) of the array in the file's own order.
        affine: float64 4x4, voxel indices of the file's order -> millimetres RAS+.
        xyzt_units, qform_code, sform_code: as in the file's header, for writing back.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    xyzt_units: int = 2
    qform_code: int = 1
    sform_code: int = 1

    @property
    def orientation(self):
        """Axis codes of the file's order, such as ("R", "A", "S")."""
        return nibabel.aff2axcodes(self.affine)

    @property
    def _to_lps(self):
        return orientations.ornt_transform(
            orientations.io_orientation(self.affine), orientations.axcodes2ornt(spec.ORIENTATION)
        )

    @property
    def lps_shape(self):
        """Shape (X, Y, Z) of the array in LPS order."""
        return tuple(int(self.shape[axis]) for axis in np.argsort(self._to_lps[:, 0]))

    @property
    def lps_affine(self):
        """Affine of the LPS array, float64 4x4, to the same millimetres."""
        return self.affine @ orientations.inv_ornt_aff(self._to_lps, self.shape)

    @property
    def spacing_mm(self):
        """Voxel spacing (X, Y, Z) of the LPS array in millimetres."""
        return tuple(float(v) for v in nibabel.affines.voxel_sizes(self.lps_affine))

    def to_lps(self, array):
        """Reorients `array` [i, j, k, ...] of the file's order to LPS [X, Y, Z, ...]."""
        return orientations.apply_orientation(array, self._to_lps)

    def from_lps(self, array):
        """Undoes `to_lps`: `array` [X, Y, Z, ...] to the file's order [i, j, k, ...]."""
        back = orientations.ornt_transform(
            orientations.axcodes2ornt(spec.ORIENTATION), orientations.io_orientation(self.affine)
        )
        return orientations.apply_orientation(array, back)


@dataclass(frozen=True)
class RawCase:
    """A case as read: LPS order, intensities untouched.

    Attributes:
        case_id, patient_id, grade, label_scheme: as in `layouts.Case`.
        modalities: names of the channels of `volumes`.
        volumes: float32 [X, Y, Z, C].
        mask: int16 [X, Y, Z], the file's own label values, or None.
        geometry: how the files lay.
    """

    case_id: str
    patient_id: str
    grade: str | None
    label_scheme: str
    modalities: tuple[str, ...]
    volumes: np.ndarray
    mask: np.ndarray | None
    geometry: Geometry


def read_case(case, modalities=spec.MODALITIES, with_mask=True):
    """Reads the volumes and the mask of `case` into one `RawCase`.

    Raises:
        CaseError: a modality is missing, a file is unreadable, not 3-D or not finite, geometries
            differ, spacing is not 1 mm, or the mask holds fractions.
    """
    paths = [case.image(modality) for modality in modalities]
    first, geometry = read_volume(paths[0])
    volumes = np.empty((*first.shape, len(paths)), np.float32)
    volumes[..., 0] = first
    for channel, path in enumerate(paths[1:], start=1):
        array, other = read_volume(path)
        _check_same_geometry(path, other, paths[0], geometry)
        volumes[..., channel] = array
    _check_spacing(paths[0], geometry)
    mask = None
    if with_mask and case.mask is not None:
        array, other = read_volume(case.mask)
        _check_same_geometry(case.mask, other, paths[0], geometry)
        mask = _to_labels(case.mask, array)
    return RawCase(case.case_id, case.patient_id, case.grade, case.label_scheme,
                   tuple(modalities), volumes, mask, geometry)


def read_geometry(path):
    """Reads only the header of `path`; raises `CaseError` as `read_volume` does."""
    return _geometry(path, _load(path))


def read_volume(path):
    """Reads one 3-D file.

    Returns:
        (float32 [X, Y, Z] in LPS order, its `Geometry`).

    Raises:
        CaseError: missing, empty, truncated or damaged file, not 3-D, or a value that is not
            finite.
    """
    image = _load(path)
    geometry = _geometry(path, image)
    try:
        array = np.asarray(_whole(path, image).dataobj, dtype=np.float32)
    except _READ_ERRORS as error:
        raise CaseError(f"{path}: its data cannot be read ({_reason(error)}); the file is "
                        "truncated or damaged, copy it again") from error
    if not np.isfinite(array).all():
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise CaseError(f"{path}: {count} voxels are NaN or infinite; expected finite "
                        "intensities, replace them (with 0 outside the brain)")
    return np.ascontiguousarray(geometry.to_lps(array)), geometry


def write_volume(path, array, geometry):
    """Writes an LPS array as NIfTI in the file order, affine, units and codes of `geometry`.

    Args:
        path: ends in `.nii.gz` (or `.nii`); replaced whole or not at all.
        array: [X, Y, Z] or [X, Y, Z, C], LPS order; its dtype is kept.
        geometry: where the result shall lie.
    """
    image = nibabel.Nifti1Image(geometry.from_lps(array), geometry.affine)
    image.header.set_qform(geometry.affine, code=geometry.qform_code)
    image.header.set_sform(geometry.affine, code=geometry.sform_code)
    image.header["xyzt_units"] = geometry.xyzt_units
    data = image.to_bytes()
    if str(path).endswith(".gz"):
        data = gzip.compress(data, compresslevel=5, mtime=0)
    files.write_bytes(path, data)


def _load(path):
    try:
        if not path.stat().st_size:
            raise CaseError(f"{path}: the file is empty; copy it again")
        return nibabel.load(path)
    except FileNotFoundError as error:
        raise CaseError(f"{path}: no such file") from error
    except CaseError:
        raise
    except _READ_ERRORS as error:
        raise CaseError(f"{path}: not a readable NIfTI file ({_reason(error)}); expected "
                        ".nii or .nii.gz, copy it again") from error


def _whole(path, image):
    """`image` with its data in memory, if it is compressed, and proved by gzip's checksum.

    nibabel stops at the last voxel, before the checksum: a damaged file would pass as wrong voxels.
    """
    if not str(path).lower().endswith(".gz"):
        return image
    end = int(image.dataobj.offset) + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
    with gzip.open(path) as stream:
        data = stream.read(end)
        while stream.read(1 << 20):
            pass
    return type(image).from_bytes(data)


def _geometry(path, image):
    shape = image.shape
    if len(shape) != 3:
        raise CaseError(f"{path}: has shape {_times(shape)}; expected a 3-D volume")
    if np.prod(shape, dtype=object) > MAX_VOXELS or min(shape) < 1:
        raise CaseError(f"{path}: its header declares {_times(shape)} voxels; expected a head "
                        f"scan such as 240x240x155 (at most {MAX_VOXELS:,} voxels)")
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise CaseError(f"{path}: its affine is not invertible; expected voxel axes that span "
                        "space, repair the header's sform or qform")
    header = image.header
    return Geometry(tuple(int(n) for n in shape), affine, int(header["xyzt_units"]),
                    int(header["qform_code"]), int(header["sform_code"]))


def _check_same_geometry(path, geometry, first_path, first):
    if geometry.shape != first.shape:
        raise CaseError(f"{path}: has shape {_times(geometry.shape)}, but {first_path.name} has "
                        f"{_times(first.shape)}; the files of a case must share one grid")
    corners = np.array([[i, j, k, 1] for i in (0, first.shape[0]) for j in (0, first.shape[1])
                        for k in (0, first.shape[2])], np.float64)
    apart = np.abs(corners @ (geometry.affine - first.affine).T).max()
    if apart > AFFINE_TOLERANCE_MM:
        raise CaseError(f"{path}: its affine puts voxels up to {apart:.3g} mm from those of "
                        f"{first_path.name}; the files of a case must share one affine, "
                        "register or re-export them")


def _check_spacing(path, geometry):
    if any(abs(size - 1) > SPACING_TOLERANCE for size in geometry.spacing_mm):
        spacing = " x ".join(f"{size:.3g}" for size in geometry.spacing_mm)
        raise CaseError(f"{path}: voxels measure {spacing} mm; expected 1 x 1 x 1 mm, resample "
                        "the case as BraTS does")


def _to_labels(path, array):
    labels = np.rint(array)
    if np.abs(array - labels).max() > 1e-3 or np.abs(labels).max() > 32767:
        raise CaseError(f"{path}: holds values that are not whole numbers; expected label values "
                        "(a mask resampled with interpolation must be redone with nearest "
                        "neighbour)")
    return labels.astype(np.int16)


def _times(shape):
    return "x".join(str(int(n)) for n in shape)


def _reason(error):
    return " ".join(str(error).split())[:160] or type(error).__name__
