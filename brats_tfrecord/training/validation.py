"""Collects the scores of the validation cases, from steps whose results are read late."""

from collections.abc import Sequence

import numpy as np

from brats_tfrecord.training.distribution.peers import Peers
from brats_tfrecord.training.late_reader import Reading
from brats_tfrecord.training.logbook.history import DICE_COLUMNS


class ValidationScores:
    """The scores and the drawn slices of one validation, as far as this process computed them."""

    def __init__(self, slices: np.ndarray) -> None:
        """Starts without scores.

        Args:
            slices: int [cases], index of the axial slice that is drawn of each case, or -1.
        """
        self._slices = slices
        self._scores: dict[str, np.ndarray] = {}
        self._drawn: dict[int, np.ndarray] = {}

    def add(self, readings: Sequence[Reading]) -> None:
        """Adds results of `steps.make_eval_step`; the copies that pad a batch are ignored."""
        for reading in readings:
            for result in reading.values:
                self._add(result)

    def means(self, peers: Peers) -> dict[str, float]:
        """Returns the means over the cases of all processes: the `val_` columns of the history."""
        table = peers.sum(list(self._scores.values()))
        means = {f"val_{name}": float(row.mean()) for name, row in zip(self._scores, table)}
        means["val_dice_mean"] = float(np.mean([means[name] for name in DICE_COLUMNS]))
        return means

    def drawn(self, peers: Peers) -> dict[int, np.ndarray]:
        """Returns the slices that are drawn, of all processes: case -> uint8 [X, Y]."""
        cases = np.flatnonzero(self._slices >= 0)
        blank = np.zeros(self._plane, np.uint8)
        planes = peers.sum([self._drawn.get(case, blank) for case in cases])
        return dict(zip(cases.tolist(), planes.astype(np.uint8)))

    def _add(self, result):
        """Adds the result of one replica."""
        counts = result.scores["weight"] > 0
        self._plane = result.slices.shape[1:]
        for name, values in result.scores.items():
            if name != "weight":
                row = self._scores.setdefault(name, np.zeros(len(self._slices)))
                row[result.cases[counts]] = values[counts]
        for case, plane in zip(result.cases[counts].tolist(), result.slices[counts]):
            if self._slices[case] >= 0:
                self._drawn[case] = plane
