"""Reads NIfTI cases into LPS arrays with every geometry check, and writes arrays back.

Inside the project every array is in LPS order (`spec.ORIENTATION`); `Geometry` remembers how the
file lay, and is what undoes the reorientation on writing. What is unusual in a file is refused, or
handled and noted; nothing is repaired in silence.
"""

import gzip
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel
import numpy as np

from brats_tfrecord import files, spec
from brats_tfrecord.cohort import naming
from brats_tfrecord.cohort.content import open_content
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.cohort.header import parse_header
from brats_tfrecord.cohort.voxels import Voxels
from brats_tfrecord.errors import CaseError, InputError

BARE_MASK_AFFINES = ("refuse", "ignore")
"""What to do with a mask whose affine says nothing, but whose array fits its images'."""

SPACING_TOLERANCE = 0.05
"""How far spacings may be off the 1 mm that the recipe and its windows are made for."""


@dataclass(frozen=True)
class RawCase:
    """A case as read: LPS order, intensities untouched.

    Attributes:
        case_id, patient_id, grade, label_scheme: as in `case.Case`.
        modalities: names of the channels of `volumes`.
        volumes: float32 [X, Y, Z, C]; each channel lies in one piece in memory.
        mask: int16 [X, Y, Z], the file's own label values, or None.
        geometry: how the first file lay.
        notes: what was unusual in the files, each "what: what was done", without numbers or paths,
            so that equal ones of many cases can be counted.
    """

    case_id: str
    patient_id: str
    grade: str | None
    label_scheme: str
    modalities: tuple[str, ...]
    volumes: np.ndarray
    mask: np.ndarray | None
    geometry: Geometry
    notes: tuple[str, ...] = ()


def read_case(
    case,
    modalities=spec.MODALITIES,
    with_mask=True,
    *,
    any_spacing=False,
    bare_mask_affine="refuse",
    threads=1,
):
    """Reads the volumes and the mask of `case` into one `RawCase`.

    Args:
        case: a `case.Case`.
        modalities: which, in the order of the channels.
        with_mask: whether to read the mask, where there is one.
        any_spacing: whether voxels may measure anything but 1 mm (they are not resampled here).
        bare_mask_affine: one of `BARE_MASK_AFFINES`.
        threads: how many files are read at a time; more than one hold all files' bytes at once.

    Raises:
        CaseError: a modality is missing, a file is unreadable, not 3-D or not finite, geometries
            differ, spacing is not 1 mm, or the mask holds fractions.
    """
    if bare_mask_affine not in BARE_MASK_AFFINES:
        raise InputError(
            f"--bare_mask_affine={bare_mask_affine}: expected one of {', '.join(BARE_MASK_AFFINES)}"
        )
    paths = [case.image(modality) for modality in modalities]
    notes, opened = [], None
    contents = _contents(paths, bool(case.channels), threads)
    for index, (modality, path) in enumerate(zip(modalities, paths)):
        channel = case.channels.get(modality)
        if opened is None or opened.path != path:  # one 4-D file holds all of MSD's modalities
            opened = next(contents)
            notes.extend(opened.notes())
        geometry = opened.header.geometry
        if index == 0:
            first = geometry
            if not any_spacing:
                _check_spacing(path, first)
            stack = np.empty((len(paths), *first.lps_shape), np.float32)
        check_grid(path, geometry, paths[0], first, "image", notes)
        if opened.fill(stack[index], channel) < 0:
            notes.append("negative intensities: kept, they take no part in the bias correction")
    if first.bare:
        notes.append(
            f"affine of the images {first.bare}: taken as it is, but left and right rest on it"
        )
    mask = opened = None
    if with_mask and case.mask is not None:
        mask = _read_mask(case.mask, paths[0], first, bare_mask_affine, notes)
    return RawCase(
        case.case_id,
        case.patient_id,
        case.grade,
        case.label_scheme,
        tuple(modalities),
        np.moveaxis(stack, 0, -1),
        mask,
        first,
        tuple(dict.fromkeys(notes)),
    )


def read_geometry(path, channel=None):
    """Reads only the header of `path`; raises `CaseError` as `read_volume` does."""
    with open_content(path) as content:
        return parse_header(path, content.head, four_d=channel is not None).geometry


def read_volume(path, channel=None):
    """Reads one volume.

    Args:
        path: a 3-D file; or a 4-D one, with `channel`.
        channel: index on the fourth axis, or None.

    Returns:
        (float32 [X, Y, Z] in LPS order, its `Geometry`).

    Raises:
        CaseError: missing, empty, truncated or damaged file, not 3-D, or a value that is not
            finite.
    """
    voxels = Voxels(path, four_d=channel is not None)
    volume = np.empty(voxels.header.geometry.lps_shape, np.float32)
    voxels.fill(volume, channel)
    return volume, voxels.header.geometry


