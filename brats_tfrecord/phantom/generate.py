"""Generates a synthetic cohort with the names and geometry of BraTS 2020, for demos and tests.

The phantoms are heads with folded cortex, ventricles and gliomas in four modalities, with bias
fields and noise. A threshold cannot segment the tumours: cortex, white-matter lesions and
periventricular caps are as bright as edema in FLAIR, and vessels, sinuses and choroid plexus are
as bright as enhancement in T1ce; only the combination of modalities separates them. The phantoms
are test objects, not models of a disease.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.errors import InputError
from brats_tfrecord.phantom import anatomy, contrast, fields, gliomas

_MIN_SIZE = 40
_SCHEME = spec.LABEL_SCHEMES["brats2020"]


@dataclass(frozen=True)
class Phantom:
    """One synthetic case, in LPS order.

    Attributes:
        volumes: int16 [X, Y, Z, 4], channels as in `spec.MODALITIES`; 0 outside the brain and
            at least 1 inside.
        mask: uint8 [X, Y, Z], file values of the scheme "brats2020": 0, 1, 2, 4.
    """

    volumes: np.ndarray
    mask: np.ndarray


def write_cohort(
    root: Path | str,
    cases: int,
    seed: int,
    *,
    unlabelled: int = 0,
    shape: tuple[int, int, int] = spec.BRATS_GRID,
    jobs: int = 1,
    progress: Callable[[Path], object] | None = None,
) -> list[Path]:
    """Writes a cohort of phantoms in the layout of BraTS 2020.

    Case k depends on `seed`, k and `shape` only, not on the number of cases or jobs; the same call
    gives the same bytes. Every eighth case, starting with the third, has no enhancing tumour.

    Args:
        root: folder to write to, one folder per case; existing files are replaced.
        cases: number of labelled cases, named `BraTS20_Training_001` and so on.
        seed: 0 or more.
        unlabelled: number of cases without a mask, named `BraTS20_Validation_001` and so on.
        shape: (X, Y, Z) in voxels. Smaller volumes contain smaller heads; the spacing is 1 mm.
        jobs: number of processes.
        progress: called with the folder of each case after it is written.

    Returns:
        The case folders, labelled ones first.

    Raises:
        InputError: counts, seed, jobs or shape out of range.
    """
    _check(cases, seed, unlabelled, shape, jobs)
    tasks = [(index, False) for index in range(cases)]
    tasks += [(index, True) for index in range(unlabelled)]
    write = partial(_write_case, Path(root), seed, tuple(shape))
    folders = []
    for folder in _each(write, tasks, jobs):
        folders.append(folder)
        if progress:
            progress(folder)
    return folders


def make_case(
    seed: int,
    index: int,
    *,
    unlabelled: bool = False,
    shape: tuple[int, int, int] = spec.BRATS_GRID,
) -> Phantom:
    """Makes case `index` of a cohort in memory.

    Args:
        seed: the cohort's seed.
        index: 0 for `…_001`.
        unlabelled: whether it is one of the validation cases, which have other tumours.
        shape: (X, Y, Z) in voxels.

    Returns:
        The case, with a mask even if it is unlabelled.
    """
    sequence = np.random.SeedSequence((seed, index, int(unlabelled)))
    head_rng, tissue_rng, plan_rng, growth_rng, scan_rng = map(
        np.random.default_rng, sequence.spawn(5)
    )
    grid = fields.Grid.from_shape(shape)
    outline = anatomy.draw_outline(head_rng, grid)
    plan = gliomas.draw_plan(plan_rng, grid, outline, enhancing=index % 8 != 2)
    points = gliomas.displaced_points(plan, grid)
    tissues = anatomy.fill_outline(tissue_rng, grid, outline, points)
    lesion = gliomas.grow(growth_rng, plan, grid, outline, tissues)
    brain = contrast.brain_mask(tissues, lesion)
    inside = np.zeros(shape, bool)
    inside[grid.box][tissues.inside] = brain
    mask = np.zeros(shape, np.uint8)
    mask[inside] = np.array(_SCHEME.values, np.uint8)[lesion.labels[brain]]
    volumes = np.zeros((*shape, len(spec.MODALITIES)), np.int16)
    for channel, values in enumerate(contrast.scan(scan_rng, grid, tissues, lesion)):
        volumes[inside, channel] = values[brain]
    return Phantom(volumes, mask)


def geometry(shape: tuple[int, int, int] = spec.BRATS_GRID) -> Geometry:
    """Returns the geometry of BraTS volumes: LPS order, 1 mm, with BraTS's origin."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = 239
    return Geometry(shape, affine, xyzt_units=2, qform_code=2, sform_code=1)


def _write_case(root, seed, shape, task):
    index, unlabelled = task
    name = f"BraTS20_{'Validation' if unlabelled else 'Training'}_{index + 1:03d}"
    phantom = make_case(seed, index, unlabelled=unlabelled, shape=shape)
    folder = root / name
    for channel, modality in enumerate(spec.MODALITIES):
        volume = phantom.volumes[..., channel]
        nifti.write_volume(folder / f"{name}_{modality}.nii.gz", volume, geometry(shape))
    if not unlabelled:
        nifti.write_volume(folder / f"{name}_seg.nii.gz", phantom.mask, geometry(shape))
    return folder


def _each(write, tasks, jobs):
    """Yields `write(task)` for every task, in order."""
    if jobs == 1:
        yield from map(write, tasks)
        return
    # Spawned, because a forked child of a process with threads (TensorFlow's) can hang.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, tasks)


def _check(cases, seed, unlabelled, shape, jobs):
    for name, value, minimum in (
        ("cases", cases, 0),
        ("unlabelled", unlabelled, 0),
        ("seed", seed, 0),
        ("jobs", jobs, 1),
    ):
        if value < minimum:
            raise InputError(f"{name}: got {value}; expected {minimum} or more")
    if cases + unlabelled < 1:
        raise InputError("cases: got 0 and no unlabelled ones; expected at least one case")
    if len(shape) != 3 or min(shape) < _MIN_SIZE:
        raise InputError(
            f"shape: got {shape}; expected three sizes of {_MIN_SIZE} or more, "
            "such as 240, 240, 155"
        )
