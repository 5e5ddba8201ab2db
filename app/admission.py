"""Headers of uploaded files, checked before anything behind them is expanded."""

import math

from app.recognise import FOUR_D
from brats_tfrecord import spec
from brats_tfrecord.cohort import msd, nifti
from brats_tfrecord.cohort.content import open_content
from brats_tfrecord.cohort.header import parse_header
from brats_tfrecord.errors import CaseError

_PASSING_IMAGE, _PASSING_MASK = 8, 40
"""Bytes a voxel that reading one file takes for a while, beside its stored voxels: an image's
scaled values; a mask's scaled values, their rounding, and the places of its labels."""

_WANTED = {
    FOUR_D: "all four modalities in one 4-D file, choose which modality it is",
    "seg": "one label a voxel in a 3-D volume, convert it or leave it out",
}
_WANTED_IMAGE = (
    "a 3-D volume of one modality; if it holds FLAIR, T1w, T1gd and T2w as MSD's do, "
    "choose it as the 4-D file, else split it"
)


def read_header(file, kind):
    """The `Header` of a file that is to be of `kind`; nothing but its beginning is read.

    Args:
        file: a path, or a `MemoryFile`.
        kind: one of `recognise.KINDS`.

    Raises:
        CaseError: no header of a head scan, or not of the dimension that `kind` has.
    """
    four_d = kind == FOUR_D
    with open_content(file) as content:
        try:
            header = parse_header(file, content.head, four_d=four_d)
        except CaseError:
            header = _of_other_dimension(file, content.head, four_d)
            if header is None:
                raise
            came = f"{file}: is {_times(header.shape)}, {len(header.shape)}-D"
            raise CaseError(f"{came}; expected {_WANTED.get(kind, _WANTED_IMAGE)}") from None
    if four_d and header.channels != len(msd.CHANNELS):
        raise CaseError(
            f"{file}: has {header.channels} volumes on its fourth axis; expected the "
            "four of MSD Task01, FLAIR, T1w, T1gd and T2w"
        )
    return header


def check_geometries(opened, headers, any_spacing):
    """Refuses, by headers alone, what `nifti.read_case` would refuse once all is read.

    Args:
        opened: kind -> path or `MemoryFile`, at least one of an image.
        headers: kind -> its `Header`, in the same order.
        any_spacing: whether voxels may measure anything but 1 mm.

    Raises:
        CaseError: another spacing, shape or affine than expected.
    """
    kinds = [kind for kind in headers if kind != "seg"]
    first_file, first = opened[kinds[0]], headers[kinds[0]].geometry
    if not (any_spacing or nifti.is_millimetre(first)):
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


def check_memory(opened, headers, limit):
    """Refuses what would take more than `limit` bytes, before it takes them.

    Args:
        opened, headers: as `check_geometries` has passed them.
        limit: bytes beside the uploads themselves, at the peak of reading them.

    Raises:
        CaseError: naming the file that takes most.
    """
    peak, kind = peak_bytes(headers)
    if peak > limit:
        raise CaseError(
            f"{opened[kind]}: its header declares {_times(headers[kind].shape)} "
            f"voxels, and reading the case would take {peak / 1e9:.2g} GB of memory; "
            f"expected at most {limit / 1e9:.2g} GB, crop or resample the images"
        )


def peak_bytes(headers):
    """(bytes that reading these files takes at its peak, kind of the file that takes most)."""
    voxels = math.prod(next(iter(headers.values())).geometry.shape)
    images = len(spec.MODALITIES) if FOUR_D in headers else len(headers) - ("seg" in headers)
    kept = voxels * (4 * images + (3 if "seg" in headers else 0))
    passing = {
        kind: header.byte_count + voxels * (_PASSING_MASK if kind == "seg" else _PASSING_IMAGE)
        for kind, header in headers.items()
    }
    kind = max(passing, key=passing.get)
    return kept + passing[kind], kind


def _of_other_dimension(file, head, four_d):
    try:
        return parse_header(file, head, four_d=not four_d)
    except CaseError:
        return None


def _times(shape):
    return "x".join(map(str, shape))
