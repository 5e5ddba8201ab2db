"""Cases to evaluate that are read from the NIfTI files of a cohort."""

import contextlib
import hashlib
import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from brats_tfrecord import files, spec
from brats_tfrecord.cohort import layouts, nifti, voxel_digest
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import CaseError
from brats_tfrecord.evaluation.evaluation_cases import (
    PICTURE_MODALITIES,
    CaseSource,
    EvaluationCase,
    SegmentedCase,
    crop_shares,
    require_same_classes,
)
from brats_tfrecord.preprocess import crop, masks, preprocessed, resample
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.card import ModelCard


def from_files(
    input_dir: Path | str,
    card: ModelCard,
    layout: str = "auto",
    label_scheme: str = "auto",
    bare_mask_affine: str = "refuse",
    dropped: Collection[str] = (),
) -> CaseSource:
    """Returns the cases of a cohort of NIfTI files.

    Args:
        input_dir: folder of the cohort.
        card: card of the model to evaluate.
        layout, label_scheme, bare_mask_affine: as the flags of `tools/evaluate.py`.
        dropped: names of modalities that are taken away from every case.

    Raises:
        InputError: no cohort in the folder, or masks with other classes than the model's.
    """
    cohort = layouts.find_cohort(input_dir, layout, label_scheme)
    for case in cohort.cases:
        if case.mask is not None:
            require_same_classes(
                f"--input_dir={input_dir}", spec.LABEL_SCHEMES[case.label_scheme], card.scheme
            )
    settings = {
        "any_spacing": card.recipe.any_spacing,
        "bare_mask_affine": bare_mask_affine,
        "allow_missing": True,
    }
    return CaseSource(
        [_file_case(case, card.modalities, settings, dropped) for case in cohort.cases],
        {"--bare_mask_affine": bare_mask_affine},
        cohort.notes,
    )


def crop_of_case(
    raw: nifti.RawCase, truth: np.ndarray | None, recipe: Recipe
) -> dict[str, float | None]:
    """Computes the shares of brain and tumour outside the recipe's window, on the recipe's grid.

    Args:
        raw: the case as read from its files.
        truth: uint8 [X, Y, Z] canonical classes on the case's own grid, or None.
        recipe: recipe of the model.

    Returns:
        `crop` of `case_results.CaseResult`; equal to the shares in a dataset of the same recipe.
    """
    shape = recipe.grid_shape(raw)
    volumes = resample.volumes_to(shape, raw.volumes)
    origin = recipe.window(volumes, raw.modalities)
    inside = crop.overlap(shape, origin, recipe.crop_shape)[1]
    brain, brain_lost = preprocessed.brain_voxels(volumes, inside)
    tumour = tumour_lost = 0
    if truth is not None:
        classes = resample.classes_to(shape, truth)
        tumour = np.count_nonzero(classes)
        tumour_lost = tumour - np.count_nonzero(classes[inside])
    return crop_shares(brain, brain_lost, tumour, tumour_lost)


def _file_case(case, modalities, settings, dropped):
    shown = [name for name in PICTURE_MODALITIES if name in case.images]
    names = list(dict.fromkeys([*modalities, *shown]))
    return EvaluationCase(
        case.case_id,
        case.patient_id,
        case.grade,
        case.mask is not None,
        lambda: _key(case, names),
        lambda: _voxels(case, names, settings),
        lambda segmenter: _segment(case, names, segmenter, settings, dropped),
    )


def _key(case: Case, names: Sequence[str]) -> str:
    """Digest of the contents of the files read for a case, and of how they are interpreted."""
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


def _voxels(case, names, settings):
    """Modality -> digest of its voxels, without the images that cannot be read."""
    with contextlib.suppress(CaseError, MemoryError):
        raw = nifti.read_case(case, names, with_mask=False, **settings)
        return voxel_digest.digests_of(names, raw.volumes)
    digests: dict[str, str] = {}
    for name in names:
        with contextlib.suppress(CaseError, MemoryError):
            volume, _ = nifti.read_volume(case.image(name), case.channels.get(name))
            digests |= voxel_digest.digests_of([name], volume[..., None])
    return digests


def _segment(case, names, segmenter, settings, dropped):
    segmenter.require_usable(case.case_id, (*case.missing, *dropped))
    started = time.perf_counter()
    raw = nifti.read_case(case, names, **settings)
    truth = None
    if raw.mask is not None:
        truth = masks.to_classes(raw.mask, spec.LABEL_SCHEMES[raw.label_scheme], case.mask)
    voxels = voxel_digest.digests_of(names, raw.volumes)
    reading = time.perf_counter() - started
    volumes = {
        name: raw.volumes[..., channel]
        for channel, name in enumerate(names)
        if name not in raw.missing
    }
    if dropped:
        raw = raw.without(dropped)
    segmentation = segmenter.segment_raw(raw, reading=reading)
    return SegmentedCase(
        segmentation,
        truth,
        volumes,
        crop_of_case(raw, truth, segmenter.recipe),
        dict(segmentation.seconds),
        voxels=voxels,
        notes=(*case.notes, *raw.notes),
    )
