"""Writes all files of a report and prints its headline."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from brats_tfrecord import metrics, spec
from brats_tfrecord.evaluation import case_results, tallies
from brats_tfrecord.evaluation.case_results import CaseResult
from brats_tfrecord.evaluation.compare import Comparison
from brats_tfrecord.evaluation.evaluate import Evaluation
from brats_tfrecord.evaluation.intervals import FEW_PATIENTS, FEW_PATIENTS_NOTE
from brats_tfrecord.report import gallery, html, tables
from brats_tfrecord.serving.recognition import BY_PATIENT, BY_SCAN
from brats_tfrecord.wording import plural


def publish(evaluation: Evaluation) -> None:
    """Writes metrics.csv, metrics.json and report.html to the output folder; prints the headline.

    Args:
        evaluation: the finished evaluation.
    """
    root, rows = Path(evaluation.options.output_dir), evaluation.rows
    rule_set, comparison = evaluation.rule_set, evaluation.comparison
    tables.write_csv(root / "metrics.csv", rows, rule_set)
    tables.write_json(
        root / "metrics.json", rows, rule_set, evaluation.header, comparison, evaluation.identity
    )
    html.write_report(
        root / "report.html",
        header=evaluation.header,
        rows=rows,
        rule_set=rule_set,
        pictures=gallery.pictures(rows, evaluation.pictures, evaluation.options.pictures),
        baselines=evaluation.baselines,
        comparison=comparison,
    )
    lines = headline_lines(rows, rule_set, evaluation.baselines)
    caveat = evaluation.header.get("recognition_caveat")
    lines += [f"note: {caveat}"] if caveat else []
    if evaluation.options.compare is not None:
        lines += comparison_lines(comparison, evaluation.options.compare)
    print(*lines, f"Report: {root / 'report.html'}", sep="\n")


_METRICS = ("dice", "hd95")


def headline_lines(
    rows: Sequence[CaseResult],
    rule_set: metrics.RuleSet,
    baselines: Sequence[tuple[str, Mapping[str, float]]] = (),
) -> list[str]:
    """Returns the headline as lines of text.

    Args:
        rows: results of the evaluation.
        rule_set: the rule set of their metrics.
        baselines: (name, region -> mean Dice) of simpler methods over the same cases.
    """
    use = case_results.headline_use(rows)
    text = [*_recognised(rows), *_excluded(rows, use)]
    if use is None:
        return text
    selected = case_results.compared(rows, use)
    note = "" if use == "unseen" else "  (no case is unseen: not a measure of the model)"
    patients = len({row.patient_id for row in selected})
    interval = f" [95 % confidence interval over {patients} patients]" if patients > 1 else ""
    text += [
        f"{plural(len(selected), f'{use} case')}, {rule_set.name} rules{note}",
        f"  mean{interval}",
    ]
    summary = case_results.summary(rows, rule_set, use)
    for region in spec.REGIONS:
        cells = [
            f"{metrics.METRIC_TITLES[name]} {_with_interval(summary[region][name], name)}"
            for name in _METRICS
        ]
        text.append(f"  {region:3} {'   '.join(cells)}")
    text += _few_patients(summary)
    text += [
        f"  {'without ' + ', '.join(group.missing) if group.missing else 'complete'} "
        f"({plural(group.cases, 'case')}): "
        + ", ".join(
            f"{region} Dice {'undefined' if dice is None else f'{dice:.3f}'}"
            for region, dice in group.dice.items()
        )
        for group in tallies.dice_by_missing(selected)
    ]
    return text + [
        f"  {name}: " + ", ".join(f"{region} Dice {dice:.3f}" for region, dice in scores.items())
        for name, scores in baselines
    ]


def comparison_lines(comparison: Comparison | None, path: Path | str) -> list[str]:
    """Returns a comparison as lines of text.

    Args:
        comparison: the comparison; None if no common case could be evaluated.
        path: metrics.json of the other evaluation.
    """
    if comparison is None:
        return [f"No case of the headline can be compared with {path}."]
    dropped = comparison.other.get("modalities_dropped")
    text = [
        f"Against {path}{f' (without {chr(44).join(dropped)})' if dropped else ''}, the same "
        f"{plural(comparison.cases, f'{comparison.use} case')}: "
        "mean difference, here - there [95 % confidence interval], exact Wilcoxon p"
    ]
    if comparison.met_there:
        text.append(
            f"  {comparison.met_there} of them trained or selected the other model, which "
            "favours it"
        )
    for region in spec.REGIONS:
        cells = []
        for name in _METRICS:
            entry = comparison.table[region][name]
            difference = _with_interval({**entry, "mean": entry["difference"]}, name, "+")
            cells.append(f"{metrics.METRIC_TITLES[name]} {difference}{_p_value(entry)}")
        text.append(f"  {region:3} {'   '.join(cells)}")
    return text + _few_patients(comparison.table)


def _p_value(entry):
    """Formats the p value of a comparison, or why there is none."""
    if entry["p"] is not None:
        return f", p {entry['p']:.3g}"
    if not entry["n"]:
        return ""
    return f", no p ({entry['differing']} of {plural(entry['patients'], 'patient')} differ)"


def _few_patients(table):
    """The note on too narrow intervals as a list of lines; empty if the lines above have none."""
    shown = {region: {name: table[region][name] for name in _METRICS} for region in spec.REGIONS}
    return [f"  {FEW_PATIENTS_NOTE}"] if html.few_patients(shown, spec.REGIONS) else []


def _recognised(rows: Sequence[CaseResult]) -> Iterator[str]:
    """Yields a line for each case that is not unseen although the model knows no case of its id."""
    for row in rows:
        used = "trained" if row.use == "train" else "selected"
        if row.recognised_by == BY_PATIENT:
            yield f"{row.case_id} is not unseen: another scan of its patient {used} the model."
        elif row.recognised_by == BY_SCAN:
            yield f"{row.case_id} is not unseen: the same scan, under another id, {used} the model."


def _excluded(rows: Sequence[CaseResult], use: str | None) -> Iterator[str]:
    """Yields lines about cases without metrics; `use` is None if no case has metrics."""
    failed = sum(row.status == "failed" for row in rows)
    unlabelled = sum(row.status == "unlabelled" for row in rows)
    if failed:
        yield (
            f"{failed} of {plural(len(rows), 'case')} failed; the reasons are printed above and "
            "listed in the report."
        )
    if unlabelled and use is None:
        yield "No case has a mask to compare with: segmentations, no metrics."
    elif unlabelled:
        yield f"{plural(unlabelled, 'case')} without a mask: segmented, not part of any mean below."


def _with_interval(entry, metric, sign=""):
    """Formats a mean with its interval, such as "0.812 [0.701, 0.903]"; a * marks few patients."""
    decimals = metrics.METRIC_DECIMALS[metric]
    if entry["mean"] is None:
        return "undefined"
    text = f"{entry['mean']:{sign}.{decimals}f}"
    if entry["low"] is None:
        return text
    star = "*" if entry["patients"] < FEW_PATIENTS else ""
    return f"{text} [{entry['low']:{sign}.{decimals}f}, {entry['high']:{sign}.{decimals}f}]{star}"
