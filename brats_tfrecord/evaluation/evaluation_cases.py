"""Common interface of the cases to evaluate, whether read from a cohort or from a dataset."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.serving.predict import Segmenter
from brats_tfrecord.serving.segmentation import Segmentation

PICTURE_MODALITIES = ("flair", "t1ce")
"""Modalities shown in pictures, in order of preference."""


@dataclass(frozen=True)
class SegmentedCase:
    """A segmented case and the data to compare it with.

    Attributes:
        segmentation: the model's segmentation.
        truth: uint8 [X, Y, Z] canonical classes on the case's whole LPS grid, or None.
        volumes: modality -> float32 [X, Y, Z], zero outside the brain, for pictures; one or more,
            none of them missing. Dropped modalities are here nevertheless.
        crop: shares of the tissue outside the recipe's window, as in `case_results.CaseResult`.
        stages: stage -> seconds, reading first.
        voxels: modality -> digest of its voxels (`cohort.voxel_digest`).
        notes: anomalies of the case's names and files; empty for a record, whose conversion has
            reported them.
    """

    segmentation: Segmentation
    truth: np.ndarray | None
    volumes: dict[str, np.ndarray]
    crop: dict[str, float | None]
    stages: dict[str, float]
    voxels: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationCase:
    """A case to evaluate.

    Attributes:
        case_id, patient_id, grade: as in the cohort.
        labelled: whether the case has a true mask.
        key: function () -> text that changes if the case's input changes; may raise OSError.
        voxels: function () -> modality -> digest of its voxels (`cohort.voxel_digest`), without
            those that cannot be read. Reads the images, if the case lies in NIfTI files.
        segment: function (`Segmenter`) -> `SegmentedCase` that reads and segments the case; may
            raise CaseError.
    """

    case_id: str
    patient_id: str
    grade: str | None
    labelled: bool
    key: Callable[[], str]
    voxels: Callable[[], Mapping[str, str]]
    segment: Callable[[Segmenter], SegmentedCase]


@dataclass(frozen=True)
class CaseSource:
    """The cases of an evaluation.

    Attributes:
        cases: the cases, in order.
        identity: flag -> JSON value of the inputs and settings that affect all cases alike. The
            contents of a case's own files are part of its key instead.
        notes: remarks about the input beside the cases, one line each.
    """

    cases: list[EvaluationCase]
    identity: dict
    notes: tuple[str, ...] = ()


def require_same_classes(flag: str, masks: spec.LabelScheme, model: spec.LabelScheme) -> None:
    """Checks that masks have the classes of the model; their file values may differ.

    Args:
        flag: flag and value that name the masks, for the message.
        masks: label scheme of the masks.
        model: label scheme of the model.

    Raises:
        InputError: the classes differ.
    """
    if masks.class_names != model.class_names:
        raise InputError(
            f"{flag}: the masks follow {masks.name} ({', '.join(masks.class_names[1:])}), the "
            f"model {model.name} ({', '.join(model.class_names[1:])}); expected the same classes: "
            "evaluate on a cohort with the model's classes, or train a model on this one"
        )


def crop_shares(
    brain: int, brain_lost: int, tumour: int, tumour_lost: int
) -> dict[str, float | None]:
    """Converts voxel counts to the `crop` attribute of `case_results.CaseResult`."""
    return {
        "brain": brain_lost / brain if brain else 0.0,
        "tumour": tumour_lost / tumour if tumour else None,
    }
