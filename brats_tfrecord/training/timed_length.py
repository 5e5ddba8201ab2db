"""The length of a run that ends within --time_budget_minutes; `time_plan` has the arithmetic."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from brats_tfrecord.errors import InputError
from brats_tfrecord.training import time_plan
from brats_tfrecord.training.distribution.peers import Peers
from brats_tfrecord.training.optimization.planned_share import PlannedShare
from brats_tfrecord.training.run_length import RunLength
from brats_tfrecord.training.time_plan import Costs, Plan
from brats_tfrecord.training.train_options import TrainOptions

_WAIT_OF_REST = 0.1
_SHORTEST_WAIT = 0.005
"""A new plan is made after this share of the remaining time, but not before this share of the
budget: often at the end, where an error cannot be made up for."""

_SAVE_SHARE = 0.05
"""Longest time between two saves, as a share of the budget. What a killed session has used after
its last save is not counted."""


class TimedLength(RunLength):
    """Plans the number of steps when the run begins, and anew while it trains.

    The pace is that of the steps since the plan before, saves and input included. All processes of
    a multiworker run follow the chief's plan.
    """

    def __init__(
        self,
        options: TrainOptions,
        epoch_steps: int,
        share: PlannedShare,
        peers: Peers,
        began: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts without a plan; call `begin` or `restore`.

        Args:
            options: options of the run.
            epoch_steps: batches of an epoch.
            share: the share of the run that its learning rate follows.
            peers: the processes of the run.
            began: `clock()` from which the time of this session counts.
            clock: function that returns seconds.
        """
        super().__init__(options, epoch_steps)
        self._minutes, self._share, self._peers = options.time_budget_minutes, share, peers
        self._clock, self._began, self._spent_before = clock, began, 0.0
        self._plan: Plan | None = None
        self._plans: list[dict[str, Any]] = []
        self._planned_at = clock()
        self._interval: tuple[float, int] | None = None
        """Time and number of finished steps from which the pace is measured."""

    @property
    def plan(self) -> Plan:
        """The latest plan."""
        assert self._plan is not None, "begin or restore makes it"
        return self._plan

    def used_seconds(self) -> float:
        """Returns the seconds of the budget that all sessions have used."""
        return self._spent_before + self._clock() - self._began

    @property
    def epochs(self) -> int:
        return math.ceil(self.plan.steps / self._epoch_steps)

    @property
    def save_seconds(self) -> float:
        return min(super().save_seconds, _SAVE_SHARE * 60 * self._minutes)

    def begin(self, costs: Costs) -> None:
        """Makes the first plan of the run.

        Raises:
            InputError: in all processes, if the budget is too short.
        """
        *numbers, spent = self._of_chief([*dataclasses.astuple(costs), self.used_seconds()])
        costs = Costs(*numbers)
        plan = time_plan.first_plan(self._minutes, costs, spent)
        if plan.steps < max(time_plan.FEWEST_STEPS, self._options.accumulate):
            raise InputError(
                f"--time_budget_minutes={self._minutes:g}: is too short: {spent:.0f} s have "
                f"passed, {time_plan.FEWEST_STEPS} steps take "
                f"{time_plan.FEWEST_STEPS * costs.step:.2g} s here, and the export about "
                f"{costs.export:.0f} s; give "
                f"{time_plan.smallest_minutes(costs, spent):g} or more"
            )
        self._share.begin(plan.steps // self._options.accumulate)
        self._adopt(plan, 0)

    def steps(self, epoch: int) -> int:
        return min(self._epoch_steps, self.plan.steps - (epoch - 1) * self._epoch_steps)

    def validates(self, epoch: int) -> bool:
        # Evenly spaced, each after the first epoch that ends at or behind its place.
        if epoch >= self.epochs:
            return self.plan.validations > 0
        due = int(epoch * self._epoch_steps / self.plan.steps * self.plan.validations)
        return self.plan.validated < due

    def replan_is_due(self, steps_begun: int) -> bool:
        if self._interval is None:  # the first step of a session, which builds the graph, is over
            self._interval = self._clock(), steps_begun
        left = time_plan.target_seconds(self._minutes) - self.used_seconds()
        wait = max(_WAIT_OF_REST * left, _SHORTEST_WAIT * 60 * self._minutes)
        return self._clock() >= self._planned_at + wait

    def replan(self, steps_done: int, updates_done: int) -> None:
        plan = time_plan.next_plan(
            self.plan, self._minutes, self._pace(steps_done), self.used_seconds(), steps_done
        )
        plan = Plan.from_numbers(self._of_chief(plan.to_numbers()))
        if plan.steps != self.plan.steps:
            left = (plan.steps - steps_done) // self._options.accumulate
            self._share.plan(updates_done, updates_done + left)
        self._adopt(plan, steps_done)
        self._interval = self._clock(), steps_done

    @contextlib.contextmanager
    def validation(self) -> Iterator[None]:
        began = self._clock()
        yield
        seconds = self._clock() - began
        self._plan = time_plan.validated(self.plan, seconds)
        if self._interval:
            self._interval = self._interval[0] + seconds, self._interval[1]

    def to_numbers(self) -> list[float]:
        return dataclasses.replace(self.plan, spent=self.used_seconds()).to_numbers()

    def restore(self, numbers: Sequence[float]) -> None:
        """Continues with the plan that `to_numbers` returned."""
        self._plan = Plan.from_numbers(numbers)
        self._spent_before = self._plan.spent

    def end_text(self) -> str:
        end = time.localtime(time.time() + self.seconds_left)
        return f"ends {time.strftime('%H:%M', end)}"

    def to_card(self) -> dict:
        return {
            "minutes": self._minutes,
            "used_seconds": self.used_seconds(),
            "steps": self.plan.steps,
            "epochs": self.epochs,
            "validations": self.plan.validations,
            "plans": self._plans,
        }

    @property
    def seconds_left(self) -> float:
        """Seconds until the planned end of the whole run."""
        return max(0.0, time_plan.target_seconds(self._minutes) - self.used_seconds())

    @property
    def tuning_seconds_left(self) -> float:
        """Seconds that are left for tuning the post-processing before the export."""
        return max(0.0, self.seconds_left - self.plan.slowdown * self.plan.export)

    def _pace(self, steps_done: int) -> float:
        """Seconds of a step: the mean of the pace before and that since the latest plan."""
        if self._interval is None or steps_done <= self._interval[1]:
            return self.plan.step
        seconds = (self._clock() - self._interval[0]) / (steps_done - self._interval[1])
        return (self.plan.step + seconds) / 2

    def _adopt(self, plan: Plan, steps_done: int) -> None:
        self._plan, self._planned_at = plan, self._clock()
        self._plans.append(dataclasses.asdict(plan) | {"steps_done": steps_done})

    def _of_chief(self, numbers: Sequence[float]) -> list[float]:
        """The chief's numbers, in all processes."""
        return self._peers.sum(np.asarray(numbers) * self._peers.chief).tolist()
