"""What a NIfTI header declares, checked before anything is allocated for it."""

from dataclasses import dataclass

import nibabel
import numpy as np

from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.errors import CaseError

MAX_VOXELS = 640**3
"""A header that declares more is refused before anything is allocated."""

_MAX_CHANNELS = 16
_MAX_OFFSET = 1 << 24
_SPACINGS_MM = (0.01, 100.0)
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
_ANOTHER_KIND = {
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
    """What is needed of a header.

    Attributes:
        geometry: of the three spatial axes.
        channels: length of the fourth axis, or None for a 3-D file.
        dtype: NumPy dtype of the stored voxels, byte order included.
        offset: byte at which they begin.
        slope, intercept: stored values times slope plus intercept are intensities; (1, 0) where the
            header declares none.
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
    def shape(self):
        """Shape of the stored array, first axis fastest: (i, j, k) or (i, j, k, channels)."""
        return self.geometry.shape + ((self.channels,) if self.channels else ())

    @property
    def scaled(self):
        """Whether stored values are not yet intensities."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def byte_count(self):
        """Bytes of all stored voxels."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def parse_header(path, head, *, four_d=False):
    """Reads the header of a NIfTI-1 or NIfTI-2 file, of either byte order.

    Args:
        path: the file, for errors.
        head: its first bytes, uncompressed.
        four_d: whether a 4-D file is expected, instead of a 3-D one.

    Raises:
        CaseError: no NIfTI header, or one that cannot be that of a head scan.
    """
    fields = _fields(path, head)
    code = int(fields["datatype"])
    if code not in _DTYPES:
        raise CaseError(
            f"{path}: its voxels are {_NOT_INTENSITIES.get(code, f'of type {code}')}; "
            "expected one whole or real number a voxel"
        )
    shape, channels, dropped = _shape(path, fields, four_d)
    offset, slope, intercept = (
        float(fields[name]) for name in ("vox_offset", "scl_slope", "scl_inter")
    )
    least = 544 if len(fields.binaryblock) == 540 else 352
    if not (offset == 0 or least <= offset <= _MAX_OFFSET):
        raise CaseError(
            f"{path}: its header puts the voxels at byte {offset:g}; expected "
            f"{least} or little more, the file is damaged, copy it again"
        )
    if slope == 0 or np.isnan(slope):
        slope, intercept = 1.0, 0.0
    if not np.isfinite([slope, intercept]).all():
        raise CaseError(
            f"{path}: its header scales voxels by {slope:g} and adds {intercept:g}; "
            "expected finite numbers, repair scl_slope and scl_inter"
        )
    geometry = Geometry(
        shape,
        _affine(path, fields),
        int(fields["xyzt_units"]),
        int(fields["qform_code"]),
        int(fields["sform_code"]),
    )
    dtype = np.dtype(_DTYPES[code]).newbyteorder(fields.endianness)
    return Header(geometry, channels, dtype, int(offset) or least, slope, intercept, dropped)


def _fields(path, head):
    for endianness, order in (("<", "little"), (">", "big")):
        size = int.from_bytes(head[:4], order)
        kind, magic, single = {
            348: (nibabel.Nifti1Header, head[344:347], b"n+1"),
            540: (nibabel.Nifti2Header, head[4:7], b"n+2"),
        }.get(size, (None, b"", b""))
        if kind and len(head) >= size and magic == single:
            # Without its checks: they report to a log, and ours follow.
            return kind(head[:size], endianness, check=False)
        if kind and magic in (b"ni1", b"ni2"):
            raise CaseError(
                f"{path}: is the header of a .hdr and .img pair; expected both in one .nii file"
            )
        if kind and len(head) < size:
            raise CaseError(
                f"{path}: ends within its header; the file is truncated or damaged, copy it again"
            )
    raise CaseError(
        f"{path}: not a readable NIfTI file ({_another_kind(head)}); expected .nii or .nii.gz"
    )


def _another_kind(head):
    """What a file without a NIfTI header is, or seems to be."""
    if not head:
        return "nothing is packed in it"
    if head[_DICOM_AT : _DICOM_AT + 4] == b"DICM":
        return "a DICOM slice, convert the series with dcm2niix"
    for magic, kind in _ANOTHER_KIND.items():
        if head.startswith(magic):
            return kind
    if 348 in (int.from_bytes(head[:4], order) for order in ("little", "big")) and not any(
        head[344:348]
    ):
        return "an Analyze 7.5 header without its .img"
    return "text" if _PRINTABLE.issuperset(head) else "it has no NIfTI header"


def _shape(path, fields, four_d):
    """((i, j, k), channels or None, whether trailing axes of length one were dropped)."""
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
        wanted = (
            "a 4-D file of MSD, x, y, z and modality"
            if four_d
            else "a 3-D volume"
            + " (of 4-D files only MSD's are read, below imagesTr)" * (len(shape) == 4)
        )
        raise CaseError(f"{path}: has shape {text}; expected {wanted}")
    voxels = int(np.prod(shape[:3], dtype=object))
    if min(shape) < 1 or voxels > MAX_VOXELS or (four_d and shape[3] > _MAX_CHANNELS):
        raise CaseError(
            f"{path}: its header declares {text} voxels; expected a head scan such as "
            f"240x240x155 (at most {MAX_VOXELS:,} voxels)"
        )
    return shape[:3], shape[3] if four_d else None, len(shape) < len(declared)


def _affine(path, fields):
    """The sform, else the qform, else what pixdim gives; float64 4x4, invertible."""
    with np.errstate(all="ignore"):
        pixdim = fields["pixdim"]
        # As nibabel repairs them: a handedness of neither sign is +1, sizes have no sign.
        pixdim[0] = pixdim[0] if abs(pixdim[0]) == 1 else 1
        pixdim[1:4] = np.abs(pixdim[1:4])
        for name in ("qform_code", "sform_code"):  # a damaged code sets none
            fields[name] = max(fields[name], 0)
        by_pixdim = fields["sform_code"] == 0
        try:
            affine = np.asarray(fields.get_best_affine(), np.float64)
        except (ValueError, nibabel.spatialimages.HeaderDataError) as error:
            raise CaseError(
                f"{path}: its qform is no rotation ({error}); repair the header's sform or qform"
            ) from error
        if by_pixdim and not (np.isfinite(pixdim[1:4]).all() and pixdim[1:4].all()):
            sizes = " x ".join(f"{size:g}" for size in pixdim[1:4])
            raise CaseError(
                f"{path}: its header has no sform, and pixdim declares voxels of "
                f"{sizes} mm; expected sizes above 0, repair pixdim"
            )
        sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        if not (
            np.isfinite(affine).all()
            and np.abs(affine).max() < 1e6
            and sizes.min() >= _SPACINGS_MM[0]
            and sizes.max() <= _SPACINGS_MM[1]
            and abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-3
        ):
            raise CaseError(
                f"{path}: its affine is not invertible or no head's; expected voxel "
                "axes that span space, repair the header's sform or qform"
            )
    return affine
