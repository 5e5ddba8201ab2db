"""The table of a cross-validation: what each fold came to, mean and deviation over the folds."""

import csv
import io
import statistics

from brats_tfrecord import spec

FILE_NAME = "cross_validation.csv"
FIGURES = (*(f"dice_{region}" for region in spec.REGIONS), "dice_mean")
COLUMNS = ("fold", "cases", "best_epoch", *FIGURES)


def fold_row(fold, cases, best):
    """One line of the table.

    Args:
        fold: the validation fold.
        cases: number of its cases.
        best: row of `History` of the best epoch.

    Returns:
        dict of `COLUMNS`; Dice is that of `best`, the mean over the fold's cases.
    """
    return {
        "fold": fold,
        "cases": cases,
        "best_epoch": best["epoch"],
        **{name: best[f"val_{name}"] for name in FIGURES},
    }


def over_folds(rows):
    """Mean and standard deviation (n - 1) over the folds, each fold counting once.

    Args:
        rows: two or more of `fold_row`.

    Returns:
        (dict, dict) from each of `FIGURES` to its mean, and to its standard deviation.
    """
    columns = {name: [row[name] for row in rows] for name in FIGURES}
    return (
        {name: statistics.mean(values) for name, values in columns.items()},
        {name: statistics.stdev(values) for name, values in columns.items()},
    )


def to_csv(rows):
    """The table as CSV; its last two lines are the mean and the sd over the folds."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for name, figures in zip(("mean", "sd"), over_folds(rows)):
        writer.writerow({"fold": name, **figures})
    return text.getvalue()


def to_text(rows):
    """The table for a terminal."""
    titles = [f"Dice {name.removeprefix('dice_')}" for name in FIGURES]
    lines = [f"{'fold':<7}{'cases':>6}{'best epoch':>12}" + "".join(f"{t:>17}" for t in titles)]
    for row in rows:
        lines.append(
            f"{row['fold']:<7}{row['cases']:>6}{row['best_epoch']:>12}"
            + "".join(f"{row[name]:>17.3f}" for name in FIGURES)
        )
    means, deviations = over_folds(rows)
    lines.append(
        f"{'mean ± sd':<25}"
        + "".join(f"{f'{means[name]:.3f} ± {deviations[name]:.3f}':>17}" for name in FIGURES)
    )
    return "\n".join(lines)
