"""Dice of the best single intensity threshold, over more cases than fit into memory."""

from collections.abc import Mapping, Sequence

import numpy as np

from brats_tfrecord import files, spec
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.evaluation.result_store import ResultStore
from brats_tfrecord.metrics.threshold import best_threshold_dice

BASELINES = (("flair", "WT"), ("t1ce", "ET"))
"""(modality, region) pairs for which a single threshold works best."""


class Baselines:
    """Stores the brain voxels of each case on disk, then searches for the best threshold."""

    def __init__(self, store: ResultStore) -> None:
        """Creates baselines whose files lie in `store`."""
        self._store = store

    def add(self, case_id: str, volumes: Mapping[str, np.ndarray], truth: np.ndarray) -> None:
        """Stores the z-scored brain voxels of a case and its truth.

        Args:
            case_id: id of the case.
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
                    path = self._store.case_file(case_id, f"{name}.{kind}")
                    files.write_bytes(path, array.tobytes())

    def dice(self, rows: Sequence[case_results.CaseResult]) -> list[tuple[str, dict[str, float]]]:
        """Computes the mean Dice of the best thresholds over the cases of the headline.

        Args:
            rows: results of the evaluation.

        Returns:
            list of (name of the baseline, {region: mean Dice}).
        """
        case_ids = [row.case_id for row in case_results.headline_rows(rows)]
        baselines = []
        for name, region in BASELINES:
            stored = [
                case_id
                for case_id in case_ids
                if self._store.case_file(case_id, f"{name}.inside").is_file()
            ]
            if stored:
                images = self._concatenated(stored, f"{name}.values", np.float16)
                truths = self._concatenated(stored, f"{name}.inside", bool)
                dice, *_ = best_threshold_dice(images, truths)
                baselines.append(
                    (f"best single {name} threshold (z-scored images)", {region: dice})
                )
        return baselines

    def _concatenated(self, case_ids, kind, dtype):
        """The arrays of all cases as views of one mapped file: one map per case may be too many."""
        sizes = []
        path = self._store.shared_file(f"all-{kind}")
        with open(path, "wb") as stream:
            for case_id in case_ids:
                sizes.append(stream.write(self._store.case_file(case_id, kind).read_bytes()))
        if not sum(sizes):
            return [np.zeros(0, dtype) for _ in sizes]
        voxels = np.memmap(path, dtype, "r")
        return np.split(voxels, np.cumsum(sizes)[:-1] // voxels.itemsize)
