"""The cases of an evaluation, from a dataset or from files, behind one face."""

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from brats_tfrecord import files, spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess import crop, masks, preprocessed, resample
from brats_tfrecord.records import example, manifest, manifest_check, places, tfrecord
from brats_tfrecord.serving.predict import Segmentation, Segmenter

SHOWN = ("flair", "t1ce")
"""Modalities worth looking at, in order of preference."""


@dataclass(frozen=True)
class Examined:
    """A segmented case with what it is judged by.

    Attributes:
        segmentation: `serving.predict.Segmentation`.
        truth: uint8 [X, Y, Z] canonical classes of the whole LPS grid, or None.
        volumes: modality -> float32 [X, Y, Z], zero outside the brain, for pictures.
        crop: shares that the recipe's window cuts off, as in `tables.CaseResult`.
        stages: stage -> seconds, reading first.
    """

    segmentation: Segmentation
    truth: np.ndarray | None
    volumes: dict[str, np.ndarray]
    crop: dict[str, float | None]
    stages: dict[str, float]


@dataclass(frozen=True)
class Subject:
    """A case that waits for its turn.

    Attributes:
        case_id, patient_id, grade: as in the cohort.
        labelled: whether there is a truth to compare with.
        key: called, it gives a text that is another one if the case's input is; or raises OSError.
        examine: called with a `Segmenter`, it reads and segments the case, `Examined`; or raises
            `CaseError`.
    """

    case_id: str
    patient_id: str
    grade: str | None
    labelled: bool
    key: Callable[[], str]
    examine: Callable[[Segmenter], Examined]


@dataclass(frozen=True)
class Source:
    """Where the cases of an evaluation come from.

    Attributes:
        cases: list of `Subject`.
        identity: flag -> JSON value of what they share and what shapes their figures; the
            contents of a case's own files are in its key.
        notes: what is unusual beside the cases, a line each.
    """

    cases: list[Subject]
    identity: dict
    notes: tuple[str, ...] = ()


def from_files(options, card):
    """The cohort of `EvaluateOptions`, for the model of a `ModelCard`; a `Source`.

    Raises:
        InputError: no cohort there, or masks of other classes than the model's.
    """
    cohort = layouts.find_cohort(options.input_dir, options.layout, options.label_scheme)
    for case in cohort.cases:
        if case.mask is not None:
            _require_same_classes(
                f"--input_dir={options.input_dir}",
                spec.LABEL_SCHEMES[case.label_scheme],
                card.scheme,
            )
    how_to_read = {
        "any_spacing": card.recipe.any_spacing,
        "bare_mask_affine": options.bare_mask_affine,
    }

    def subject(case):
        names = list(
            dict.fromkeys([*card.modalities, *(name for name in SHOWN if name in case.images)])
        )
        return Subject(
            case.case_id,
            case.patient_id,
            case.grade,
            case.mask is not None,
            lambda: _files_key(case, names),
            lambda segmenter: _examine_files(case, names, segmenter, how_to_read),
        )

    return Source(
        [subject(case) for case in cohort.cases],
        {"--bare_mask_affine": options.bare_mask_affine},
        cohort.notes,
    )


def from_dataset(root, fold, card):
    """A fold of the dataset in `root`, for the model of a `ModelCard`; a `Source`.

    Its fingerprint stands for the bytes of all its shards.

    Args:
        root: the dataset's folder.
        fold: a number as text, "all" (of the labelled) or "unlabelled".
        card: the model's; its recipe must be the dataset's.

    Raises:
        InputError: no dataset, no case in that fold, another recipe, or masks of other classes
            than the model's.
    """
    dataset = manifest.load(root)
    manifest_check.require_sound(root)
    if fold != "unlabelled":
        _require_same_classes(f"--data_dir={root}", dataset.label_scheme, card.scheme)
    if dataset.recipe != card.recipe:
        ours, theirs = card.recipe.to_json(), dataset.recipe.to_json()
        differences = ", ".join(
            f"{name} is {theirs[name]}, the model's is {ours[name]}"
            for name in ours
            if ours[name] != theirs[name]
        )
        raise InputError(
            f"--data_dir={root}: was converted by another recipe than the model's: "
            f"{differences}; evaluate with --input_dir instead"
        )
    folds = {"all": range(dataset.folds), "unlabelled": [None]}.get(fold) or [int(fold)]
    found = [_subject_of_record(dataset, row, place) for row, place in _records(dataset, folds)]
    if not found:
        there = sorted({str(case.fold) for case in dataset.cases if case.fold is not None})
        raise InputError(
            f"--fold={fold}: no case of {root} is in it; expected one of "
            f"{', '.join(there)}, all or unlabelled"
        )
    return Source(found, {"--data_dir": dataset.fingerprint, "--fold": fold})


def _require_same_classes(source, theirs, ours):
    """Refuses masks that know other classes than the model; other values of them are the same."""
    if theirs.class_names != ours.class_names:
        raise InputError(
            f"{source}: its masks follow {theirs.name} ({', '.join(theirs.class_names[1:])}), the "
            f"model {ours.name} ({', '.join(ours.class_names[1:])}); expected the same classes: "
            "evaluate on a cohort that has them, or train on this one"
        )


