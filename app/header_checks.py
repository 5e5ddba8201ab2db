"""Checks the headers of uploaded files before their voxels are decompressed."""

import math
from collections.abc import Mapping
from pathlib import Path

from app.recognise import FOUR_D
from brats_tfrecord import spec
from brats_tfrecord.cohort import msd, nifti
from brats_tfrecord.cohort.content import MemoryFile, open_content
from brats_tfrecord.cohort.geometry import is_one_millimetre
from brats_tfrecord.cohort.header import Header, parse_header
from brats_tfrecord.errors import CaseError

_TEMPORARY_IMAGE, _TEMPORARY_MASK = 8, 40
"""Temporary bytes per voxel while one file is read, beside its stored voxels: an image's scaled
values; a mask's scaled values, their rounding, and the positions of its labels."""

_EXPECTED = {
    FOUR_D: "all four modalities in one 4-D file, choose which modality it is",
    "seg": "one label per voxel in a 3-D volume, convert it or leave it out",
}
_EXPECTED_IMAGE = (
    "a 3-D volume of one modality; if it holds FLAIR, T1w, T1gd and T2w as the files of MSD do, "
    "choose it as the 4-D file, else split it"
)


def read_header(file: Path | MemoryFile, kind: str) -> Header:
    """Reads the header of a file; reads nothing behind it.

    Args:
        file: a path, or a `MemoryFile`.
        kind: one of `recognise.KINDS`.

    Raises:
        CaseError: not a header of a head scan, or not of the dimension that `kind` has.
    """
    four_d = kind == FOUR_D
    with open_content(file) as content:
        try:
            header = parse_header(file, content.head, four_d=four_d)
        except CaseError:
            shape = _shape_of_other_dimension(file, content.head, four_d)
            if shape is None:
                raise
            received = f"{file}: is {_times(shape)}, {len(shape)}-D"
            raise CaseError(
                f"{received}; expected {_EXPECTED.get(kind, _EXPECTED_IMAGE)}"
            ) from None
    if four_d and header.channels != len(msd.CHANNELS):
        raise CaseError(
            f"{file}: has {header.channels} volumes on its fourth axis; expected the "
            "four of MSD Task01, FLAIR, T1w, T1gd and T2w"
        )
    return header


def check_geometries(
    opened: Mapping[str, Path | MemoryFile], headers: Mapping[str, Header], any_spacing: bool
) -> None:
    """Checks from headers what `nifti.read_case` would otherwise find after reading the voxels.

    Args:
        opened: kind -> file, at least one of them an image.
        headers: kind -> header, in the same order.
        any_spacing: whether spacings other than 1 mm are allowed.

    Raises:
        CaseError: a spacing, shape or affine differs from the expected one.
    """
    kinds = [kind for kind in headers if kind != "seg"]
    first_file, first = opened[kinds[0]], headers[kinds[0]].geometry
    if not (any_spacing or is_one_millimetre(first.spacing_mm)):
        spacing = " x ".join(f"{size:.3g}" for size in first.spacing_mm)
        raise CaseError(
            f"{first_file}: voxels measure {spacing} mm; expected 1 x 1 x 1 mm, as the "
            "model was trained; resample the images, or use a model whose recipe does"
        )
    for kind in kinds[1:]:
        nifti.check_grid(opened[kind], headers[kind].geometry, first_file, first, "image", [])
    if "seg" in headers:
        mask = headers["seg"].geometry
        if mask.bare and mask.shape == first.shape and not mask.shares_grid(first):
            raise CaseError(
                f"{opened['seg']}: its affine {mask.bare} and puts the mask elsewhere "
                f"than {first_file}; expected one grid, copy the image's affine into "
                "the mask, or leave the mask out"
            )
        nifti.check_grid(opened["seg"], mask, first_file, first, "mask", [])


def check_memory(
    opened: Mapping[str, Path | MemoryFile], headers: Mapping[str, Header], limit: int
) -> None:
    """Checks that reading the files takes at most `limit` bytes at its peak.

    Args:
        opened, headers: as in `check_geometries`, which must have passed.
        limit: bytes, not counting the uploads themselves.

    Raises:
        CaseError: the limit is exceeded; names the file that takes most.
    """
    peak, kind = peak_bytes(headers)
    if peak > limit:
        raise CaseError(
            f"{opened[kind]}: its header declares {_times(headers[kind].shape)} "
            f"voxels, and reading the case would take {peak / 1e9:.2g} GB of memory; "
            f"expected at most {limit / 1e9:.2g} GB, crop or resample the images"
        )


def peak_bytes(headers: Mapping[str, Header]) -> tuple[int, str]:
    """Returns the peak bytes of reading these files, and the kind of the file that takes most."""
    voxels = math.prod(next(iter(headers.values())).geometry.shape)
    images = len(spec.MODALITIES) if FOUR_D in headers else len(headers) - ("seg" in headers)
    kept = voxels * (4 * images + (3 if "seg" in headers else 0))
    temporary = {
        kind: header.byte_count + voxels * (_TEMPORARY_MASK if kind == "seg" else _TEMPORARY_IMAGE)
        for kind, header in headers.items()
    }
    kind = max(temporary, key=temporary.__getitem__)
    return kept + temporary[kind], kind


def _shape_of_other_dimension(file, head, four_d):
    """The shape of a valid header that is 3-D instead of 4-D or the reverse, else None."""
    try:
        return parse_header(file, head, four_d=not four_d).shape
    except CaseError:
        return None


def _times(shape):
    return "x".join(map(str, shape))
