"""Chooses the thresholds of the post-processing on the validation cases of a model."""

import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from brats_tfrecord import spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.records import example, tfrecord
from brats_tfrecord.records.manifest import Manifest
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.record_segmenter import RecordSegmenter
from brats_tfrecord.serving.validation_case import ValidationCase
from brats_tfrecord.wording import plural

ENHANCING_VOXELS = (50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000)
COMPONENT_MM3 = (20, 50, 100, 200, 500, 1000, 2000)
MIN_GAIN = 0.002
"""Smallest gain in mean Dice for which a correction is kept; less is noise with few cases."""

MAX_ENHANCING_VOXELS = 1000
"""Largest threshold of the enhancing tumour (1 mL) unless `MIN_CASES` support a larger one.

The bound is that of the public code of the winner of BraTS 2020 (MIC-DKFZ/nnUNet v1,
dataset_conversion/Task082_BraTS_2020.py; Isensee et al. 2020, arXiv:2011.00848): it tries
thresholds up to 750 voxels of 1 mm³, and uses 750 in place of one above 1000."""
MIN_CASES, MIN_CASES_WITHOUT_ENHANCING = 20, 3
"""Cases, and cases without enhancing tumour among them, that support a larger threshold."""

_TOLERANCE = 1e-9
"""Differences of a mean Dice below this are rounding."""


@dataclass(frozen=True)
class CorrectionTrial:
    """One correction that was tried.

    Attributes:
        correction: what it does, with the threshold chosen on all cases; "" if none helps there.
        kept: whether it is part of the post-processing.
        held_out_gain: gain in mean Dice over all cases, each post-processed with the thresholds
            that were chosen without its patient; compared with the corrections kept before.
        held_out_gain_with_enhancing: the same over the cases whose truth holds enhancing tumour;
            None without such cases.
    """

    correction: str
    kept: bool
    held_out_gain: float
    held_out_gain_with_enhancing: float | None


