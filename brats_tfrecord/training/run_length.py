"""The length of a run in epochs and steps; `timed_length` has that of a run with a time budget."""

import contextlib
from contextlib import AbstractContextManager

from brats_tfrecord.training.train_options import TrainOptions


class RunLength:
    """How many epochs a run has, how many steps each of them, and which of them are validated."""

    def __init__(self, options: TrainOptions, epoch_steps: int) -> None:
        """Takes the length from the options.

        Args:
            options: options of the run.
            epoch_steps: batches of an epoch.
        """
        self._options, self._epoch_steps = options, epoch_steps

    @property
    def epochs(self) -> int:
        """Number of epochs of the run; with a time budget, of the latest plan."""
        return self._options.epochs

    @property
    def save_seconds(self) -> float:
        """Longest time between two saved states, in seconds."""
        return 60 * self._options.checkpoint_minutes

    def steps(self, epoch: int) -> int:
        """Returns the number of steps of an epoch, which is counted from 1."""
        return self._epoch_steps

    def validates(self, epoch: int) -> bool:
        """Tells whether the run validates after an epoch, which is counted from 1."""
        # Validation and drawing take time, so runs of many short epochs do both less often.
        return epoch % self._options.validate_every == 0 or epoch == self.epochs

    def replan_is_due(self, steps_begun: int) -> bool:
        """Tells whether it is time to plan the rest of the run anew.

        Args:
            steps_begun: dispatched steps of the run.
        """
        return False

    def replan(self, steps_done: int, updates_done: int) -> None:
        """Plans the rest of the run anew, at the same step in all processes.

        Args:
            steps_done: finished steps of the run.
            updates_done: applied updates of the run.
        """

    def validation(self) -> AbstractContextManager[None]:
        """Returns the context of a validation, whose time is not that of steps."""
        return contextlib.nullcontext()

    def to_numbers(self) -> list[float]:
        """Returns the plan for a checkpoint; empty without a time budget."""
        return []

    def end_text(self) -> str:
        """Returns when the run is planned to end, such as "ends 14:03"; "" without a plan."""
        return ""

    def to_card(self) -> dict | None:
        """Returns the plans of this session for the run card; None without a time budget."""
        return None
