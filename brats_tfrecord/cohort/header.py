"""Parses and checks NIfTI headers, before any memory is allocated for the voxels."""

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from brats_tfrecord.cohort.content import MemoryFile
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.errors import CaseError

MAX_VOXELS = 640**3
"""Largest number of voxels that a header may declare."""

_MAX_CHANNELS = 16
_MAX_OFFSET = 1 << 24
_SPACINGS_MM = (0.01, 100.0)
"""Smallest and largest voxel spacing of a head scan."""

_DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_NOT_INTENSITIES = {
    1: "single bits",
    32: "complex numbers",
    128: "RGB colours",
    1536: "128-bit floats",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "RGBA colours",
}
_OTHER_FORMATS = {
    b"PK": "a zip archive",
    b"\x1f\x8b": "gzip within gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"\x89HDF": "HDF5 or MINC",
    b"NRRD": "NRRD",
    b"ObjectType": "MetaImage",
    b"\x00\x00\x00\x01\x00\x00": "FreeSurfer's MGH",
    b"<": "a web page or XML",
    b"{": "JSON",
}
_DICOM_AT = 128
_PRINTABLE = frozenset(range(32, 127)) | frozenset(b"\t\r\n")


@dataclass(frozen=True)
class Header:
    """The fields of a header that reading voxels needs.

    Attributes:
        geometry: geometry of the three spatial axes.
        channels: length of the fourth axis, or None for a 3-D file.
        dtype: NumPy dtype of the stored voxels, byte order included.
        offset: position of the first voxel in bytes.
        slope, intercept: intensity = slope * stored value + intercept; (1, 0) if the header
            declares no scaling.
        dropped_axes: whether trailing axes of length one were dropped.
    """

    geometry: Geometry
    channels: int | None
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    dropped_axes: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored array, first axis fastest: (i, j, k) or (i, j, k, channels)."""
        return (*self.geometry.shape, self.channels) if self.channels else self.geometry.shape

    @property
    def scaled(self) -> bool:
        """Whether intensities differ from the stored values."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def byte_count(self) -> int:
        """Number of bytes of all stored voxels."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def parse_header(path: Path | str | MemoryFile, head: bytes, *, four_d: bool = False) -> Header:
    """Parses the header of a NIfTI-1 or NIfTI-2 file of either byte order.

    Args:
        path: the file, for error messages.
        head: the first bytes of the uncompressed file.
        four_d: whether a 4-D file is expected instead of a 3-D file.

    Raises:
        CaseError: no NIfTI header, or one that cannot belong to a head scan.
    """
    fields = _fields(path, head)
    code = int(fields["datatype"])
    if code not in _DTYPES:
        raise CaseError(
            f"{path}: its voxels are {_NOT_INTENSITIES.get(code, f'of type {code}')}; "
            "expected one whole or real number a voxel"
        )
    shape, channels, dropped_axes = _shape(path, fields, four_d)
    offset, (slope, intercept) = _offset(path, fields), _scaling(path, fields)
    geometry = Geometry(
        shape,
        _affine(path, fields),
        int(fields["xyzt_units"]),
        int(fields["qform_code"]),
        int(fields["sform_code"]),
    )
    dtype = np.dtype(_DTYPES[code]).newbyteorder(fields.endianness)
    return Header(geometry, channels, dtype, offset, slope, intercept, dropped_axes)


def _fields(path, head):
    """Returns the nibabel header of a single-file NIfTI."""
    for endianness in "<>":
        size = int.from_bytes(head[:4], "little" if endianness == "<" else "big")
        if size == 348:
            header_class, magic, expected = nibabel.Nifti1Header, head[344:347], b"n+1"
        elif size == 540:
            header_class, magic, expected = nibabel.Nifti2Header, head[4:7], b"n+2"
        else:
            continue
        if len(head) >= size and magic == expected:
            # Without nibabel's checks, which write to a log; ours follow.
            return header_class(head[:size], endianness, check=False)
        if magic in (b"ni1", b"ni2"):
            raise CaseError(
                f"{path}: is the header of a .hdr and .img pair; expected both in one .nii file"
            )
        if len(head) < size:
            raise CaseError(
                f"{path}: ends within its header; the file is truncated or damaged, copy it again"
            )
    raise CaseError(
        f"{path}: not a readable NIfTI file ({_format_of(head)}); expected .nii or .nii.gz"
    )


def _format_of(head):
    """Describes the format of a file without a NIfTI header."""
    if not head:
        return "nothing is packed in it"
    if head[_DICOM_AT : _DICOM_AT + 4] == b"DICM":
        return "a DICOM slice, convert the series with dcm2niix"
    for magic, name in _OTHER_FORMATS.items():
        if head.startswith(magic):
            return name
    sizes = [int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")]
    if 348 in sizes and not any(head[344:348]):
        return "an Analyze 7.5 header without its .img"
    return "text" if _PRINTABLE.issuperset(head) else "it has no NIfTI header"


def _shape(path, fields, four_d):
    """Returns (i, j, k), channels or None, and whether trailing axes of length 1 were dropped."""
    dims = [int(extent) for extent in fields["dim"]]
    if not 1 <= dims[0] <= 7:
        raise CaseError(
            f"{path}: its header declares {dims[0]} axes; the file is damaged, copy it again"
        )
    shape = declared = tuple(dims[1 : dims[0] + 1])
    while len(shape) > 3 + four_d and shape[-1] == 1:
        shape = shape[:-1]
    text = "x".join(map(str, declared))
    if len(shape) != 3 + four_d:
        expected = "a 4-D file of MSD, x, y, z and modality" if four_d else "a 3-D volume"
        if len(shape) == 4:
            expected += " (4-D files are read from MSD's imagesTr only)"
        raise CaseError(f"{path}: has shape {text}; expected {expected}")
    voxels = int(np.prod(shape[:3], dtype=object))
    if min(shape) < 1 or voxels > MAX_VOXELS or (four_d and shape[3] > _MAX_CHANNELS):
        raise CaseError(
            f"{path}: its header declares {text} voxels; expected a head scan such as "
            f"240x240x155 (at most {MAX_VOXELS:,} voxels)"
        )
    return shape[:3], shape[3] if four_d else None, len(shape) < len(declared)


def _offset(path, fields):
    """Returns the byte position of the first voxel; 0 in the header means right behind it."""
    offset = float(fields["vox_offset"])
    minimum = 544 if len(fields.binaryblock) == 540 else 352
    if not (offset == 0 or minimum <= offset <= _MAX_OFFSET):
        raise CaseError(
            f"{path}: its header puts the voxels at byte {offset:g}; expected "
            f"{minimum} or little more, the file is damaged, copy it again"
        )
    return int(offset) or minimum


def _scaling(path, fields):
    """Returns (slope, intercept); by the standard, a slope of 0 or NaN means no scaling."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite([slope, intercept]).all():
        raise CaseError(
            f"{path}: its header scales voxels by {slope:g} and adds {intercept:g}; "
            "expected finite numbers, repair scl_slope and scl_inter"
        )
    return slope, intercept