def _files_key(case, names):
    """Digest of the contents of the files that a case is read from, and of how."""
    paths = {name: case.images[name] for name in names if name in case.images}
    if case.mask is not None:
        paths["seg"] = case.mask
    digests = {path: files.sha256(path) for path in set(paths.values())}
    inputs = {name: digests[path] for name, path in paths.items()}
    return hashlib.sha256(
        json.dumps(
            [inputs, dict(case.channels), case.label_scheme, case.patient_id, case.grade],
            sort_keys=True,
        ).encode()
    ).hexdigest()


def _examine_files(case, names, segmenter, how_to_read):
    began = time.perf_counter()
    raw = nifti.read_case(case, names, **how_to_read)
    truth = None
    if raw.mask is not None:
        truth = masks.to_classes(raw.mask, spec.LABEL_SCHEMES[raw.label_scheme], case.mask)
    reading = time.perf_counter() - began
    segmentation = segmenter.segment_raw(raw, reading=reading)
    volumes = {name: raw.volumes[..., channel] for channel, name in enumerate(names)}
    return Examined(
        segmentation,
        truth,
        volumes,
        _crop_of_files(raw, truth, segmenter),
        dict(segmentation.seconds),
    )


def _crop_of_files(raw, truth, segmenter):
    """What the window cuts off, counted on the recipe's grid as `preprocess.preprocessed` does."""
    recipe, shape = segmenter.recipe, segmenter.recipe.grid_shape(raw)
    volumes = resample.volumes_to(shape, raw.volumes)
    origin = recipe.window(volumes, raw.modalities)
    inside = crop.overlap(shape, origin, recipe.crop_shape)[1]
    brain, brain_lost = preprocessed.brain_voxels(volumes, inside)
    tumour = tumour_lost = 0
    if truth is not None:
        classes = resample.classes_to(shape, truth)
        tumour = np.count_nonzero(classes)
        tumour_lost = tumour - np.count_nonzero(classes[inside])
    return _shares(brain, brain_lost, tumour, tumour_lost)


def _shares(brain, brain_lost, tumour, tumour_lost):
    return {
        "brain": brain_lost / brain if brain else 0.0,
        "tumour": tumour_lost / tumour if tumour else None,
    }


def _records(dataset, folds):
    """Yields (row, (path, (begin, end) of its payload)) of every case of `folds`.

    Of a shard whose lengths are damaged, what follows the damage cannot be found: None stands for
    its place.
    """
    rows_of = {}
    for row in dataset.cases:
        rows_of.setdefault(row.shard, []).append(row)
    for path in dataset.shard_paths(folds):
        rows, spans = rows_of[path.name], []
        with contextlib.suppress(OSError, ValueError), open(path, "rb", buffering=0) as stream:
            for span in places.payloads(stream):
                spans.append(span)
        for row, span in itertools.zip_longest(rows, spans[: len(rows)]):
            yield row, (path, span)


def _subject_of_record(dataset, row, place):
    crop_shares = _shares(
        row.brain_voxels, row.brain_voxels_lost, sum(row.class_voxels[1:]), row.tumour_voxels_lost
    )
    return Subject(
        row.case_id,
        row.patient_id,
        row.grade,
        row.labelled,
        lambda: row.key,
        lambda segmenter: _examine_record(
            row.case_id, place, dataset.recipe, crop_shares, segmenter
        ),
    )


def _read_record(case_id, place, image_dtype):
    """The `StoredCase` at a place, proved by its checksum and by its name."""
    path, span = place
    try:
        if span is None:
            raise ValueError("a record before it is damaged")
        with open(path, "rb") as stream:
            stream.seek(span[0])
            data = stream.read(span[1] - span[0] + tfrecord.FOOTER_BYTES)
        if not tfrecord.fits_checksum(data):
            raise ValueError("its data do not fit their checksum")
        stored = example.decode(data[: -tfrecord.FOOTER_BYTES], image_dtype)
        if stored.case_id != case_id:
            raise ValueError(f"case {stored.case_id} lies in its place")
    except (OSError, ValueError) as error:
        raise CaseError(
            f"{case_id}: its record cannot be read from {path} "
            f"({getattr(error, 'strerror', None) or error}); the shard is damaged, "
            "copy or convert it again"
        ) from error
    return stored


def _examine_record(case_id, place, recipe, crop_shares, segmenter):
    began = time.perf_counter()
    stored = _read_record(case_id, place, recipe.image_dtype)
    truth = stored.native_classes()
    reading = time.perf_counter() - began
    volumes = {}
    for name in SHOWN:
        window = stored.image[..., stored.modalities.index(name)].astype(np.float32)
        # The window's first corner lies outside the head: what zero became when it was normalised.
        shifted = np.maximum(window - window[0, 0, 0], 0)
        whole = recipe.to_grid(shifted, stored.crop_origin, stored.grid_shape)
        volumes[name] = resample.volumes_to(stored.geometry.lps_shape, whole[..., None])[..., 0]
    segmentation = segmenter.segment_stored(stored)
    return Examined(
        segmentation, truth, volumes, crop_shares, {"reading": reading, **segmentation.seconds}
    )
