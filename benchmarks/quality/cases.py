"""The cases of a comparison: one dataset for all, and arrays for the other libraries.

ROOT/dataset/           TFRecords; their folds are those of every contestant
ROOT/arrays/CASE.npz    the same cases, bias-corrected, as PyTorch users prepare them
"""

import itertools
import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from brats_tfrecord import files, metrics, spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.phantom import generate
from brats_tfrecord.preprocess import masks
from brats_tfrecord.records import manifest
from quality.settings import NETWORKS

TOOLS = Path(__file__).parents[2] / "tools"
PHANTOM_SEED = 2020
LEAVE_ONE_OUT, FOLDS, PHANTOM_FOLDS = 8, 5, 2
"""Patients up to which each is left out in turn; folds of larger cohorts; folds of phantoms."""


def make_cohort(root: Path, input_dirs, phantoms: int) -> Path:
    """Returns the folder of the cohort: the only input folder, links to several, or phantoms."""
    if len(input_dirs) == 1:
        return Path(input_dirs[0])
    folder = root / "cohort"
    if input_dirs:
        folder.mkdir(parents=True, exist_ok=True)
        for number, target in enumerate(input_dirs):
            link = folder / f"{number}"
            if not link.is_symlink():
                link.symlink_to(target, target_is_directory=True)
    elif not (root / "dataset" / manifest.FILE_NAME).exists():
        jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        generate.write_cohort(folder, phantoms, PHANTOM_SEED, jobs=jobs)
    return folder


def labelled_cases(cohort: Path) -> dict:
    """Finds the cases with a mask: case id -> `Case`.

    Raises:
        InputError: there are none, or only one patient has one.
    """
    cases = {case.case_id: case for case in layouts.find_cases(cohort) if case.mask is not None}
    if len({case.patient_id for case in cases.values()}) < 2:
        raise InputError(
            f"--input_dir={cohort}: {len(cases)} cases with a mask; expected those of two or more "
            "patients, to train on some and test on others"
        )
    return cases


def count_folds(patients: int, folds: int, phantoms: int) -> int:
    """Returns the number of folds: as asked for, else one for each patient of a small cohort.

    Args:
        patients: number of labelled patients.
        folds: value of the flag; 0 if it was not given.
        phantoms: number of phantoms; 0 for a cohort of the user.
    """
    if folds:
        if not 2 <= folds <= patients:
            raise InputError(f"--folds={folds}: expected 2 to {patients}, the number of patients")
        return folds
    if phantoms:
        return PHANTOM_FOLDS
    return patients if patients <= LEAVE_ONE_OUT else FOLDS


def prepare(root: Path, cohort: Path, cases, settings, kinds) -> manifest.Manifest:
    """Converts the cohort and, for MONAI, writes its arrays; finished work is kept.

    Args:
        root: folder of the comparison.
        cohort: folder of the cases.
        cases: case id -> labelled `Case`.
        settings: the settings.
        kinds: the contestants, without their variants.

    Raises:
        InputError: the conversion failed, or a case cannot be read.
    """
    started = time.perf_counter()
    run_tool(
        TOOLS / "convert_to_tfrecord.py",
        f"--input_dir={cohort}",
        f"--output_dir={root / 'dataset'}",
        f"--folds={settings.folds}",
        *shlex.split(settings.convert_flags),
    )
    print(f"converted in {time.perf_counter() - started:.0f} s", flush=True)
    dataset = manifest.load(root / "dataset")
    if not kinds.isdisjoint(NETWORKS):
        started = time.perf_counter()
        write_missing_arrays(root, cases, settings, dataset)
        print(f"arrays for MONAI in {time.perf_counter() - started:.0f} s", flush=True)
    return dataset


def write_missing_arrays(root: Path, cases, settings, dataset) -> None:
    """Writes the arrays of the cases that have none yet, several at a time."""
    missing = [
        cases[case_id]
        for case_id in dataset.case_ids(range(dataset.folds))
        if not array_path(root, case_id).exists()
    ]
    how = how_to_read(dataset)
    write = partial(write_arrays, root, settings.modality_names, dataset.recipe, how)
    jobs = max(1, min(len(missing), settings.cores * settings.parallel))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            list(pool.map(write, missing))
        except CaseError as error:
            raise InputError(str(error)) from error


def run_tool(script: Path, *arguments: str) -> None:
    """Runs one of our tools; raises InputError if it does not exit with 0 or 1."""
    code = subprocess.run([sys.executable, str(script), *arguments]).returncode
    if code not in (0, 1):
        raise InputError(f"{script.name} failed with exit code {code}; see its message above")


def array_path(root: Path, case_id: str) -> Path:
    """Returns the path of a case's arrays."""
    return root / "arrays" / f"{files.safe_file_name(case_id)}.npz"


def write_arrays(root: Path, modalities, recipe, how, case) -> None:
    """Writes a case as MONAI's BraTS examples prepare it, after our bias correction.

    The volume is cut to the box of its brain, and each channel has mean 0 and deviation 1 over its
    own voxels that are not 0, which stay 0.

    The file holds `image` float16 [C, X, Y, Z], `classes` uint8 [X, Y, Z], `origin` int [3] of the
    box and `shape` int [3] of the case's own grid.
    """
    raw = nifti.read_case(case, modalities, **how)
    volumes = np.moveaxis(recipe.correct(raw.volumes), -1, 0)
    box = bounding_box((volumes != 0).any(axis=0))
    classes = masks.to_classes(raw.mask, spec.LABEL_SCHEMES[raw.label_scheme], case.case_id)
    image = np.stack([normalized(volume[box]) for volume in volumes])
    path = array_path(root, case.case_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez(
            stream,
            image=image.astype(np.float16),
            classes=classes[box],
            origin=[side.start for side in box],
            shape=classes.shape,
        )


def normalized(volume: np.ndarray) -> np.ndarray:
    """Computes the z-score over the voxels that are not 0; they stay 0. float32 [X, Y, Z]."""
    inside = volume != 0
    values = volume[inside].astype(np.float64)
    result = np.zeros(volume.shape, np.float32)
    if values.size:
        result[inside] = (values - values.mean()) / (values.std() or 1)
    return result


def how_to_read(dataset) -> dict:
    """Returns the keyword arguments of `nifti.read_case` that the conversion used."""
    return files.read_json(dataset.root / manifest.FILE_NAME)["how_to_read"]


def read_truth(case, how):
    """Reads (uint8 [X, Y, Z] canonical classes, spacing in mm) of a case, on its own grid."""
    raw = nifti.read_case(case, [next(iter(case.images))], **how)
    scheme = spec.LABEL_SCHEMES[raw.label_scheme]
    return masks.to_classes(raw.mask, scheme, case.case_id), raw.geometry.spacing_mm


def score(case, how, prediction: np.ndarray, rules: str) -> dict[str, float | None]:
    """Scores a prediction on the case's own grid, whoever made it.

    Args:
        case: a labelled `Case`.
        how: as `how_to_read` returns it.
        prediction: uint8 [X, Y, Z] canonical classes in LPS order.
        rules: name of a rule set.

    Returns:
        dict of dice_WT, dice_TC, dice_ET, hd95_WT, …; None where the rules leave it undefined.
    """
    truth, spacing_mm = read_truth(case, how)
    classes = spec.LABEL_SCHEMES[case.label_scheme].classes
    scores = metrics.case_metrics(truth, prediction, spacing_mm, rules, classes)
    return {
        f"{metric}_{region}": scores[region][metric]
        for metric, region in itertools.product(("dice", "hd95"), spec.REGIONS)
    }
