"""The scores of one intensity threshold, over more cases than fit into memory."""

import numpy as np

from brats_tfrecord import files, spec
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.metrics.threshold import best_threshold_dice

BASELINES = (("flair", "WT"), ("t1ce", "ET"))
"""Modality and region that one intensity threshold segments best."""


class Baselines:
    """Brains of the cases as they pass, on disk, and what the best threshold makes of them."""

    def __init__(self, kept):
        """Over a `journal.Journal`, which holds the files."""
        self._kept = kept

    def add(self, case_id, volumes, truth):
        """Keeps the z-scored brain of a case and its truth.

        Args:
            case_id: its id.
            volumes: modality -> float32 [X, Y, Z], zero outside the brain.
            truth: uint8 [X, Y, Z] canonical classes.
        """
        for name, region in BASELINES:
            if name in volumes:
                brain = volumes[name] > 0
                values = volumes[name][brain]
                scored = ((values - values.mean()) / values.std()).astype(np.float16)
                inside = np.isin(truth[brain], spec.REGIONS[region])
                for kind, array in (("values", scored), ("inside", inside)):
                    files.write_bytes(self._kept.file(case_id, f"{name}.{kind}"), array.tobytes())

    def dice(self, rows):
        """Best thresholds over the very cases that the headline counts.

        Args:
            rows: `case_results.CaseResult`s.

        Returns:
            list of (what it is, {region: mean Dice}).
        """
        use = case_results.headline_use(rows)
        case_ids = (
            [row.case_id for row in case_results.compared(rows, use)] if use is not None else []
        )
        found = []
        for name, region in BASELINES:
            there = [
                case_id
                for case_id in case_ids
                if self._kept.file(case_id, f"{name}.inside").is_file()
            ]
            if there:
                images = self._joined(there, f"{name}.values", np.float16)
                truths = self._joined(there, f"{name}.inside", bool)
                found.append(
                    (
                        f"best single {name} threshold (z-scored images)",
                        {region: best_threshold_dice(images, truths)[0]},
                    )
                )
        return found

    def _joined(self, case_ids, kind, dtype):
        """The arrays of all cases as views of one mapped file: a map each could be too many."""
        sizes = []
        path = self._kept.shared_file(f"all-{kind}")
        with open(path, "wb") as stream:
            for case_id in case_ids:
                sizes.append(stream.write(self._kept.file(case_id, kind).read_bytes()))
        if not sum(sizes):
            return [np.zeros(0, dtype) for _ in sizes]
        whole = np.memmap(path, dtype, "r")
        return np.split(whole, np.cumsum(sizes)[:-1] // whole.itemsize)
