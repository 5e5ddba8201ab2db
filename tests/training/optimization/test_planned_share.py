"""The learning rate of a run whose number of updates is planned while it trains."""

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.training.optimization import schedules
from brats_tfrecord.training.optimization.planned_share import PlannedShare


def shares(share, updates):
    return [float(share(update)) for update in updates]


def test_the_share_is_linear_after_the_warm_up():
    share = PlannedShare(warmup=2)
    share.begin(22)
    np.testing.assert_allclose(shares(share, [0, 2, 7, 12, 22, 30]), [0, 0, 0.25, 0.5, 1, 1])


def test_a_new_plan_continues_from_the_share_that_is_done():
    share = PlannedShare(warmup=0)
    share.begin(100)
    share.plan(50, 60)  # half is done; the other half takes 10 updates instead of 50
    np.testing.assert_allclose(shares(share, [50, 55, 60]), [0.5, 0.75, 1])
    share.plan(55, 155)
    np.testing.assert_allclose(shares(share, [55, 105, 155]), [0.75, 0.875, 1])


def test_a_plan_without_further_updates_is_at_its_end():
    share = PlannedShare(warmup=0)
    share.begin(100)
    share.plan(40, 40)
    np.testing.assert_allclose(shares(share, [40, 41]), [0.4, 1])


def test_a_long_warm_up_is_cut_to_a_tenth():
    share = PlannedShare(warmup=50)
    share.begin(100)
    assert float(share.warmup) == 10


def test_a_new_plan_during_the_warm_up_does_not_move_its_end():
    share = PlannedShare(warmup=10)
    share.begin(110)
    share.plan(4, 60)
    np.testing.assert_allclose(shares(share, [4, 10, 35, 60]), [0, 0, 0.5, 1])


@pytest.mark.parametrize(
    "name, half, end", [("cosine", 0.5, 0), ("polynomial", 0.5**0.9, 0), ("constant", 1, 1)]
)
def test_schedules_follow_the_share(name, half, end):
    share = PlannedShare(warmup=10)
    rate = schedules.make_planned_schedule(name, 2.0, share)
    share.begin(110)
    rates = [float(rate(update)) for update in (0, 4, 9, 10, 60, 110)]
    np.testing.assert_allclose(rates, [0.2, 1, 2, 2, 2 * half, 2 * end], atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "polynomial"])
def test_an_unchanged_plan_is_the_schedule_of_a_fixed_number(name):
    share = PlannedShare(warmup=3)
    share.begin(60)
    planned = schedules.make_planned_schedule(name, 0.01, share)
    fixed = schedules.make_schedule(name, 0.01, 60, 3)
    updates = tf.range(60, dtype=tf.int64)
    np.testing.assert_allclose(
        [planned(n) for n in updates], [fixed(n) for n in updates], rtol=1e-4, atol=1e-8
    )


def test_a_checkpoint_holds_the_plan(tmp_path):
    share = PlannedShare(warmup=5)
    share.begin(100)
    share.plan(20, 50)
    path = tf.train.Checkpoint(share=share).write(str(tmp_path / "state"))
    other = PlannedShare(warmup=5)
    tf.train.Checkpoint(share=other).read(path).assert_consumed()
    assert shares(other, range(0, 60, 7)) == shares(share, range(0, 60, 7))
