"""The cases of an evaluation, from a dataset or from files, behind one face."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess import masks, resample
from brats_tfrecord.records import example, manifest, manifest_check
from brats_tfrecord.serving.predict import Segmentation

SHOWN = ("flair", "t1ce")
"""Modalities worth looking at, in order of preference."""


@dataclass(frozen=True)
class Examined:
    """A segmented case with what it is judged by.

    Attributes:
        segmentation: `serving.predict.Segmentation`.
        truth: uint8 [X, Y, Z] canonical classes of the whole LPS grid, or None.
        volumes: modality -> float32 [X, Y, Z], zero outside the brain, for pictures.
    """

    segmentation: Segmentation
    truth: np.ndarray | None
    volumes: dict[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """A case that waits for its turn: `examine()` reads and segments it, or raises CaseError."""

    case_id: str
    patient_id: str
    grade: str | None
    examine: Callable[[], Examined]


def from_files(options, segmenter):
    """(number of cases, their `Subject`s) of the cohort of `EvaluateOptions`.

    Raises:
        InputError: no cohort there, or masks of other classes than the model's.
    """
    cases = layouts.find_cases(options.input_dir, options.layout, options.label_scheme)
    for case in cases:
        if case.mask is not None:
            _require_same_classes(f"--input_dir={options.input_dir}",
                                  spec.LABEL_SCHEMES[case.label_scheme], segmenter.scheme)
    how_to_read = {"any_spacing": segmenter.recipe.any_spacing,
                   "bare_mask_affine": options.bare_mask_affine}
    return len(cases), (
        Subject(case.case_id, case.patient_id, case.grade,
                lambda case=case: _examine_files(case, segmenter, how_to_read)) for case in cases)


def from_dataset(root, fold, segmenter):
    """(number of cases, their `Subject`s) of a fold of the dataset in `root`.

    Args:
        root: the dataset's folder.
        fold: a number as text, "all" (of the labelled) or "unlabelled".
        segmenter: `serving.predict.Segmenter`; its recipe must be the dataset's.

    Raises:
        InputError: no dataset, no case in that fold, another recipe, or masks of other classes
            than the model's.
    """
    dataset = manifest.load(root)
    manifest_check.require_sound(root)
    if fold != "unlabelled":
        _require_same_classes(f"--data_dir={root}", dataset.label_scheme, segmenter.scheme)
    if dataset.recipe != segmenter.recipe:
        ours, theirs = segmenter.recipe.to_json(), dataset.recipe.to_json()
        differences = ", ".join(f"{name} is {theirs[name]}, the model's is {ours[name]}"
                                for name in ours if ours[name] != theirs[name])
        raise InputError(f"--data_dir={root}: was converted by another recipe than the model's: "
                         f"{differences}; evaluate with --input_dir instead")
    folds = {"all": range(dataset.folds), "unlabelled": [None]}.get(fold) or [int(fold)]
    count = len(dataset.case_ids(folds))
    if not count:
        there = sorted({str(case.fold) for case in dataset.cases if case.fold is not None})
        raise InputError(f"--fold={fold}: no case of {root} is in it; expected one of "
                         f"{', '.join(there)}, all or unlabelled")
    return count, _subjects_of_shards(dataset, folds, segmenter)


def _require_same_classes(source, theirs, ours):
    """Refuses masks that know other classes than the model; other values of them are the same."""
    if theirs.class_names != ours.class_names:
        raise InputError(
            f"{source}: its masks follow {theirs.name} ({', '.join(theirs.class_names[1:])}), the "
            f"model {ours.name} ({', '.join(ours.class_names[1:])}); expected the same classes: "
            "evaluate on a cohort that has them, or train on this one")


def _examine_files(case, segmenter, how_to_read):
    names = list(dict.fromkeys([*segmenter.modalities, *(n for n in SHOWN if n in case.images)]))
    raw = nifti.read_case(case, names, **how_to_read)
    truth = None
    if raw.mask is not None:
        truth = masks.to_classes(raw.mask, spec.LABEL_SCHEMES[raw.label_scheme], raw.case_id)
    volumes = {name: raw.volumes[..., channel] for channel, name in enumerate(names)}
    return Examined(segmenter.segment_raw(raw), truth, volumes)


def _subjects_of_shards(dataset, folds, segmenter):
    """Yields the cases shard by shard; what a damaged shard still owes, it owes as failures."""
    rows = {case.case_id: case for case in dataset.cases}
    for path in dataset.shard_paths(folds):
        owed = {case_id: row for case_id, row in rows.items() if row.shard == path.name}
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                stored = example.decode(record, dataset.recipe.image_dtype)
                row = owed.pop(stored.case_id, None)
                if row is None:
                    continue  # a record of another shard: this one's own stay owed
                yield Subject(row.case_id, row.patient_id, row.grade,
                              lambda stored=stored: _examine_record(stored, segmenter))
        except tf.errors.DataLossError:
            pass
        for row in owed.values():
            yield Subject(row.case_id, row.patient_id, row.grade,
                          lambda row=row, path=path: _raise_lost(row, path))


def _raise_lost(row, path):
    raise CaseError(f"{row.case_id}: its record cannot be read from {path}; the shard is damaged, "
                    "copy or convert it again")


def _examine_record(stored, segmenter):
    volumes = {}
    for name in SHOWN:
        window = stored.image[..., stored.modalities.index(name)].astype(np.float32)
        # The window's first corner lies outside the head: what zero became when it was normalised.
        shifted = np.maximum(window - window[0, 0, 0], 0)
        whole = segmenter.recipe.to_grid(shifted, stored.crop_origin, stored.grid_shape)
        volumes[name] = resample.volumes_to(stored.geometry.lps_shape, whole[..., None])[..., 0]
    return Examined(segmenter.segment_stored(stored), stored.native_classes(), volumes)
