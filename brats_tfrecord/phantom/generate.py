"""A synthetic cohort in BraTS-2020 names and geometry: for demos, tests and pictures.

Heads with folded cortex, ventricles and gliomas in four modalities, with bias fields and noise.
No threshold finds the tumours: cortex, white-matter lesions and periventricular caps are as
bright as edema in FLAIR, and vessels, sinuses and choroid plexus as bright as enhancement in
T1ce; only the modalities together tell them apart. It is a test object, not a model of disease.
"""

import multiprocessing
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

SHAPE = (240, 240, 155)
"""Voxels (X, Y, Z) of a full-size case, 1 mm apart."""

_SMALLEST = 40
_SCHEME = spec.LABEL_SCHEMES["brats2020"]


@dataclass(frozen=True)
class Phantom:
    """One made case, in LPS order.

    Attributes:
        volumes: int16 [X, Y, Z, 4], channels as in `spec.MODALITIES`; 0 outside the brain and
            at least 1 within.
        mask: uint8 [X, Y, Z], file values of the scheme "brats2020": 0, 1, 2, 4.
    """

    volumes: np.ndarray
    mask: np.ndarray


def write_cohort(root, cases, seed, *, unlabelled=0, shape=SHAPE, jobs=1, progress=None):
    """Writes a cohort of phantoms as BraTS 2020 lays it out.

    Case k depends on `seed`, k and `shape` alone, not on the number of cases or jobs; the same
    call gives the same bytes. Every eighth case, the third first, has no enhancing tumour.

    Args:
        root: folder that gets one folder a case; existing files are replaced whole.
        cases: labelled cases, `BraTS20_Training_001` and up.
        seed: 0 or more.
        unlabelled: further cases without a mask, `BraTS20_Validation_001` and up.
        shape: voxels (X, Y, Z). Smaller volumes hold smaller heads; spacing stays 1 mm.
        jobs: processes.
        progress: called with each case's folder when it is written.

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


def make_case(seed, index, *, unlabelled=False, shape=SHAPE):
    """Makes case `index` (from 0) of the cohort of `seed`, in memory.

    Args:
        seed: the cohort's seed.
        index: 0 for `…_001`.
        unlabelled: whether it is one of the validation cases; they have tumours of their own.
        shape: voxels (X, Y, Z).

    Returns:
        A `Phantom`; its mask is there even for an unlabelled case.
    """
    sequence = np.random.SeedSequence((seed, index, int(unlabelled)))
    head, tissue, tumour, growth, noise = map(np.random.default_rng, sequence.spawn(5))
    grid = fields.Grid.of(shape)
    outline = anatomy.outline(head, grid)
    planned = gliomas.plan(tumour, grid, outline, enhancing=index % 8 != 2)
    tissues = anatomy.tissues(tissue, grid, outline, gliomas.displaced(planned, grid))
    lesion = gliomas.grow(growth, planned, grid, outline, tissues)
    brain = contrast.brain(tissues, lesion)
    inside = np.zeros(shape, bool)
    inside[grid.box][tissues.inside] = brain
    mask = np.zeros(shape, np.uint8)
    mask[inside] = np.array(_SCHEME.values, np.uint8)[lesion.labels[brain]]
    volumes = np.zeros((*shape, len(spec.MODALITIES)), np.int16)
    for channel, values in enumerate(contrast.volumes(noise, grid, tissues, lesion)):
        volumes[inside, channel] = values[brain]
    return Phantom(volumes, mask)


def geometry(shape=SHAPE):
    """How BraTS volumes lie: LPS order, 1 mm, the origin at the right front of the lowest slice."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = 239
    return Geometry(tuple(shape), affine, xyzt_units=2, qform_code=2, sform_code=1)


def _write_case(root, seed, shape, task):
    index, unlabelled = task
    name = f"BraTS20_{'Validation' if unlabelled else 'Training'}_{index + 1:03d}"
    made = make_case(seed, index, unlabelled=unlabelled, shape=shape)
    for channel, modality in enumerate(spec.MODALITIES):
        nifti.write_volume(
            root / name / f"{name}_{modality}.nii.gz", made.volumes[..., channel], geometry(shape)
        )
    if not unlabelled:
        nifti.write_volume(root / name / f"{name}_seg.nii.gz", made.mask, geometry(shape))
    return root / name


def _each(write, tasks, jobs):
    """Yields `write(task)` for every task, in order."""
    if jobs == 1:
        yield from map(write, tasks)
        return
    # Spawned, for a forked child of a process with threads (TensorFlow's) can hang.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, tasks)


def _check(cases, seed, unlabelled, shape, jobs):
    for name, value, least in (
        ("cases", cases, 0),
        ("unlabelled", unlabelled, 0),
        ("seed", seed, 0),
        ("jobs", jobs, 1),
    ):
        if value < least:
            raise InputError(f"{name}: got {value}; expected {least} or more")
    if cases + unlabelled < 1:
        raise InputError("cases: got 0 and no unlabelled ones; expected at least one case")
    if len(shape) != 3 or min(shape) < _SMALLEST:
        raise InputError(
            f"shape: got {shape}; expected three sizes of {_SMALLEST} or more, "
            "such as 240, 240, 155"
        )
