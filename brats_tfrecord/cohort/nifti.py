"""Reads NIfTI cases into LPS arrays, checks their geometry, and writes arrays back.

All arrays of the project are in LPS order (`spec.ORIENTATION`); a `Geometry` keeps the order of the
file, so that writing can restore it. Unusual files are refused, or handled and noted; nothing is
repaired silently.
"""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel
import numpy as np

from brats_tfrecord import files, spec
from brats_tfrecord.cohort import naming
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.cohort.content import MemoryFile, open_content
from brats_tfrecord.cohort.geometry import Geometry, is_one_millimetre
from brats_tfrecord.cohort.header import parse_header
from brats_tfrecord.cohort.voxels import Voxels
from brats_tfrecord.errors import CaseError, InputError

BARE_MASK_AFFINES = ("refuse", "ignore")
"""Choices for a mask with a meaningless affine and the array shape of its images."""


@dataclass(frozen=True)
class RawCase:
    """The unprocessed volumes and mask of a case, in LPS order.

    Attributes:
        case_id, patient_id, grade, label_scheme: as in `case.Case`.
        modalities: names of the channels of `volumes`.
        volumes: float32 [X, Y, Z, C]; each channel is contiguous in memory. The channel of a
            missing modality is 0.
        mask: int16 [X, Y, Z] with the label values of the file, or None.
        geometry: geometry of the first file.
        notes: anomalies of the files, each "finding: consequence", without numbers or paths, so
            that the same anomaly of many cases can be counted.
        missing: names of those `modalities` that the case lacks.
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
    missing: tuple[str, ...] = ()

    def without(self, modalities: Collection[str]) -> RawCase:
        """Returns a copy that lacks these modalities, too."""
        volumes = self.volumes.copy(order="K")  # each channel stays contiguous
        volumes[..., [name in modalities for name in self.modalities]] = 0
        missing = {*self.missing, *modalities}
        return dataclasses.replace(
            self,
            volumes=volumes,
            missing=tuple(name for name in self.modalities if name in missing),
        )


def read_case(
    case: Case,
    modalities: Sequence[str] = spec.MODALITIES,
    with_mask: bool = True,
    *,
    any_spacing: bool = False,
    bare_mask_affine: str = "refuse",
    allow_missing: bool = False,
    threads: int = 1,
) -> RawCase:
    """Reads the volumes and the mask of a case.

    Args:
        case: the files.
        modalities: the modalities to read, in the order of the channels.
        with_mask: whether to read the mask, if the case has one.
        any_spacing: whether spacings other than 1 mm are allowed (nothing is resampled here).
        bare_mask_affine: one of `BARE_MASK_AFFINES`.
        allow_missing: whether some of the modalities, but not all, may be missing.
        threads: number of files read at a time; above 1, the bytes of all files are in memory at
            once.

    Raises:
        CaseError: a modality is missing and may not be, a file is unreadable, not 3-D or not
            finite, geometries differ, the spacing is not 1 mm, or the mask holds fractions.
    """
    if bare_mask_affine not in BARE_MASK_AFFINES:
        raise InputError(
            f"--bare_mask_affine={bare_mask_affine}: expected one of {', '.join(BARE_MASK_AFFINES)}"
        )
    notes: list[str] = []
    present = [name for name in modalities if name in case.images]
    paths = {name: case.image(name) for name in (allow_missing and present) or modalities}
    stack, geometry = _read_images(case, modalities, paths, any_spacing, threads, notes)
    mask = None
    if with_mask and case.mask is not None:
        first_path = next(iter(paths.values()))
        mask = _read_mask(case.mask, first_path, geometry, bare_mask_affine, notes)
    return RawCase(
        case.case_id,
        case.patient_id,
        case.grade,
        case.label_scheme,
        tuple(modalities),
        np.moveaxis(stack, 0, -1),
        mask,
        geometry,
        tuple(dict.fromkeys(notes)),
        tuple(name for name in modalities if name not in paths),
    )


def read_geometry(path: Path | str | MemoryFile, channel: int | None = None) -> Geometry:
    """Reads only the header of `path`; raises `CaseError` as `read_volume` does."""
    with open_content(path) as content:
        return parse_header(path, content.head, four_d=channel is not None).geometry


def read_volume(
    path: Path | str | MemoryFile, channel: int | None = None
) -> tuple[np.ndarray, Geometry]:
    """Reads one volume.

    Args:
        path: a 3-D file, or a 4-D file if `channel` is given.
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


def write_volume(path: Path | str, array: np.ndarray, geometry: Geometry) -> None:
    """Writes an LPS array as NIfTI with the axis order, affine, units and codes of `geometry`.

    Args:
        path: a name in `.nii.gz` or `.nii`; the file is replaced as a whole or not at all.
        array: [X, Y, Z] or [X, Y, Z, C], LPS order; its dtype is kept.
        geometry: geometry of the file to write.

    Raises:
        InputError: `path` has another ending, or is a folder.
    """
    if not naming.is_nifti(str(path)) or Path(path).is_dir():
        raise InputError(f"{path}: expected a file name that ends in .nii.gz or .nii")
    data = to_bytes(array, geometry)
    if str(path).endswith(".gz"):
        data = gzip.compress(data, compresslevel=5, mtime=0)
    files.write_bytes(path, data)


