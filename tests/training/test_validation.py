import types

import numpy as np

from brats_tfrecord.training.late_reader import Reading
from brats_tfrecord.training.steps import EvalResult
from brats_tfrecord.training.validation import ValidationScores

DICE = ("dice_WT", "dice_TC", "dice_ET")
ALONE = types.SimpleNamespace(sum=lambda values: np.asarray(values, np.float64))


def result(weight, case, score, plane):
    """A replica's result for one case, all of whose scores are the same."""
    scores = {name: np.float32([score]) for name in ("loss", *DICE)}
    return EvalResult(
        {"weight": np.float32([weight]), **scores},
        np.int32([case]),
        np.full((1, 2, 3), plane, np.uint8),
    )


def collected(*results):
    """Scores of three cases in batches of two replicas; slices 7 and 4 of the cases 0 and 2."""
    scores = ValidationScores(np.array([7, -1, 4]))
    scores.add([Reading(list(pair), None, 0.0) for pair in zip(results[::2], results[1::2])])
    return scores


def test_every_case_counts_once_and_chosen_slices_are_kept():
    """The last batch is padded with a copy of case 0."""
    scores = collected(
        result(1, 0, 0.25, 1), result(1, 1, 0.5, 2), result(1, 2, 0.75, 3), result(0, 0, 9, 9)
    )
    assert scores.means(ALONE) == {
        "val_loss": 0.5,
        **{f"val_{name}": 0.5 for name in DICE},
        "val_dice_mean": 0.5,
    }
    drawn = scores.drawn(ALONE)
    assert list(drawn) == [0, 2] and drawn[0].shape == (2, 3) and drawn[0].dtype == np.uint8
    assert (drawn[0] == 1).all() and (drawn[2] == 3).all()


def test_the_cases_of_all_processes_are_joined():
    here = collected(result(1, 0, 0.25, 1), result(1, 1, 0.5, 2))
    other = collected(result(1, 2, 0.75, 3), result(0, 0, 9, 9))
    tables = iter([list(other._scores.values()), [np.zeros((2, 3)), np.full((2, 3), 3)]])
    peers = types.SimpleNamespace(sum=lambda values: np.add(values, next(tables)))
    assert here.means(peers)["val_dice_mean"] == 0.5
    drawn = here.drawn(peers)
    assert (drawn[0] == 1).all() and (drawn[2] == 3).all()
