"""A run with a time budget, with a clock of its own and without a network."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brats_tfrecord.errors import InputError
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.distribution.peers import Peers
from brats_tfrecord.training.optimization.planned_share import PlannedShare
from brats_tfrecord.training.time_plan import Costs
from brats_tfrecord.training.timed_length import TimedLength
from brats_tfrecord.training.train_options import TrainOptions

EPOCH_STEPS, EXPORT = 100, 14.0
COSTS = Costs(step=0.5, validation=20.0, tuning=40.0, export=EXPORT)


class Run:
    """Goes through the motions of the training loop.

    Attributes:
        now: the clock, in seconds.
        validated: number of steps before each validation.
        shares: share of the run before each step, if `records_shares`.
    """

    records_shares = True

    def __init__(self, minutes=10.0, step=lambda now: 0.5, validation=20.0, **flags):
        options = TrainOptions("data", "model", time_budget_minutes=minutes, **flags)
        self.now, self.done, self.epoch = 50.0, 0, 0
        self.validated, self.shares = [], []
        self._step, self._validation = step, validation
        self.share = PlannedShare(warmup=0)
        peers = Peers(devices.make_strategy("none"))
        self.length = TimedLength(
            options, EPOCH_STEPS, self.share, peers, 0.0, clock=lambda: self.now
        )

    def train(self, until=float("inf")):
        """Trains until the run or the time is over."""
        length = self.length
        while self.epoch < length.epochs:
            epoch = self.epoch + 1
            while self.done - self.epoch * EPOCH_STEPS < length.steps(epoch):
                if self.now >= until:
                    return
                if self.records_shares:
                    self.shares.append(float(self.share(self.done)))
                self.now += self._step(self.now)
                self.done += 1
                if length.replan_is_due(self.done):
                    length.replan(self.done, self.done)
            if length.validates(epoch):
                with length.validation():
                    self.validated.append(self.done)
                    self.now += self._validation * self._step(self.now) / 0.5
            self.epoch = epoch


def test_at_a_steady_pace_the_first_plan_stands():
    """As in test_time_plan: 800 steps, and validations after about each third of them."""
    run = Run()
    run.length.begin(COSTS)
    assert run.length.epochs == 8
    run.train()
    assert run.done == 800 and run.validated == [300, 600, 800]
    assert run.now == 50 + 400 + 60 and run.length.tuning_seconds_left == 564 - 510 - EXPORT
    np.testing.assert_allclose(run.shares, np.arange(800) / 800, atol=2e-3)


def test_a_load_that_begins_later_shortens_the_run_and_the_schedule_still_ends():
    run = Run(step=lambda now: 0.5 if now < 300 else 1.25)
    run.length.begin(COSTS)
    run.train()
    assert 500 < run.now + 2.5 * EXPORT <= 600
    assert run.shares[-1] > 0.97 and np.min(np.diff(run.shares)) >= -1e-6
    assert run.validated[-1] == run.done < 700


def test_a_load_that_ends_lengthens_the_run():
    run = Run(step=lambda now: 1.0 if now < 200 else 0.5)
    run.length.begin(Costs(1.0, 40.0, 80.0, 2 * EXPORT))
    before = run.length.plan.steps
    run.train()
    assert run.done > 1.3 * before and 450 < run.now + EXPORT <= 600
    assert run.shares[-1] > 0.97


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(1.0, 2.0), min_size=12, max_size=12),
    st.floats(0.5, 1.5),
    st.sampled_from([1.0, 10.0]),
)
def test_the_budget_is_kept_at_any_pace(paces, validation, minutes):
    """A load comes and goes; a validation takes longer or shorter than was measured.

    Even if the load doubles just before the end, the export fits.
    """
    scale = minutes / 10
    run = Run(
        minutes,
        step=lambda now: 0.5 * scale * paces[min(11, int(now / (50 * scale)))],
        validation=20 * scale * validation,
    )
    run.now, run.records_shares = run.now * scale, False
    run.length.begin(
        Costs(0.5 * scale * paces[1], 20 * scale * paces[1], 40 * scale * paces[1], EXPORT * scale)
    )
    run.train()
    assert run.now + 2 * EXPORT * scale <= 60 * minutes
    assert run.validated[-1:] == [run.done] or run.length.plan.validations == 0


def test_long_epochs_end_within_one():
    """50 s a step: neither the 100 steps of an epoch nor a validation fits."""
    run = Run(step=lambda now: 20.0, validation=800.0)
    run.length.begin(Costs(20.0, 800.0, 0.0, EXPORT))
    run.train()
    assert run.length.epochs == 1 and run.validated == []
    assert run.done == 25 and run.now == 550  # 564 - 14 for the export


def test_a_resumed_run_continues_with_the_recorded_plan():
    """The second session begins after an hour's pause, which is not part of the budget."""
    run = Run()
    run.length.begin(COSTS)
    run.train(until=200)
    numbers, plan, used = run.length.to_numbers(), run.length.plan, run.now
    peers, options = Peers(devices.make_strategy("none")), run.length._options
    run.now += 3600
    run.length = TimedLength(options, EPOCH_STEPS, run.share, peers, run.now, clock=lambda: run.now)
    run.length.restore(numbers)
    assert run.length.plan.steps == plan.steps and run.length.used_seconds() == used
    run.train()
    assert run.done == 800 and run.now == 3600 + 510


@pytest.mark.parametrize("minutes", [0.3, 1.0])
def test_a_budget_that_is_too_short_is_refused_with_the_smallest_that_works(minutes):
    run = Run(minutes)
    with pytest.raises(InputError, match=f"--time_budget_minutes={minutes:g}: .* give 1.4 or more"):
        run.length.begin(COSTS)
    run = Run(1.4)
    run.length.begin(COSTS)
    run.train()
    assert run.now + EXPORT <= 84


def test_an_update_needs_its_batches():
    run = Run(1.5, accumulate=100)
    with pytest.raises(InputError, match="--time_budget_minutes=1.5: is too short"):
        run.length.begin(COSTS)


def test_new_plans_come_faster_towards_the_end():
    run = Run()
    run.length.begin(COSTS)
    run.train()
    plans = run.length.to_card()["plans"]
    waits = np.diff([plan["spent"] for plan in plans])
    assert len(plans) < 40 and waits[0] > 40 and waits[-1] < 12
    assert all(a["steps_done"] < b["steps_done"] for a, b in itertools.pairwise(plans))


def test_the_state_is_saved_often_enough_that_a_kill_costs_little():
    assert Run(10.0).length.save_seconds == 30
    assert Run(1000.0).length.save_seconds == 600
    assert Run(1000.0, checkpoint_minutes=1.0).length.save_seconds == 60
