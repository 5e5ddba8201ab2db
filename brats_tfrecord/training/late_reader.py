"""Reads the results of steps from the devices, without making the training loop wait for them."""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from brats_tfrecord.training.distribution.peers import Peers

MOST_UNREAD = 16
"""Most steps whose results have not been read. A divergence is noticed after at most so many."""

CHECK_SECONDS = 1.0
"""Seconds between two checks of a multiworker run, if steps are short."""


@dataclass(frozen=True)
class Reading:
    """The result of a step.

    Attributes:
        values: list with the result of each local replica, its tensors as NumPy arrays.
        note: the note that was added with the result.
        finished: `time.monotonic()` when the result was there.
    """

    values: list
    note: Any
    finished: float


@dataclass(frozen=True)
class DispatchedStep:
    """The note of a training step.

    Attributes:
        began, received: `time.monotonic()` before and after its batch was fetched.
        cases: `case` of the batch.
    """

    began: float
    received: float
    cases: Any

    def times(self, finished: float, last_finished: float) -> tuple[float, float]:
        """Splits the time of consecutive steps among them.

        Args:
            finished, last_finished: when this step and the one before it were finished.

        Returns:
            Seconds that this step adds, and those of them in which the device waited for input.
            The device does not wait while the step before runs, even if the loop does.
        """
        idle_since = max(self.began, last_finished)
        return finished - idle_since, max(0.0, self.received - idle_since)


class LateReader:
    """Reads the results of steps in their order, in a thread.

    A copy from a GPU waits for all work that the GPU was given before, so a result that is asked
    for late also waits for later steps. The thread asks for it as soon as the step is dispatched,
    and waits instead of the loop.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        """Starts without results."""
        self._strategy = strategy
        self._thread = ThreadPoolExecutor(1, "late_reader")
        self._unread: deque[Future[Reading]] = deque()

    @property
    def unread(self) -> int:
        """Number of results that were not taken yet."""
        return len(self._unread)

    @property
    def unfinished(self) -> int:
        """Number of results that are not on the host yet."""
        return sum(not reading.done() for reading in self._unread)

    def add(self, result: Any, note: Any = None) -> None:
        """Adds the result of a step that was just dispatched.

        Args:
            result: nested tensors, or distributed values with a tensor for each replica.
            note: returned with the result.
        """
        self._unread.append(self._thread.submit(self._read, result, note))

    def take(self, leave: int) -> list[Reading]:
        """Returns the oldest results, all but the newest `leave`; waits for those it returns.

        Raises:
            tf.errors.OpError: a step failed.
        """
        return [self._unread.popleft().result() for _ in range(self.unread - leave)]

    def close(self) -> None:
        """Gives up the results that were not taken, and waits for nothing."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._unread.clear()

    def _read(self, result, note):
        values = [
            tf.nest.map_structure(lambda tensor: tensor.numpy(), replica)
            for replica in local_results(self._strategy, result)
        ]
        return Reading(values, note, time.monotonic())


def local_results(strategy: tf.distribute.Strategy, result: Any) -> list:
    """Splits nested distributed values into one nested structure for each local replica.

    A plain tensor is in the structure of every replica.
    """
    leaves = [strategy.experimental_local_results(leaf) for leaf in tf.nest.flatten(result)]
    replicas = max(map(len, leaves))
    return [
        tf.nest.pack_sequence_as(result, [leaf[replica % len(leaf)] for leaf in leaves])
        for replica in range(replicas)
    ]


class Checks:
    """Decides after which steps a run reads results and checks whether to save or to stop.

    A single process checks after every step and takes the results that have arrived. The processes
    of a multiworker run have to check after the same steps and exchange their answers, and the
    devices wait meanwhile. They check after the first step, and then every `CHECK_SECONDS` or every
    `MOST_UNREAD` steps, whichever is sooner. At each check the chief says when the next one is.
    """

    def __init__(self, reader: LateReader, peers: Peers, save_seconds: float) -> None:
        """Plans the first check.

        Args:
            reader: the reader of the results.
            peers: the processes of the run.
            save_seconds: seconds between two saves, which take place at checks.
        """
        self._reader, self._peers = reader, peers
        self._seconds = min(CHECK_SECONDS, save_seconds)
        self.restart()

    def restart(self) -> None:
        """Plans a check after the next step; call it before steps of another kind."""
        self._steps_left = 1
        self._pace: float | None = None
        self._last_finished: float | None = None

    def is_due(self) -> bool:
        """Counts a step, and tells whether to check after it."""
        self._steps_left -= 1
        return self._steps_left <= 0

    def take(self) -> list[Reading]:
        """Takes the results that a check may wait for; the devices keep at least one step to do."""
        if self._peers.count == 1:
            return self._reader.take(leave=min(self._reader.unfinished, MOST_UNREAD))
        readings = self._reader.take(leave=1)  # equally many in all processes
        if readings:
            if self._last_finished is not None:
                self._pace = (readings[-1].finished - self._last_finished) / len(readings)
            self._last_finished = readings[-1].finished
        return readings

    def agree(self, *flags: object) -> list[bool]:
        """Tells for each flag whether it is true in any process, and plans the next check.

        Args:
            flags: truth values of this process.
        """
        steps = max(1, min(MOST_UNREAD, int(self._seconds / self._pace))) if self._pace else 1
        *totals, chief_steps = self._peers.sum([*map(bool, flags), steps * self._peers.chief])
        self._steps_left = int(chief_steps)
        return [total > 0 for total in totals]
