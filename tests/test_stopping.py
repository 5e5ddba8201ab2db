import os
import signal
import threading

import pytest

from brats_tfrecord import stopping


def test_sigterm_raises_within_the_block_and_the_previous_handler_returns():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(stopping.Terminated), stopping.sigterm_raises():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_is_a_request_and_a_second_one_interrupts(number, code):
    before = signal.getsignal(number)
    stop = stopping.StopRequest()
    with pytest.raises(KeyboardInterrupt), stop.listening():
        assert stop.reason is None
        os.kill(os.getpid(), number)
        assert (stop.reason, stop.exit_code) == (f"stopped by {number.name}", code)
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_other_threads_do_not_change_the_handlers():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with stopping.sigterm_raises(), stopping.StopRequest().listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
