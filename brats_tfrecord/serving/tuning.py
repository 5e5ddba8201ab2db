"""Post-processing chosen on the cases that selected a model, and kept only where it helps there."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.errors import InputError
from brats_tfrecord.metrics import overlap
from brats_tfrecord.records import example, tfrecord
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.predict import Segmenter

ENHANCING_VOXELS = (50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000)
COMPONENT_MM3 = (20, 50, 100, 200, 500, 1000, 2000)
MIN_GAIN = 0.001
"""Mean Dice that a correction must bring: less is the noise of a handful of cases."""


@dataclass(frozen=True)
class Compared:
    """A validation case: what is true and what was predicted, uint8 [x, y, z] canonical classes
    of the box that holds both, and the voxel spacing in millimetres."""

    truth: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(cls, truth, prediction, spacing_mm):
        """Keeps of two whole label maps [X, Y, Z] the box that holds a tumour of either."""
        box = bounding_box((truth | prediction) != spec.BACKGROUND)
        return cls(truth[box].copy(), prediction[box].copy(), spacing_mm)


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        post_processing: the choice.
        cases: number of cases it was made on.
        dice_before, dice_after: region -> mean Dice over them, without and with it.
    """

    post_processing: PostProcessing
    cases: int
    dice_before: dict[str, float]
    dice_after: dict[str, float]

    def text(self):
        """The choice in one line."""
        if self.post_processing.is_off:
            return "none helps"
        gains = ", ".join(
            f"{region} {self.dice_before[region]:.3f} to {after:.3f}"
            for region, after in self.dice_after.items()
        )
        return f"{self.post_processing.text()}; Dice {gains}"

    def to_json(self):
        """As a dict of JSON types, for the model card."""
        return {**dataclasses.asdict(self), "post_processing": self.post_processing.to_json()}


def compare(model_dir, dataset, folds):
    """Segments the cases of `folds` with an exported model, whose post-processing must be off.

    Args:
        model_dir: its folder.
        dataset: `records.manifest.Manifest`, of the model's recipe.
        folds: numbers of folds.

    Returns:
        list of `Compared`, one a case.

    Raises:
        InputError: a shard that is damaged, or a model that cannot be used.
    """
    segmenter = Segmenter(model_dir)
    compared = []
    for payload in tqdm(
        _payloads(dataset, folds),
        total=len(dataset.case_ids(folds)),
        unit="case",
        desc="post-processing",
        dynamic_ncols=True,
        disable=None,
    ):
        stored = example.decode(payload, dataset.recipe.image_dtype)
        segmentation = segmenter.segment_stored(stored)
        compared.append(
            Compared.of(
                stored.native_classes(), segmentation.classes, segmentation.geometry.spacing_mm
            )
        )
    return compared


def _payloads(dataset, folds):
    for path in dataset.shard_paths(folds):
        try:
            yield from tfrecord.read_records(path)
        except tfrecord.DamagedRecord as error:
            raise InputError(
                f"{path}: {error}; name what is damaged with convert_to_tfrecord.py "
                f"--verify --output_dir={dataset.root}"
            ) from error


def choose(cases):
    """Chooses `PostProcessing` by the mean Dice of WT, TC and ET (both empty: 1).

    One correction after the other: the least enhancing tumour, then the least component of each
    region. Each is kept if it raises the mean by `MIN_GAIN`; of thresholds that do equally well
    the middle one is taken, which has most room on both sides.

    Args:
        cases: list of `Compared`.

    Returns:
        `Choice`; its post-processing is off where nothing helps or there is no case.
    """
    chosen = PostProcessing()
    if not cases:
        return Choice(chosen, 0, {}, {})
    before = best = _mean_dice(cases, chosen)
    for candidates in _questions():
        tried = [dataclasses.replace(chosen, **change(chosen)) for change in candidates]
        scores = [_mean_dice(cases, one) for one in tried]
        means = [_mean(score) for score in scores]
        if max(means) >= _mean(best) + MIN_GAIN:
            equals = [place for place, mean in enumerate(means) if mean >= max(means) - 1e-9]
            place = equals[len(equals) // 2]
            chosen, best = tried[place], scores[place]
    return Choice(chosen, len(cases), before, best)


def _questions():
    """Of each correction, functions from the choice so far to the fields that one value changes."""
    yield [lambda _, voxels=voxels: {"min_enhancing_voxels": voxels} for voxels in ENHANCING_VOXELS]
    for region in range(len(spec.REGIONS)):
        yield [
            lambda so_far, mm3=mm3, region=region: {
                "min_component_mm3": tuple(
                    float(mm3) if place == region else kept
                    for place, kept in enumerate(so_far.min_component_mm3)
                )
            }
            for mm3 in COMPONENT_MM3
        ]


def _mean(dice):
    return float(np.mean(list(dice.values())))


def _mean_dice(cases, post_processing):
    """Region -> mean Dice over the cases."""
    scores = [_dice(case.truth, _corrected(case, post_processing)) for case in cases]
    return {region: float(np.mean([score[region] for score in scores])) for region in spec.REGIONS}


def _corrected(case, post_processing):
    classes = post_processing.without_faint_enhancement(case.prediction)
    return post_processing.without_small_components(classes, case.spacing_mm)


def _dice(truth, prediction):
    matrix = overlap.confusion(truth, prediction, len(spec.CLASS_NAMES))
    scores = {
        region: overlap.dice(overlap.region_counts(matrix, classes))
        for region, classes in spec.REGIONS.items()
    }
    return {region: 1.0 if dice is None else dice for region, dice in scores.items()}
