"""Plans a run that ends within --time_budget_minutes: how many steps, how many validations.

Pure functions of measured times; `run_length` holds the plan of a run and asks the clock.
Imports no TensorFlow.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

VALIDATION_SHARE = 0.15
"""Largest share of the time that validations may take."""

TUNING_SHARE = 0.1
"""Largest share of the time that is kept for tuning the post-processing."""

MOST_VALIDATIONS = 10
FEWEST_STEPS = 10
"""Fewer steps are no training; a budget that allows no more is refused."""

_LEAST_SLOWDOWN = 0.6
"""Steps may become faster for reasons that do not make an export faster."""

_MARGIN_SHARE, _MARGIN_SECONDS, _MARGIN_OF_LONG = 0.06, 30.0, 0.01


@dataclass(frozen=True)
class Costs:
    """Measured and estimated seconds of the parts of a run, at its start.

    Attributes:
        step: one training step, its input included.
        validation: one validation of all cases.
        tuning: segmenting all validation cases to tune the post-processing; 0 without tuning.
        export: everything else after the last validation.
    """

    step: float
    validation: float
    tuning: float
    export: float


@dataclass(frozen=True)
class Plan:
    """The plan of a run, and what it was made from. All fields are numbers, for a checkpoint.

    Attributes:
        steps: training steps of the whole run.
        validations: validations of the whole run; 0 if not even one fits.
        validated: validations that are done.
        validation_spent: seconds that these took.
        spent: seconds of the budget that were used when this plan was made or saved.
        step: seconds that a step takes now.
        first_step, validation, tuning, export: `Costs` at the start; `validation` is replaced
            by what a validation took.
    """

    steps: int
    validations: int
    validated: int
    validation_spent: float
    spent: float
    step: float
    first_step: float
    validation: float
    tuning: float
    export: float

    @property
    def slowdown(self) -> float:
        """How many times as long as at the start everything takes now; at least `_LEAST_SLOWDOWN`.

        Parts that come later are not measured yet. They are assumed to take longer by as much
        as the steps do, for instance since another program uses the processor.
        """
        return max(_LEAST_SLOWDOWN, self.step / self.first_step)

    @staticmethod
    def size() -> int:
        """Returns how many numbers `to_numbers` returns."""
        return len(dataclasses.fields(Plan))

    def to_numbers(self) -> list[float]:
        """Returns the fields in their order."""
        return [float(value) for value in dataclasses.astuple(self)]

    @staticmethod
    def from_numbers(numbers: Sequence[float]) -> "Plan":
        """Makes the plan whose `to_numbers` these are."""
        steps, validations, validated, *seconds = numbers
        return Plan(int(steps), int(validations), int(validated), *map(float, seconds))


def target_seconds(minutes: float) -> float:
    """Returns the second of the budget at which the run is planned to end.

    The margin before the end covers what the plan cannot know, such as a load that begins while
    the model is exported: 6 % of short budgets; 30 s and 1 % of budgets over ten minutes.
    """
    budget = 60 * minutes
    return budget - min(_MARGIN_SHARE * budget, _MARGIN_SECONDS + _MARGIN_OF_LONG * budget)


def first_plan(minutes: float, costs: Costs, spent: float) -> Plan:
    """Plans a run of which nothing is trained yet.

    Args:
        minutes: the time budget.
        costs: measured at the start of the run.
        spent: seconds of the budget that are used.

    Returns:
        The plan; its `steps` are below `FEWEST_STEPS` if the budget is too short.
    """
    left = max(0.0, target_seconds(minutes) - spent - costs.export)
    tuning = min(costs.tuning, TUNING_SHARE * left)
    validations = 0
    if costs.validation:
        affordable = VALIDATION_SHARE * (left - tuning) / costs.validation
        validations = int(min(MOST_VALIDATIONS, affordable))
    plan = Plan(
        steps=0,
        validations=validations,
        validated=0,
        validation_spent=0.0,
        spent=spent,
        step=costs.step,
        first_step=costs.step,
        validation=costs.validation,
        tuning=tuning,
        export=costs.export,
    )
    return _with_steps(plan, minutes, 0)


def next_plan(plan: Plan, minutes: float, step: float, spent: float, steps_done: int) -> Plan:
    """Plans the rest of a run anew.

    Validations that would exceed their share of the time are left out, but not the last one: its
    epoch may be the best.

    Args:
        plan: the plan so far.
        minutes: the time budget.
        step: seconds that a step takes now.
        spent: seconds of the budget that are used.
        steps_done: training steps that are finished.

    Returns:
        The plan; its `steps` are `steps_done` if the time for training is over.
    """
    plan = dataclasses.replace(plan, step=step, spent=spent)
    left = plan.validations - plan.validated
    if left > 1 and plan.validation:
        whole = target_seconds(minutes) - tuning_seconds(plan, minutes) - _later(plan.export, plan)
        affordable = VALIDATION_SHARE * whole - plan.validation_spent
        left = max(1, min(left, int(affordable / _later(plan.validation, plan))))
    plan = dataclasses.replace(plan, validations=plan.validated + left)
    return _with_steps(plan, minutes, steps_done)


def validated(plan: Plan, seconds: float) -> Plan:
    """Counts a validation that took so many seconds."""
    return dataclasses.replace(
        plan,
        validated=plan.validated + 1,
        validation_spent=plan.validation_spent + seconds,
        validation=seconds / plan.slowdown,
    )


def smallest_minutes(costs: Costs, spent: float) -> float:
    """Returns a time budget that is long enough, in minutes, rounded up to a tenth.

    Args:
        costs: measured at the start of the run.
        spent: seconds that were used before the first step.
    """
    training = FEWEST_STEPS * costs.step / (1 - VALIDATION_SHARE) / (1 - TUNING_SHARE)
    # A second longer for each ten: the next attempt does not take exactly as long.
    seconds = 1.1 * (spent + costs.export + training) / (1 - _MARGIN_SHARE)
    return math.ceil(seconds / 6) / 10


def tuning_seconds(plan: Plan, minutes: float) -> float:
    """Returns the seconds kept for segmenting validation cases after the last epoch."""
    return min(_later(plan.tuning, plan), TUNING_SHARE * target_seconds(minutes))


def _later(seconds: float, plan: Plan) -> float:
    """Converts seconds that were measured at the start to the present pace."""
    return plan.slowdown * seconds


def _with_steps(plan: Plan, minutes: float, steps_done: int) -> Plan:
    """Replaces the steps of a plan by those that fit beside everything else that is to come."""
    validations = (plan.validations - plan.validated) * _later(plan.validation, plan)
    rest = validations + tuning_seconds(plan, minutes) + _later(plan.export, plan)
    # At an unchanged pace, rounding must not take a step away from the plan.
    steps = int((target_seconds(minutes) - plan.spent - rest) / plan.step + 1e-6)
    return dataclasses.replace(plan, steps=steps_done + max(0, steps))
