"""Which cases of an evaluation are shown, and under what heading."""

from brats_tfrecord import spec
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.report.figures import Picture


def pictures(rows, paths, limit):
    """The pictures to show, in order.

    Args:
        rows: `case_results.CaseResult`s.
        paths: case id -> PNG file, of the cases that were drawn; the others are no candidates.
        limit: at most so many pictures.

    Returns:
        list of `figures.Picture`.
    """
    drawn = [row for row in rows if row.case_id in paths]
    return [
        Picture(row.case_id, heading, caption(row), paths[row.case_id].read_bytes())
        for row, heading in choose(drawn, limit)
    ]


def choose(rows, limit):
    """Worst, median and best case of every region by Dice, over the headline's cases.

    The worst of all regions come first, then the medians, then the best: of few pictures, those
    that teach most. One case may stand under several headings and counts once. What is left of
    the limit goes to unlabelled cases, in their order.

    Args:
        rows: `case_results.CaseResult`s.
        limit: at most so many cases.

    Returns:
        list of (row, heading), such as "WT: worst, ET: median".
    """
    chosen = {}
    for heading, row in [*_extremes(rows), *_unlabelled(rows)]:
        if row.case_id in chosen or len(chosen) < limit:
            chosen.setdefault(row.case_id, (row, []))[1].append(heading)
    return [(row, ", ".join(headings)) for row, headings in chosen.values()]


def caption(row):
    """What is said of a case below its picture."""
    if row.metrics is None:
        return "unlabelled"
    dice = ", ".join(
        f"{region} {'–' if value is None else format(value, '.3f')}"
        for region, value in ((region, row.metrics[region]["dice"]) for region in spec.REGIONS)
    )
    return f"{row.use}; Dice {dice}"


def _extremes(rows):
    """(heading, row): each place of every region, a case once a region."""
    use = case_results.headline_use(rows)
    found = {}
    for region in spec.REGIONS if use is not None else ():
        ranked = sorted(
            (
                row
                for row in case_results.compared(rows, use)
                if row.metrics[region]["dice"] is not None
            ),
            key=lambda row: (row.metrics[region]["dice"], row.case_id),
        )
        places = {"worst": 0, "best": len(ranked) - 1, "median": len(ranked) // 2}
        taken = set()
        for place, index in places.items() if ranked else ():
            if index not in taken:
                taken.add(index)
                found[place, region] = ranked[index]
    return [
        (f"{region}: {place}", found[place, region])
        for place in ("worst", "median", "best")
        for region in spec.REGIONS
        if (place, region) in found
    ]


def _unlabelled(rows):
    return [("unlabelled", row) for row in rows if row.status == "unlabelled"]
