"""Runs a SavedModel over a cohort and writes what came of it."""

import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from brats_tfrecord import __version__, files, metrics, spec
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.metrics.threshold import best_threshold_dice
from brats_tfrecord.report import figures, html, subjects, tables
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.predict import Segmenter

BASELINES = (("flair", "WT"), ("t1ce", "ET"))
"""Modality and region that one intensity threshold segments best."""


def evaluate(options):
    """Evaluates in native space and writes the report; prints the headline.

    Args:
        options: `report.options.EvaluateOptions`.

    Returns:
        list of `tables.CaseResult`, one a case.

    Raises:
        InputError: no model, no cohort, or a dataset that does not fit the model; nothing was
            written.
    """
    segmenter = Segmenter(options.model)
    if options.data_dir is not None:
        count, cases = subjects.from_dataset(options.data_dir, options.fold or "0", segmenter)
    else:
        count, cases = subjects.from_files(options, segmenter)
    root = Path(options.output_dir)
    if root.exists() and not root.is_dir():
        raise InputError(f"--output_dir={root}: is a file; expected a folder")
    files.require_writable("--output_dir", root)
    evaluation = _Evaluation(segmenter, options, root)
    for subject in tqdm(cases, total=count, unit="case", desc="evaluating", dynamic_ncols=True):
        evaluation.add(subject)
    evaluation.write()
    return evaluation.rows


class _Evaluation:
    """What gathers while the cases pass by."""

    def __init__(self, segmenter, options, root):
        self.rows = []
        self._segmenter, self._options, self._root = segmenter, options, root
        self._pictures = {}
        self._baselines = {}

    def add(self, subject):
        """Examines one case; one that fails becomes a row that says why."""
        use = self._segmenter.card.use_of(subject.case_id)
        try:
            self._examine(subject, use)
        except CaseError as error:
            self._fail(subject, use, str(error))
        except Exception as error:  # noqa: B902 - one case must not cost the others
            self._fail(subject, use, f"{subject.case_id}: {type(error).__name__}: "
                                     f"{' '.join(str(error).split())[:200]}")

    def _fail(self, subject, use, reason):
        tqdm.write(f"failed: {reason}")
        self.rows.append(tables.CaseResult(subject.case_id, subject.patient_id, subject.grade,
                                           use, "failed", reason))

    def _examine(self, subject, use):
        began = time.perf_counter()
        examined = subject.examine()
        segmentation, truth = examined.segmentation, examined.truth
        spacing = segmentation.geometry.spacing_mm
        scores = None if truth is None else metrics.case_metrics(
            truth, segmentation.classes, spacing)
        if self._options.write_segmentations:
            segmentation.write(self._root / "segmentations" / f"{subject.case_id}.nii.gz")
        if self._options.threshold_baselines and truth is not None:
            self._add_baseline(use, examined)
        row = tables.CaseResult(
            subject.case_id, subject.patient_id, subject.grade, use,
            "unlabelled" if truth is None else "ok", None, scores,
            _volumes_ml(segmentation.classes, self._segmenter.scheme, spacing),
            time.perf_counter() - began)
        if self._options.pictures:
            name = next(name for name in (*subjects.SHOWN, *examined.volumes)
                        if name in examined.volumes)
            self._pictures[subject.case_id] = figures.overlay_figure(
                examined.volumes[name], truth, segmentation.classes, f"{subject.case_id} · {name}")
        self.rows.append(row)

    def write(self):
        """Writes tables and report, prints the headline and where they lie."""
        header, baselines = self._header(), self._baseline_dice()
        tables.write_csv(self._root / "metrics.csv", self.rows)
        tables.write_json(self._root / "metrics.json", self.rows, header)
        html.write_report(self._root / "report.html", header=header, rows=self.rows,
                          pictures=self._chosen_pictures(), baselines=baselines)
        _print_headline(self.rows, baselines)
        print(f"Report: {self._root / 'report.html'}")

    def _header(self):
        card, options = self._segmenter.card, self._options
        source = (f"{options.data_dir}, fold {options.fold or 0}" if options.data_dir
                  else options.input_dir)
        return {
            "evaluated": source,
            "model_sha256": cards.fingerprint(options.model),
            "model_modalities": list(card.modalities),
            "label_scheme": card.label_scheme,
            "recipe": card.recipe.to_json(),
            "trained_on_dataset_sha256": card.dataset_fingerprint,
            "versions": {"brats-tfrecord": __version__, **card.training.get("versions", {})},
        }

    def _chosen_pictures(self):
        """Pictures spread from the worst to the best mean Dice, then of unlabelled cases."""
        scored = sorted((row for row in self.rows if row.status == "ok"), key=_mean_dice)
        others = [row for row in self.rows if row.status == "unlabelled"]
        ranks = np.linspace(0, len(scored) - 1, min(self._options.pictures, len(scored)))
        chosen = [scored[int(rank)] for rank in ranks.round()]
        chosen += others[:self._options.pictures - len(chosen)]
        return [(row.case_id, _caption(row), self._pictures[row.case_id]) for row in chosen]

    def _add_baseline(self, use, examined):
        for name, region in BASELINES:
            if name in examined.volumes:
                images, truths = self._baselines.setdefault((use, name, region), ([], []))
                brain = examined.volumes[name] > 0
                values = examined.volumes[name][brain]
                images.append(((values - values.mean()) / values.std()).astype(np.float16))
                truths.append(np.isin(examined.truth[brain], spec.REGIONS[region]))

    def _baseline_dice(self):
        """Best thresholds over the very cases that the headline counts."""
        use_shown = _headline_use(self.rows)
        return [(f"best single {name} threshold (z-scored images)",
                 {region: best_threshold_dice(*found)[0]})
                for (use, name, region), found in self._baselines.items() if use == use_shown]


def _mean_dice(row):
    return float(np.mean([row.metrics[region]["dice"] for region in spec.REGIONS]))


def _caption(row):
    if row.metrics is None:
        return "unlabelled"
    dice = ", ".join(f"{region} {row.metrics[region]['dice']:.3f}" for region in spec.REGIONS)
    return f"{row.use}; Dice {dice}"


def _volumes_ml(classes, scheme, spacing_mm):
    """Millilitres of each tumour class."""
    counts = np.bincount(classes.ravel(), minlength=scheme.classes)
    millilitres = float(np.prod(spacing_mm)) / 1000
    return {name: int(count) * millilitres
            for name, count in list(zip(scheme.class_names, counts))[1:]}


def _headline_use(rows):
    """The best evidence there is: unseen cases, else those that selected, else that trained."""
    return next((use for use in tables.USES if tables.compared(rows, use)), None)


def _print_headline(rows, baselines):
    """The summary of the best evidence there is, said to be what it is."""
    use = _headline_use(rows)
    if use is None:
        failed = sum(row.status == "failed" for row in rows)
        print("No case has a mask to compare with: segmentations, no metrics."
              if failed < len(rows) else f"All {failed} cases failed: nothing was segmented.")
        return
    summary = tables.summary(rows, use)
    note = "" if use == "unseen" else "  (no case is unseen: not a measure of the model)"
    print(f"{len(tables.compared(rows, use))} {use} cases, {metrics.RULES} rules{note}")
    for region in spec.REGIONS:
        cells = [f"{name} {summary[region][name]['mean']:.3f}" for name in metrics.METRICS
                 if summary[region][name]["mean"] is not None]
        print(f"  {region:3} {'   '.join(cells)}")
    for name, scores in baselines:
        print(f"  {name}: " + ", ".join(f"{region} dice {dice:.3f}"
                                        for region, dice in scores.items()))
