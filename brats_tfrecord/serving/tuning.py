"""Chooses the thresholds of the post-processing on the validation cases of a model."""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.errors import InputError
from brats_tfrecord.metrics import overlap
from brats_tfrecord.records import example, tfrecord
from brats_tfrecord.records.manifest import Manifest
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.record_segmenter import RecordSegmenter

ENHANCING_VOXELS = (50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000)
COMPONENT_MM3 = (20, 50, 100, 200, 500, 1000, 2000)
MIN_GAIN = 0.001
"""Smallest gain in mean Dice for which a correction is kept; less is noise with few cases."""


@dataclass(frozen=True)
class ValidationCase:
    """True and predicted labels of a validation case, cropped to the box of both tumours.

    Attributes:
        truth: uint8 [x, y, z] canonical classes.
        prediction: uint8 [x, y, z] canonical classes, without post-processing.
        spacing_mm: (x, y, z) voxel spacing in millimetres.
    """

    truth: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, float, float]

    @classmethod
    def from_label_maps(
        cls, truth: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, float, float]
    ) -> "ValidationCase":
        """Crops two label maps of the whole grid, uint8 [X, Y, Z]."""
        box = bounding_box((truth | prediction) != spec.BACKGROUND)
        return cls(truth[box].copy(), prediction[box].copy(), spacing_mm)


@dataclass(frozen=True)
class TuningResult:
    """The chosen post-processing and its effect on the validation cases.

    Attributes:
        post_processing: the chosen thresholds.
        cases: number of validation cases.
        dice_before: region -> mean Dice without post-processing.
        dice_after: region -> mean Dice with the chosen post-processing.
    """

    post_processing: PostProcessing
    cases: int
    dice_before: dict[str, float]
    dice_after: dict[str, float]

    def text(self) -> str:
        """Describes the choice and its gains in one line."""
        if self.post_processing.is_off:
            return "none helps"
        gains = ", ".join(
            f"{region} {self.dice_before[region]:.3f} to {after:.3f}"
            for region, after in self.dice_after.items()
        )
        return f"{self.post_processing.text()}; Dice {gains}"

    def to_json(self) -> dict[str, Any]:
        """Returns the result as a dict of JSON types, for the model card."""
        return {**dataclasses.asdict(self), "post_processing": self.post_processing.to_json()}


def segment_validation_cases(
    segmenter: RecordSegmenter, dataset: Manifest, folds: Collection[int | None]
) -> list[ValidationCase]:
    """Segments the cases of some folds.

    Args:
        segmenter: segmenter of the model, whose post-processing must be off.
        dataset: dataset with the model's recipe.
        folds: numbers of the folds.

    Returns:
        One `ValidationCase` for each case.

    Raises:
        InputError: a shard is damaged.
    """
    cases = []
    for payload in tqdm(
        _payloads(dataset, folds),
        total=len(dataset.case_ids(folds)),
        unit="case",
        desc="post-processing",
        dynamic_ncols=True,
        disable=None,
    ):
        stored = example.decode(payload, dataset.recipe.image_dtype)
        truth, segmentation = stored.native_classes(), segmenter.segment_stored(stored)
        assert truth is not None, "only labelled cases are in folds"
        cases.append(
            ValidationCase.from_label_maps(
                truth, segmentation.classes, segmentation.geometry.spacing_mm
            )
        )
    return cases


def _payloads(dataset, folds):
    for path in dataset.shard_paths(folds):
        try:
            yield from tfrecord.read_records(path)
        except tfrecord.DamagedRecord as error:
            raise InputError(
                f"{path}: {error}; list all damaged records with convert_to_tfrecord.py "
                f"--verify --output_dir={dataset.root}"
            ) from error


def choose_post_processing(cases: Sequence[ValidationCase]) -> TuningResult:
    """Chooses the thresholds that maximise the mean Dice of WT, TC and ET (both empty: 1).

    The corrections are tuned one after the other: the smallest enhancing tumour, then the smallest
    component of each region. A correction is kept if it raises the mean by `MIN_GAIN`. Of several
    equally good thresholds the middle one is chosen, which has most room on both sides.

    Args:
        cases: the validation cases.

    Returns:
        The result; its post-processing is off if nothing helps or there are no cases.
    """
    chosen = PostProcessing()
    if not cases:
        return TuningResult(chosen, 0, {}, {})
    before = dice = _mean_dice(cases, chosen)
    candidates = [
        dataclasses.replace(chosen, min_enhancing_voxels=voxels) for voxels in ENHANCING_VOXELS
    ]
    chosen, dice = _improve(cases, chosen, dice, candidates)
    for index in range(len(spec.REGIONS)):
        candidates = [_with_min_component(chosen, index, min_mm3) for min_mm3 in COMPONENT_MM3]
        chosen, dice = _improve(cases, chosen, dice, candidates)
    return TuningResult(chosen, len(cases), before, dice)


def _with_min_component(post_processing, index, min_mm3):
    """Returns `post_processing` with another threshold for the region number `index`."""
    thresholds = list(post_processing.min_component_mm3)
    thresholds[index] = float(min_mm3)
    return dataclasses.replace(post_processing, min_component_mm3=tuple(thresholds))


def _improve(cases, chosen, dice, candidates):
    """Returns the best candidate and its Dice, or `chosen` and `dice` if the gain is too small."""
    scores = [_mean_dice(cases, candidate) for candidate in candidates]
    means = [_mean(score) for score in scores]
    if max(means) < _mean(dice) + MIN_GAIN:
        return chosen, dice
    equals = [index for index, mean in enumerate(means) if mean >= max(means) - 1e-9]
    index = equals[len(equals) // 2]
    return candidates[index], scores[index]


def _mean(dice):
    return float(np.mean(list(dice.values())))


def _mean_dice(cases, post_processing):
    """Computes region -> mean Dice over the cases."""
    scores = [_dice(case.truth, _post_processed(case, post_processing)) for case in cases]
    return {region: float(np.mean([score[region] for score in scores])) for region in spec.REGIONS}


def _post_processed(case, post_processing):
    classes = post_processing.without_small_enhancing_tumour(case.prediction)
    return post_processing.without_small_components(classes, case.spacing_mm)


def _dice(truth, prediction):
    matrix = overlap.confusion(truth, prediction, len(spec.CLASS_NAMES))
    scores = {
        region: overlap.dice(overlap.region_counts(matrix, classes))
        for region, classes in spec.REGIONS.items()
    }
    return {region: 1.0 if dice is None else dice for region, dice in scores.items()}
