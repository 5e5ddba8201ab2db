"""The memory that sessions share while they read."""

import ctypes
import platform
import threading

import psutil
import pytest

from app import memory
from app.memory import MemoryBudget
from brats_tfrecord.errors import InputError


def test_readers_wait_until_the_others_have_finished():
    budget = MemoryBudget(100)
    second_has_begun, order = threading.Event(), []

    def second():
        second_has_begun.set()
        with budget.reader() as reserve:
            reserve(50)
            order.append("second")

    with budget.reader() as reserve:
        reserve(40)
        reserve(20)
        thread = threading.Thread(target=second)
        thread.start()
        second_has_begun.wait()
        thread.join(0.1)
        assert thread.is_alive(), "50 of the remaining 40 bytes"
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_reader_that_fails_gives_its_memory_back():
    budget = MemoryBudget(100, patience=0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), budget.reader() as reserve:
            reserve(100)
            1 / 0  # noqa: B018 - fails on purpose


def test_a_reader_is_refused_in_one_line_when_its_time_is_up():
    budget = MemoryBudget(3_000_000_000, patience=0.01)
    message = "^other sessions are reading cases, and 2 GB for this one are not free of the 3 GB"
    with budget.reader() as first, budget.reader() as second:
        first(2_000_000_000)
        with pytest.raises(InputError, match=message):
            second(2_000_000_000)
        second(1_000_000_000)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_returned_to_the_system():
    c, process = ctypes.CDLL(None), psutil.Process()
    c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    c.free.argtypes = [ctypes.c_void_p]
    blocks = [c.malloc(100_000) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    for block in blocks[:-1]:  # the last one is on top and keeps the heap from shrinking
        c.free(block)
    before = process.memory_info().rss
    memory.return_freed()
    assert before - process.memory_info().rss > 150e6
    c.free(blocks[-1])
