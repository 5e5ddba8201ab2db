"""What an evaluation prints: the summary of the best evidence there is, said to be what it is."""

from brats_tfrecord import metrics, spec
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.wording import plural

SHOWN = ("dice", "hd95")


def lines(rows, rule_set, baselines=()):
    """The headline as lines of text.

    Args:
        rows: `case_results.CaseResult`s.
        rule_set: the `metrics.RuleSet` that they follow.
        baselines: (name, region -> mean Dice) of simpler methods over the same cases.
    """
    use = case_results.headline_use(rows)
    text = list(_left_out(rows, use))
    if use is None:
        return text
    chosen = case_results.compared(rows, use)
    note = "" if use == "unseen" else "  (no case is unseen: not a measure of the model)"
    patients = len({row.patient_id for row in chosen})
    interval = f" [95 % confidence interval over {patients} patients]" if patients > 1 else ""
    text += [
        f"{plural(len(chosen), f'{use} case')}, {rule_set.name} rules{note}",
        f"  mean{interval}",
    ]
    summary = case_results.summary(rows, rule_set, use)
    for region in spec.REGIONS:
        cells = [
            f"{metrics.METRIC_TITLES[name]} {_with_interval(summary[region][name], name)}"
            for name in SHOWN
        ]
        text.append(f"  {region:3} {'   '.join(cells)}")
    return text + [
        f"  {name}: " + ", ".join(f"{region} Dice {dice:.3f}" for region, dice in scores.items())
        for name, scores in baselines
    ]


def _left_out(rows, use):
    """Lines on the cases that count in no figure; `use` is None where none counts."""
    failed = sum(row.status == "failed" for row in rows)
    unlabelled = sum(row.status == "unlabelled" for row in rows)
    if failed:
        yield (
            f"{failed} of {plural(len(rows), 'case')} failed: each is named above and in the "
            "report."
        )
    if unlabelled and use is None:
        yield "No case has a mask to compare with: segmentations, no metrics."
    elif unlabelled:
        yield f"{plural(unlabelled, 'case')} without a mask: segmented, in no figure below."


def comparison_lines(comparison, path):
    """A `compare.Comparison` (None: nothing left to compare) with the file `path` as lines."""
    if comparison is None:
        return [f"No case of the headline is left to compare with {path}."]
    text = [
        f"Against {path}, the same {plural(comparison.cases, f'{comparison.use} case')}: "
        "mean difference, here - there [95 % confidence interval], Wilcoxon p"
    ]
    if comparison.met_there:
        text.append(
            f"  {comparison.met_there} of them trained or selected the other model, which "
            "flatters it"
        )
    for region in spec.REGIONS:
        cells = []
        for name in SHOWN:
            entry = comparison.table[region][name]
            figures = _with_interval({**entry, "mean": entry["difference"]}, name, "+")
            p = "" if entry["p"] is None else f", p {entry['p']:.3g}"
            cells.append(f"{metrics.METRIC_TITLES[name]} {figures}{p}")
        text.append(f"  {region:3} {'   '.join(cells)}")
    return text


def _with_interval(figure, metric, sign=""):
    """ "0.812 [0.701, 0.903]", without what is undefined."""
    decimals = metrics.METRIC_DECIMALS[metric]
    if figure["mean"] is None:
        return "undefined"
    text = f"{figure['mean']:{sign}.{decimals}f}"
    if figure["low"] is None:
        return text
    return f"{text} [{figure['low']:{sign}.{decimals}f}, {figure['high']:{sign}.{decimals}f}]"
