"""Writes all files of a finished evaluation and prints its headline."""

from pathlib import Path

from brats_tfrecord.report import gallery, headline, html, tables


def publish(evaluation):
    """Writes metrics.csv, metrics.json and report.html to the output folder; prints the headline.

    Args:
        evaluation: `evaluation.evaluate.Evaluation`.
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
    lines = headline.lines(rows, rule_set, evaluation.baselines)
    if evaluation.options.compare is not None:
        lines += headline.comparison_lines(comparison, evaluation.options.compare)
    print(*lines, f"Report: {root / 'report.html'}", sep="\n")