def to_bytes(array: np.ndarray, geometry: Geometry, slope: float | None = None) -> bytes:
    """Returns the bytes of the `.nii` file that `write_volume` would write.

    With a `slope`, the header declares that an intensity is `slope` times the value in `array`.
    """
    image = nibabel.Nifti1Image(geometry.from_lps(array), geometry.affine)
    image.header.set_qform(geometry.affine, code=geometry.qform_code)
    image.header.set_sform(geometry.affine, code=geometry.sform_code)
    image.header["xyzt_units"] = geometry.xyzt_units
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    return image.to_bytes()


def _read_images(
    case: Case,
    modalities: Sequence[str],
    paths: Mapping[str, Path],
    any_spacing: bool,
    threads: int,
    notes: list[str],
) -> tuple[np.ndarray, Geometry]:
    """Reads the images as float32 [C, X, Y, Z], with the geometry of the first file.

    Modalities that are not in `paths`, which holds at least one, are 0.
    """
    opened = _read_files(case, paths.values(), threads)
    voxels = next(opened)
    first_path, first = next(iter(paths.values())), voxels.header.geometry
    notes.extend(voxels.notes())
    if not any_spacing:
        _check_spacing(first_path, first)
    stack = np.empty((len(modalities), *first.lps_shape), np.float32)
    for index, modality in enumerate(modalities):
        if modality not in paths:
            stack[index] = 0
            continue
        path = paths[modality]
        if voxels.path != path:  # one 4-D file holds all of MSD's modalities
            voxels = next(opened)
            notes.extend(voxels.notes())
        check_grid(path, voxels.header.geometry, first_path, first, "image", notes)
        if voxels.fill(stack[index], case.channels.get(modality)) < 0:
            notes.append("negative intensities: kept, they take no part in the bias correction")
    if first.caveat:
        notes.append(first.caveat)
    return stack, first


def _read_files(case: Case, paths: Iterable[Path], threads: int) -> Iterator[Voxels]:
    """Yields the `Voxels` of each distinct file in order, read ahead if there are more threads."""
    distinct = dict.fromkeys(paths)
    read = partial(_open, channels=case.channels)
    if threads == 1:
        yield from map(read, distinct)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(read, distinct)


def _open(path: Path, channels: Mapping[str, int]) -> Voxels:
    """Reads a file with one volume, or a 4-D file with these channels."""
    voxels = Voxels(path, four_d=bool(channels))
    # The four of Task01 may be followed by others; of fewer it is not known which are meant.
    if 0 < len(channels) < len(spec.MODALITIES) and voxels.header.channels != len(channels):
        raise CaseError(
            f"{path}: has {voxels.header.channels} volumes; expected the {len(channels)} that its "
            f"dataset.json declares, {', '.join(channels)}"
        )
    return voxels


def check_grid(
    path: Path | MemoryFile,
    geometry: Geometry,
    first_path: Path | MemoryFile,
    first: Geometry,
    kind: str,
    notes: list[str],
) -> None:
    """Refuses a file on another grid than the case's first file.

    A file in another orientation on the same grid is noted.

    Args:
        path: the file, for error messages.
        geometry: its geometry.
        first_path, first: path and geometry of the case's first file.
        kind: "image" or "mask", for the note.
        notes: list that a note is added to.

    Raises:
        CaseError: another shape, or an affine that places voxels elsewhere.
    """
    if geometry.lps_shape != first.lps_shape:
        same_file_shape = geometry.shape == first.shape
        shape, expected = (
            "x".join(map(str, grid.lps_shape if same_file_shape else grid.shape))
            for grid in (geometry, first)
        )
        raise CaseError(
            f"{path}: has shape {shape}{' once turned to LPS' if same_file_shape else ''}, but "
            f"{first_path.name} has {expected}; the files of a case must share one grid"
        )
    if not geometry.shares_grid(first):
        raise CaseError(
            f"{path}: its affine puts voxels up to {geometry.apart_mm(first):.3g} mm "
            f"from those of {first_path.name}; the files of a case must share one "
            "grid, register or re-export them"
        )
    if geometry.orientation != first.orientation:
        notes.append(
            f"{kind} in another orientation than the first image, on the same grid: "
            "reoriented by its affine"
        )


def _read_mask(path, first_path, first, bare_mask_affine, notes):
    """Reads a mask as int16 [X, Y, Z] on the grid `first` of the images."""
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
    if not is_one_millimetre(geometry.spacing_mm):
        spacing = " x ".join(f"{size:.3g}" for size in geometry.spacing_mm)
        raise CaseError(
            f"{path}: voxels measure {spacing} mm; expected 1 x 1 x 1 mm, give --resample=1mm"
        )