def write_volume(path, array, geometry):
    """Writes an LPS array as NIfTI in the file order, affine, units and codes of `geometry`.

    Args:
        path: ends in `.nii.gz` (or `.nii`); replaced whole or not at all.
        array: [X, Y, Z] or [X, Y, Z, C], LPS order; its dtype is kept.
        geometry: where the result shall lie.

    Raises:
        InputError: `path` ends otherwise, or is a folder.
    """
    if not naming.is_nifti(str(path)) or Path(path).is_dir():
        raise InputError(f"{path}: expected a file name that ends in .nii.gz or .nii")
    data = to_bytes(array, geometry)
    if str(path).endswith(".gz"):
        data = gzip.compress(data, compresslevel=5, mtime=0)
    files.write_bytes(path, data)


def to_bytes(array, geometry, slope=None):
    """The bytes of the `.nii` file that `write_volume` would write; arguments as there.

    With a `slope` the file says that a voxel stands for `slope` times its number in `array`.
    """
    image = nibabel.Nifti1Image(geometry.from_lps(array), geometry.affine)
    image.header.set_qform(geometry.affine, code=geometry.qform_code)
    image.header.set_sform(geometry.affine, code=geometry.sform_code)
    image.header["xyzt_units"] = geometry.xyzt_units
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    return image.to_bytes()


def _contents(paths, four_d, threads):
    """Yields the `Voxels` of each file in order, read ahead where there are threads to do so."""
    paths = dict.fromkeys(paths)
    read = partial(Voxels, four_d=four_d)
    if threads == 1:
        yield from map(read, paths)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(read, paths)


def check_grid(path, geometry, first_path, first, what, notes):
    """Refuses a file that does not share the grid of the first; notes one that lies turned.

    Args:
        path: the file, for errors.
        geometry: its `Geometry`.
        first_path, first: the same of the case's first file.
        what: "image" or "mask", for the note.
        notes: list that a note is added to.

    Raises:
        CaseError: another shape, or an affine that puts voxels elsewhere.
    """
    if geometry.lps_shape != first.lps_shape:
        turned = geometry.shape == first.shape
        ours, theirs = (
            _times(grid.lps_shape if turned else grid.shape) for grid in (geometry, first)
        )
        raise CaseError(
            f"{path}: has shape {ours}{' once turned to LPS' if turned else ''}, but "
            f"{first_path.name} has {theirs}; the files of a case must share one grid"
        )
    if not geometry.shares_grid(first):
        raise CaseError(
            f"{path}: its affine puts voxels up to {geometry.apart_mm(first):.3g} mm "
            f"from those of {first_path.name}; the files of a case must share one "
            "grid, register or re-export them"
        )
    if geometry.orientation != first.orientation:
        notes.append(
            f"{what} in another orientation than the first image, on the same grid: "
            "reoriented by its affine"
        )


def is_millimetre(geometry):
    """Whether voxels measure 1 mm along each axis, to `SPACING_TOLERANCE`."""
    return all(abs(size - 1) <= SPACING_TOLERANCE for size in geometry.spacing_mm)


def _read_mask(path, first_path, first, bare_mask_affine, notes):
    """The labels of `path`, int16 [X, Y, Z] on the grid `first` of the images."""
    voxels = Voxels(path)
    notes.extend(voxels.notes())
    own = voxels.header.geometry
    if own.bare and own.shape == first.shape and not own.shares_grid(first):
        if bare_mask_affine == "refuse":
            raise CaseError(
                f"{path}: its affine {own.bare} and puts the mask elsewhere than "
                f"{first_path.name}; if the mask lies in its images' own array order, "
                "give --bare_mask_affine=ignore"
            )
        notes.append(
            "bare affine of a mask: ignored, the mask is taken in its images' own array order"
        )
        own = first
    else:
        check_grid(path, own, first_path, first, "mask", notes)
    labels, rounded = voxels.labels(own)
    if rounded:
        notes.append("mask values near whole numbers: rounded")
    return labels


def _check_spacing(path, geometry):
    if not is_millimetre(geometry):
        spacing = " x ".join(f"{size:.3g}" for size in geometry.spacing_mm)
        raise CaseError(
            f"{path}: voxels measure {spacing} mm; expected 1 x 1 x 1 mm, give --resample=1mm"
        )


def _times(shape):
    return "x".join(map(str, shape))
