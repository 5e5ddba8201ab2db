"""The arithmetic of --time_budget_minutes; every figure can be checked by hand."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_tfrecord.training import time_plan
from brats_tfrecord.training.time_plan import Costs, Plan

COSTS = Costs(step=0.5, validation=20.0, tuning=40.0, export=14.0)


def test_a_budget_has_a_margin_of_6_percent_and_less_if_it_is_long():
    assert time_plan.target_seconds(1) == pytest.approx(60 - 3.6)
    assert time_plan.target_seconds(10) == pytest.approx(600 - 36)
    assert time_plan.target_seconds(60) == pytest.approx(3600 - 66)


def test_a_plan_fills_the_time_before_the_target():
    """564 s, 50 of them spent, 14 for the export: 500. 40 for tuning: 460, of which validations may
    take 69: three of 20 s. The other 400 s are 800 steps."""
    plan = time_plan.first_plan(10, COSTS, spent=50)
    assert (plan.steps, plan.validations, plan.validated) == (800, 3, 0)
    assert time_plan.tuning_seconds(plan, 10) == 40


def test_tuning_takes_at_most_a_tenth_and_long_validations_are_left_out():
    """A tenth of the 500 s: 450 for training and validation, of which 15 % are 67.5."""
    plan = time_plan.first_plan(10, dataclasses.replace(COSTS, validation=68, tuning=99), 50)
    assert time_plan.tuning_seconds(plan, 10) == pytest.approx(50)
    assert (plan.validations, plan.steps) == (0, 900)


def test_without_validation_cases_all_the_time_is_for_steps():
    plan = time_plan.first_plan(10, Costs(0.5, 0, 0, 14), 50)
    assert (plan.validations, plan.steps) == (0, 1000)


def test_short_validations_are_few_all_the_same():
    plan = time_plan.first_plan(10, dataclasses.replace(COSTS, validation=1), 50)
    assert plan.validations == time_plan.MOST_VALIDATIONS == 10
    assert plan.steps == 2 * (460 - 10)


def test_a_slower_machine_gets_fewer_steps_and_everything_later_is_assumed_to_be_slower_too():
    """Steps of 1 s instead of 0.5. 564 s, 2 x 14 of them for the export and 56.4, a tenth, for
    tuning: 479.6, of which validations may take 71.94: one of 2 x 20. Without the 264 that are
    spent, 175.6 are left for steps."""
    plan = time_plan.first_plan(10, COSTS, spent=50)
    later = time_plan.next_plan(plan, 10, step=1.0, spent=264, steps_done=400)
    assert later.slowdown == 2
    assert later.validations == 1
    assert later.steps == 400 + int(479.6 - 264 - 40)


def test_a_faster_machine_gets_more_steps():
    """Steps take half as long; the rest is assumed to take 0.6 times as long: 8.4 s for the export,
    24 for tuning, 36 for three validations. 445.6 s are left."""
    plan = time_plan.first_plan(10, COSTS, spent=50)
    later = time_plan.next_plan(plan, 10, step=0.25, spent=50, steps_done=0)
    assert (later.steps, later.validations, later.slowdown) == (1782, 3, 0.6)


def test_the_run_ends_where_it_is_when_the_time_is_over():
    plan = time_plan.first_plan(10, COSTS, spent=50)
    assert time_plan.next_plan(plan, 10, 0.5, spent=700, steps_done=123).steps == 123


def test_a_plan_survives_a_checkpoint():
    plan = time_plan.first_plan(10, COSTS, spent=50)
    numbers = plan.to_numbers()
    assert len(numbers) == Plan.size() and Plan.from_numbers(numbers) == plan


seconds = st.floats(0.001, 1000)


@given(
    st.floats(0.1, 10_000),
    st.builds(Costs, seconds, st.floats(0, 1000), st.floats(0, 1000), seconds),
    st.floats(0, 1000),
)
def test_no_plan_exceeds_its_budget(minutes, costs, spent):
    plan = time_plan.first_plan(minutes, costs, spent)
    validations = plan.validations * costs.validation
    training = plan.steps * costs.step
    tuning = time_plan.tuning_seconds(plan, minutes)
    if plan.steps:
        total = spent + training + validations + tuning + costs.export
        assert total <= time_plan.target_seconds(minutes) + 1e-2
        assert total >= time_plan.target_seconds(minutes) - costs.step - 1e-6
        assert validations <= 0.15 * 60 * minutes
    else:
        assert time_plan.smallest_minutes(costs, spent) > 0.9 * minutes


@given(
    st.builds(Costs, seconds, st.floats(0, 1000), st.floats(0, 1000), seconds), st.floats(0, 1000)
)
def test_the_smallest_budget_that_is_named_works(costs, spent):
    minutes = time_plan.smallest_minutes(costs, spent)
    assert time_plan.first_plan(minutes, costs, spent).steps >= time_plan.FEWEST_STEPS


@given(st.lists(st.tuples(st.floats(0.05, 20), st.floats(1, 60)), min_size=1, max_size=40))
def test_the_time_is_kept_whatever_the_pace(paces):
    """A run that trains at changing paces, and plans anew after each stretch."""
    plan, spent, done, step = time_plan.first_plan(10, COSTS, 50), 50.0, 0, COSTS.step
    for step, stretch in paces:
        steps = min(plan.steps - done, int(stretch / step))
        done, spent = done + steps, spent + steps * step
        plan = time_plan.next_plan(plan, 10, step, spent, done)
    assert plan.steps >= done
    rest = (plan.steps - done) * step + plan.validations * plan.slowdown * plan.validation
    if plan.steps > done:
        assert spent + rest + plan.slowdown * plan.export <= 600