def _affine(path, fields):
    """Returns the sform, else the qform, else the affine of pixdim; float64 4x4, invertible."""
    with np.errstate(all="ignore"):
        pixdim = fields["pixdim"]
        # The same repairs as nibabel's: qfac is 1 or -1, and sizes have no sign.
        pixdim[0] = pixdim[0] if abs(pixdim[0]) == 1 else 1
        pixdim[1:4] = np.abs(pixdim[1:4])
        for name in ("qform_code", "sform_code"):  # a negative code is damaged: not set
            fields[name] = max(fields[name], 0)
        try:
            affine = np.asarray(fields.get_best_affine(), np.float64)
        except (ValueError, nibabel.spatialimages.HeaderDataError) as error:
            raise CaseError(
                f"{path}: its qform is no rotation ({error}); repair the header's sform or qform"
            ) from error
        sizes_valid = np.isfinite(pixdim[1:4]).all() and pixdim[1:4].all()
        if fields["sform_code"] == 0 and not sizes_valid:
            sizes = " x ".join(f"{size:g}" for size in pixdim[1:4])
            raise CaseError(
                f"{path}: its header has no sform, and pixdim declares voxels of "
                f"{sizes} mm; expected sizes above 0, repair pixdim"
            )
        if not _is_head_affine(affine):
            raise CaseError(
                f"{path}: its affine is not invertible or no head's; expected voxel "
                "axes that span space, repair the header's sform or qform"
            )
    return affine


def _is_head_affine(affine):
    """Returns whether an affine is invertible and has the spacing of a head scan."""
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return (
        np.isfinite(affine).all()
        and np.abs(affine).max() < 1e6
        and sizes.min() >= _SPACINGS_MM[0]
        and sizes.max() <= _SPACINGS_MM[1]
        and abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-3
    )
