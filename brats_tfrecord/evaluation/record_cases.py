"""Cases to evaluate that are read from the records of a dataset."""

import time
from collections.abc import Collection
from pathlib import Path

import numpy as np

from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.evaluation.evaluation_cases import (
    PICTURE_MODALITIES,
    CaseSource,
    EvaluationCase,
    SegmentedCase,
    crop_shares,
    require_same_classes,
)
from brats_tfrecord.preprocess import resample
from brats_tfrecord.records import example, manifest, tfrecord, verify_manifest
from brats_tfrecord.serving.card import ModelCard


def from_dataset(
    root: Path | str, fold: str, card: ModelCard, dropped: Collection[str] = ()
) -> CaseSource:
    """Returns the cases of one fold of a dataset.

    The dataset's fingerprint is its identity: it covers the bytes of all shards.

    Args:
        root: folder of the dataset.
        fold: a number, "all" (all labelled cases) or "unlabelled".
        card: card of the model to evaluate; its recipe must be the dataset's.
        dropped: names of modalities that are taken away from every case.

    Raises:
        InputError: no dataset in the folder, no case in the fold, another recipe, or masks with
            other classes than the model's.
    """
    dataset = manifest.load(root)
    verify_manifest.require_sound(root)
    if fold != "unlabelled":
        require_same_classes(f"--data_dir={root}", dataset.label_scheme, card.scheme)
    if dataset.recipe != card.recipe:
        ours, theirs = card.recipe.settings(), dataset.recipe.settings()
        differences = ", ".join(
            f"{name} is {theirs[name]}, the model's is {ours[name]}"
            for name in ours
            if ours[name] != theirs[name]
        )
        raise InputError(
            f"--data_dir={root}: was converted with another recipe than the model's: "
            f"{differences}; evaluate with --input_dir instead"
        )
    folds = {"all": range(dataset.folds), "unlabelled": [None]}.get(fold) or [int(fold)]
    cases = [_record_case(dataset, case, dropped) for case in dataset.cases if case.fold in folds]
    if not cases:
        available = sorted({str(case.fold) for case in dataset.cases if case.fold is not None})
        raise InputError(
            f"--fold={fold}: has no case in {root}; expected one of "
            f"{', '.join(available)}, all or unlabelled"
        )
    return CaseSource(cases, {"--data_dir": dataset.fingerprint, "--fold": fold})


def _record_case(dataset, case, dropped):
    crop = crop_shares(
        case.brain_voxels,
        case.brain_voxels_lost,
        sum(case.class_voxels[1:]),
        case.tumour_voxels_lost,
    )

    def segment(segmenter):
        started = time.perf_counter()
        stored = _read_record(dataset, case)
        truth = stored.native_classes()
        reading = time.perf_counter() - started
        present = [name for name in stored.modalities if name not in stored.missing]
        shown = [name for name in PICTURE_MODALITIES if name in present] or present[:1]
        volumes = {name: _volume(stored, name, dataset.recipe) for name in shown}
        segmentation = segmenter.segment_stored(stored.without(dropped) if dropped else stored)
        stages = {"reading": reading, **segmentation.seconds}
        return SegmentedCase(segmentation, truth, volumes, crop, stages, voxels=case.voxels)

    return EvaluationCase(
        case.case_id,
        case.patient_id,
        case.grade,
        case.labelled,
        lambda: case.key,
        lambda: case.voxels,
        segment,
    )


def _volume(stored, name, recipe):
    """One modality of a `StoredCase` on the case's own grid, for pictures."""
    window = stored.image[..., stored.modalities.index(name)].astype(np.float32)
    # The window's first corner is air; normalisation has mapped its zeros to this value.
    shifted = np.maximum(window - window[0, 0, 0], 0)
    whole = recipe.to_grid(shifted, stored.crop_origin, stored.grid_shape)
    return resample.volumes_to(stored.geometry.lps_shape, whole[..., None])[..., 0]


def _read_record(dataset, case):
    """Reads the `StoredCase` of a case in the manifest; checks its checksum and its case id.

    Raises:
        CaseError: the record is damaged.
    """
    path = dataset.root / case.shard
    try:
        payload = tfrecord.read_payload(path, case.record_offset, case.record_bytes)
        stored = example.decode(payload, dataset.recipe.image_dtype)
        if stored.case_id != case.case_id:
            raise ValueError(f"the record is of case {stored.case_id}")
    except (OSError, ValueError) as error:
        raise CaseError(
            f"{case.case_id}: its record cannot be read from {path} "
            f"({getattr(error, 'strerror', None) or error}); the shard is damaged: "
            "copy or convert it again"
        ) from error
    return stored