@dataclass(frozen=True)
class TuningResult:
    """The chosen post-processing and its estimated effect on new patients.

    Attributes:
        post_processing: the thresholds, chosen on all cases.
        cases, patients: number of validation cases, and of their patients.
        cases_with_enhancing: number of cases whose truth holds enhancing tumour.
        dice_before: region -> mean Dice without post-processing.
        dice_held_out: region -> mean Dice with the kept corrections, each case post-processed with
            the thresholds that were chosen without its patient.
        held_out_gain: mean of `dice_held_out` minus mean of `dice_before`.
        held_out_gain_with_enhancing: the same over the cases with enhancing tumour; None without
            such cases.
        trials: the corrections that were tried, in this order.
    """

    post_processing: PostProcessing
    cases: int = 0
    patients: int = 0
    cases_with_enhancing: int = 0
    dice_before: dict[str, float] = dataclasses.field(default_factory=dict)
    dice_held_out: dict[str, float] = dataclasses.field(default_factory=dict)
    held_out_gain: float = 0.0
    held_out_gain_with_enhancing: float | None = None
    trials: tuple[CorrectionTrial, ...] = ()

    def text(self) -> str:
        """Describes the choice in one line, and what each correction contributes in another.

        A correction that alone was kept is described by the first line.
        """
        lines = [f"{self.post_processing.text()}; {gain_text(self.to_json())}"]
        several = sum(trial.kept for trial in self.trials) > 1
        lines += [
            f"  {'kept' if trial.kept else 'dropped'}: {trial.correction}; held-out mean Dice "
            + _gains(trial.held_out_gain, trial.held_out_gain_with_enhancing)
            for trial in self.trials
            if trial.correction and (several or not trial.kept)
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Returns the result as a dict of JSON types, for the model card."""
        return {
            **dataclasses.asdict(self),
            "post_processing": self.post_processing.to_json(),
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }


def gain_text(stored: Mapping[str, Any] | None) -> str | None:
    """Describes the evidence for a model's post-processing in one line.

    Args:
        stored: `TuningResult.to_json`, from the model card; None if nothing was tuned.

    Returns:
        The line; None if nothing was tuned. Older versions stored no held-out gain, and the line
        says so.
    """
    if stored is None:
        return None
    cases = plural(stored["cases"], "validation case")
    if "held_out_gain" not in stored:
        return (
            f"unknown: an older version chose and scored the thresholds on the same {cases}; "
            "export the model again"
        )
    if stored["patients"] < 2:
        return f"nothing was chosen: {cases} of {plural(stored['patients'], 'patient')}, needs two"
    gains = _gains(stored["held_out_gain"], stored["held_out_gain_with_enhancing"])
    return f"held-out mean Dice {gains}; {cases} of {plural(stored['patients'], 'patient')}"


def _gains(over_all, with_enhancing):
    apart = "no case with ET" if with_enhancing is None else f"{with_enhancing:+.4f} with ET"
    return f"{over_all:+.4f} ({apart})"


def segment_validation_cases(
    segmenter: RecordSegmenter,
    dataset: Manifest,
    folds: Collection[int | None],
    ends: float | None = None,
) -> list[ValidationCase]:
    """Segments the cases of some folds.

    Args:
        segmenter: segmenter of the model, whose post-processing must be off.
        dataset: dataset with the model's recipe.
        folds: numbers of the folds.
        ends: `time.monotonic()` after which no case is begun that would not be finished; None
            segments all.

    Returns:
        One `ValidationCase` for each case, or for the first ones.

    Raises:
        InputError: a shard is damaged.
    """
    cases: list[ValidationCase] = []
    began = time.monotonic()
    for payload in tqdm(
        _payloads(dataset, folds),
        total=len(dataset.case_ids(folds)),
        unit="case",
        desc="post-processing",
        dynamic_ncols=True,
        disable=None,
    ):
        now = time.monotonic()
        if ends is not None and now + (now - began) / max(1, len(cases)) > ends:
            break
        stored = example.decode(payload, dataset.recipe.image_dtype)
        truth, segmentation = stored.native_classes(), segmenter.segment_stored(stored)
        assert truth is not None, "only labelled cases are in folds"
        cases.append(
            ValidationCase.from_label_maps(
                stored.patient_id,
                truth,
                segmentation.classes,
                segmentation.geometry.spacing_mm,
                float(np.prod(stored.grid_shape) / truth.size),
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

    The corrections are tuned one after the other: the smallest component of WT, TC and ET, then
    the smallest enhancing tumour. Their thresholds are chosen on all cases. Whether a correction
    is kept is decided by nested leave-one-patient-out (Varma and Simon 2006, BMC Bioinformatics
    7:91): for each patient its threshold is chosen on the others' cases and scored on the
    patient's own. Each correction must earn its place, so that none is kept because another one
    helps:

    * over all cases the held-out mean must gain `MIN_GAIN` by the correction alone;
    * over the cases whose truth holds enhancing tumour, too. Replacing the enhancing tumour can
      raise no Dice there. So this correction may cost these cases less than `MIN_GAIN`, and they
      must gain `MIN_GAIN` by all kept corrections together. Alone it is never kept.

    The threshold of the enhancing tumour is at most `MAX_ENHANCING_VOXELS`, unless `MIN_CASES`
    support more. Of several equally good thresholds the middle one (the smaller of two) is
    chosen, which has most room on both sides. The held-out gain is itself slightly optimistic,
    because it decides which corrections are kept.

    Args:
        cases: the validation cases.

    Returns:
        The result. Its post-processing is off if nothing helps, or with fewer than two patients.
    """
    patients = {case.patient_id for case in cases}
    result = TuningResult(
        PostProcessing(),
        len(cases),
        len(patients),
        sum(case.has_enhancing_tumour for case in cases),
    )
    if len(patients) < 2:
        return result
    choice = _NestedChoice(cases)
    for region in range(len(spec.REGIONS)):
        choice.try_correction(partial(_component_candidates, region), False)
    thresholds = _supported_thresholds(result.cases, result.cases_with_enhancing)
    choice.try_correction(partial(_enhancing_candidates, thresholds), True)
    gain, gain_with = choice.held_out_gains()
    return dataclasses.replace(
        result,
        post_processing=choice.chosen,
        dice_before=_by_region(choice.before),
        dice_held_out=_by_region(choice.held_out),
        held_out_gain=gain,
        held_out_gain_with_enhancing=gain_with,
        trials=tuple(choice.trials),
    )


def _component_candidates(region, start):
    """Returns `start` with each threshold for the components of the region number `region`."""
    candidates = []
    for min_mm3 in COMPONENT_MM3:
        thresholds = list(start.min_component_mm3)
        thresholds[region] = float(min_mm3)
        candidates.append(dataclasses.replace(start, min_component_mm3=tuple(thresholds)))
    return candidates


def _enhancing_candidates(thresholds, start):
    """Returns `start` with each threshold for the enhancing tumour."""
    return [dataclasses.replace(start, min_enhancing_voxels=voxels) for voxels in thresholds]


def _supported_thresholds(cases, cases_with_enhancing):
    """Returns the thresholds for the enhancing tumour that so many cases support."""
    without = cases - cases_with_enhancing
    if cases >= MIN_CASES and without >= MIN_CASES_WITHOUT_ENHANCING:
        return ENHANCING_VOXELS
    return [voxels for voxels in ENHANCING_VOXELS if voxels <= MAX_ENHANCING_VOXELS]


class _NestedChoice:
    """Tunes one correction after the other, on all cases and without each patient.

    Attributes:
        chosen: the kept corrections with the thresholds chosen on all cases.
        before: float64 [cases, R], Dice without post-processing.
        held_out: float64 [cases, R], Dice with the kept corrections, whose thresholds were chosen
            without the case's patient.
        trials: the corrections that were tried.
    """

    def __init__(self, cases):
        patients = np.array([case.patient_id for case in cases])
        self._cases = cases
        self._folds = [patients == patient for patient in sorted(set(patients))]
        self._with_enhancing = np.array([case.has_enhancing_tumour for case in cases])
        self._tables = {}
        self._nested = [PostProcessing()] * len(self._folds)
        self.chosen = PostProcessing()
        self.before = self.held_out = self._held_out(self._nested)
        self.trials = []

    def try_correction(self, candidates_from, is_replacement):
        """Tunes a correction and keeps it if its held-out gain is large enough.

        Args:
            candidates_from: function from a post-processing to a list of it with each threshold.
            is_replacement: whether the correction replaces the whole enhancing tumour.
        """
        everyone = np.ones(len(self._cases), bool)
        chosen = self._best(self.chosen, candidates_from(self.chosen), everyone)
        nested = [
            self._best(start, candidates_from(start), ~fold)
            for start, fold in zip(self._nested, self._folds)
        ]
        held_out = self._held_out(nested)
        gain, gain_with = self._gains(self.held_out, held_out)
        kept = chosen != self.chosen and gain >= MIN_GAIN - _TOLERANCE and gain_with is not None
        if kept and is_replacement:
            _, total_with = self._gains(self.before, held_out)
            kept = gain_with > _TOLERANCE - MIN_GAIN and total_with >= MIN_GAIN - _TOLERANCE
        elif kept:
            kept = gain_with >= MIN_GAIN - _TOLERANCE
        self.trials.append(CorrectionTrial(_added(self.chosen, chosen), kept, gain, gain_with))
        if kept:
            self.chosen, self._nested, self.held_out = chosen, nested, held_out

    def held_out_gains(self):
        """Returns the gain of all kept corrections, over all cases and those with ET (or None)."""
        return self._gains(self.before, self.held_out)

    def _gains(self, before, after):
        gains = (after - before).mean(axis=1)
        with_enhancing = gains[self._with_enhancing]
        return float(gains.mean()), float(with_enhancing.mean()) if len(with_enhancing) else None

    def _held_out(self, nested):
        """Returns float64 [cases, R]: Dice of each fold's cases with the fold's thresholds."""
        dice = np.empty((len(self._cases), len(spec.REGIONS)))
        for post_processing, fold in zip(nested, self._folds):
            dice[fold] = self._table(post_processing)[fold]
        return dice

    def _best(self, start, candidates, rows):
        """Returns the candidate with the best mean over the cases `rows`; else `start`."""
        means = [self._table(candidate)[rows].mean() for candidate in candidates]
        if max(means) < self._table(start)[rows].mean() + MIN_GAIN - _TOLERANCE:
            return start
        equals = [index for index, mean in enumerate(means) if mean >= max(means) - _TOLERANCE]
        return candidates[equals[(len(equals) - 1) // 2]]

    def _table(self, post_processing):
        """Returns float64 [cases, R], the Dice of all cases; computed once."""
        if post_processing not in self._tables:
            self._tables[post_processing] = np.stack(
                [case.dice(post_processing) for case in self._cases]
            )
        return self._tables[post_processing]


def _added(before, after):
    """Describes the threshold that `after` has and `before` does not; "" if there is none."""
    if before == after:
        return ""
    if before.min_enhancing_voxels != after.min_enhancing_voxels:
        return PostProcessing(after.min_enhancing_voxels).text()
    whole, core, enhancing = (
        new if new != old else 0.0
        for old, new in zip(before.min_component_mm3, after.min_component_mm3)
    )
    return PostProcessing(0, (whole, core, enhancing)).text()


def _by_region(dice):
    """Returns region -> mean over the cases of float64 [cases, R]."""
    return dict(zip(spec.REGIONS, dice.mean(axis=0).tolist()))
