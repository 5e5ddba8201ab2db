import threading
import time
import types

import numpy as np
import pytest

from brats_tfrecord.training import late_reader
from brats_tfrecord.training.late_reader import (
    MOST_UNREAD,
    Checks,
    DispatchedStep,
    LateReader,
    Reading,
)

SECONDS = 20


class Replicas:
    """Distributed values: one value for each replica."""

    def __init__(self, *values):
        self.values = values


class Lazy:
    """A tensor whose step is running until the event is set."""

    def __init__(self, value, is_done):
        self.value, self.is_done = value, is_done

    def numpy(self):
        assert self.is_done.wait(SECONDS)
        return np.float32(self.value)


def local_results(value):
    return value.values if isinstance(value, Replicas) else (value,)


STRATEGY = types.SimpleNamespace(experimental_local_results=local_results)


def test_results_are_split_by_replica_and_plain_values_are_in_each():
    result = {"loss": Replicas(1, 2), "sound": True}
    assert late_reader.local_results(STRATEGY, result) == [
        {"loss": 1, "sound": True},
        {"loss": 2, "sound": True},
    ]
    assert late_reader.local_results(STRATEGY, (5, 6)) == [(5, 6)]


def test_adding_waits_for_nothing_and_taking_only_for_what_it_returns():
    reader, done = LateReader(STRATEGY), [threading.Event() for _ in range(3)]
    for number, is_done in enumerate(done):
        reader.add([Replicas(Lazy(number, is_done), Lazy(10, is_done))], f"note {number}")
    assert (reader.unread, reader.unfinished) == (3, 3) and reader.take(leave=3) == []
    done[0].set()
    [first] = reader.take(leave=2)
    assert first.values == [[0.0], [10.0]] and first.note == "note 0"
    assert (reader.unread, reader.unfinished) == (2, 2)
    done[1].set(), done[2].set()
    second, third = reader.take(leave=0)
    assert (second.note, third.note) == ("note 1", "note 2")
    assert first.finished <= second.finished <= third.finished
    assert reader.unread == 0 and reader.take(leave=0) == []


def test_a_closed_reader_waits_for_nothing():
    reader, done = LateReader(STRATEGY), threading.Event()
    for number in range(3):
        reader.add(Lazy(number, done))
    began = time.monotonic()
    reader.close()
    assert reader.unread == 0 and time.monotonic() - began < SECONDS / 2
    done.set()


def test_an_error_of_a_step_is_raised_when_its_result_is_taken():
    class Failed:
        def numpy(self):
            raise ArithmeticError("of this step")

    reader = LateReader(STRATEGY)
    reader.add(Failed())
    with pytest.raises(ArithmeticError, match="of this step"):
        reader.take(leave=0)


class StandInReader:
    """A reader whose steps finish at given times; a step is added by each call of `is_due`."""

    def __init__(self, times):
        self.times, self.unread, self.unfinished = list(times), 0, 0

    def take(self, leave):
        count, self.unread = self.unread - leave, leave
        return [Reading([], None, self.times.pop(0)) for _ in range(count)]


def checked_after(checks, reader, steps):
    """Numbers of the steps, from 1, after which the run checks."""
    numbers = []
    for number in range(1, steps + 1):
        reader.unread += 1
        if checks.is_due():
            checks.take()
            checks.agree(False)
            numbers.append(number)
    return numbers


def peers(count, others=()):
    """Peers whose sums have the numbers `others` added; the chief if those are empty."""
    return types.SimpleNamespace(
        count=count,
        chief=not others,
        sum=lambda values: np.add(np.asarray(values, float), others if others else 0),
    )


def test_a_single_process_checks_after_every_step_and_leaves_what_is_running():
    reader = StandInReader(range(100))
    checks = Checks(reader, peers(1), save_seconds=600)
    assert checked_after(checks, reader, 5) == [1, 2, 3, 4, 5]
    reader.unread = reader.unfinished = MOST_UNREAD + 3
    assert len(checks.take()) == 3


def test_several_processes_check_once_a_second_or_after_the_most_unread_steps():
    """The first check has no result, the second one no step to compare it with."""
    reader = StandInReader(np.arange(100) * 0.25)
    checks = Checks(reader, peers(2), save_seconds=600)
    assert checked_after(checks, reader, 12) == [1, 2, 3, 7, 11]
    reader = StandInReader(np.arange(100) * 0.01)
    checks = Checks(reader, peers(2), save_seconds=600)
    assert checked_after(checks, reader, 40) == [1, 2, 3, 3 + MOST_UNREAD, 3 + 2 * MOST_UNREAD]
    checks.restart()
    assert checked_after(checks, reader, 1) == [1]


def test_several_processes_check_as_often_as_they_save():
    reader = StandInReader(np.arange(100) * 0.25)
    assert checked_after(Checks(reader, peers(2), save_seconds=0), reader, 5) == [1, 2, 3, 4, 5]
    reader = StandInReader(np.arange(100) * 0.25)
    assert checked_after(Checks(reader, peers(2), save_seconds=0.5), reader, 8) == [1, 2, 3, 5, 7]


def test_a_worker_checks_when_the_chief_says_and_hears_all_flags():
    """The chief's sum has a flag and the number of its steps."""
    reader = StandInReader(np.arange(100) * 5.0)
    checks = Checks(reader, peers(2, others=(0, 1, 3)), save_seconds=600)
    assert checks.is_due() and checks.agree(False, False) == [False, True]
    assert [checks.is_due() for _ in range(3)] == [False, False, True]


def test_only_time_in_which_the_device_is_idle_counts_as_waiting_for_input():
    step = DispatchedStep(began=100.0, received=104.0, cases=None)
    assert step.times(finished=114.0, last_finished=50.0) == (14.0, 4.0)  # after a pause
    assert step.times(finished=114.0, last_finished=103.0) == (11.0, 1.0)
    assert step.times(finished=114.0, last_finished=109.0) == (5.0, 0.0)  # the device was busy
