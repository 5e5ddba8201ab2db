import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.training.optimization import schedules


def rates(schedule, steps):
    return [float(schedule(tf.constant(step, tf.int64))) for step in steps]


def test_a_constant_schedule_is_a_number():
    assert schedules.make_schedule("constant", 0.5, 8) == 0.5


@pytest.mark.parametrize(
    "name, expected", [("cosine", [0.5, 0.25, 0, 0]), ("polynomial", [0.5, 0.5 * 0.5**0.9, 0, 0])]
)
def test_schedules_end_at_0_and_stay_at_0(name, expected):
    schedule = schedules.make_schedule(name, 0.5, 8)
    np.testing.assert_allclose(rates(schedule, (0, 4, 8, 9)), expected, atol=1e-7)


@pytest.mark.parametrize(
    "name, after",
    [
        ("constant", [0.5, 0.5, 0.5]),
        ("cosine", [0.5, 0.25, 0]),
        ("polynomial", [0.5, 0.5 * 0.5**0.9, 0]),
    ],
)
def test_four_updates_of_warm_up_come_before_eight_of_the_schedule(name, after):
    schedule = schedules.make_schedule(name, 0.5, 12, warmup=4)
    expected = [0.125, 0.25, 0.375, 0.5, *after]
    np.testing.assert_allclose(rates(schedule, (0, 1, 2, 3, 4, 8, 12)), expected, atol=1e-7)


def averages(name, epochs, values):
    """The averages after each of `values`, one per update, from an initial 99."""
    share = schedules.make_averaging(name, epochs, len(values))
    average, history = 99.0, []
    for update, value in enumerate(values, start=1):
        average += float(share(tf.constant(update, tf.int64))) * (value - average)
        history.append(average)
    return history


def test_no_averaging_has_no_schedule():
    assert schedules.make_averaging("none", 9, 9) is None


def test_moving_averages_ignore_the_initial_weights_and_get_longer():
    history = averages("ema", 1, [0.0, 11.0, 0.0])
    # Shares 1, 1 - 1/11, 1 - 2/12.
    np.testing.assert_allclose(history, [0, 10, 10 / 6], rtol=1e-5)
    share = schedules.make_averaging("ema", 1, 1)
    np.testing.assert_allclose(
        [share(tf.constant(n, tf.int64)) for n in (91, 100_000)], [0.1, 0.001], rtol=1e-4
    )


def test_swa_is_the_mean_of_one_state_per_epoch_of_the_last_quarter():
    # 12 epochs of 2 updates: states after epochs 10, 11, 12, which are updates 20, 22, 24.
    history = averages("swa", 12, list(range(1, 25)))
    np.testing.assert_allclose(history[:20], range(1, 21))
    np.testing.assert_allclose(history[20:], [20, 21, 21, 22], rtol=1e-6)


def test_swa_with_less_than_one_update_per_epoch_takes_every_update():
    # 8 epochs in 4 updates: the last two updates.
    np.testing.assert_allclose(averages("swa", 8, [5.0, 6.0, 8.0, 16.0]), [5, 6, 8, 12])
