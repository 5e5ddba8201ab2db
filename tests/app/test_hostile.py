"""Hundreds of bad uploads in a row: each is refused in one line, and memory does not grow."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_uploads import KINDS, NEEDED, brain, hostile, labels, nifti, upload

from app import intake
from brats_tfrecord.errors import InputError

COUNT = 200
GROWTH_KB = 100_000


def resident_kb():
    return int(re.search(r"VmRSS:\s*(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.soak
def test_bad_uploads_do_not_leak_memory():
    kinds = list(hostile())
    assert len(kinds) >= 50
    messages, before = {}, None
    for turn in range(COUNT + len(kinds)):
        index = turn % len(kinds)
        files, expected = kinds[index]
        recognised = intake.recognise([name for name, _ in files], [data for _, data in files])
        with pytest.raises(InputError, match=expected) as caught:
            intake.load_uploads(files, recognised.kinds, NEEDED)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 400, message
        assert messages.setdefault(index, message) == message, "one message per file"
        del caught
        if turn == len(kinds) - 1:  # after one of each kind, the caches of libraries are filled
            before = resident_kb()
    assert resident_kb() - before < GROWTH_KB
    assert len(set(messages.values())) > 0.8 * len(messages), "files have messages of their own"


@pytest.mark.soak
def test_mutated_uploads_are_read_or_refused():
    draw = np.random.default_rng(3)
    right = {"t2": nifti(brain(2)), "seg": nifti(labels())}
    ends = {InputError: 0, None: 0}
    for _ in range(1000):
        kind = draw.choice(list(right))
        data = bytearray(right[kind])
        for offset in draw.integers(0, 352, draw.integers(1, 4)):
            data[offset] = draw.integers(256)
        data = gzip.compress(data, 1) if draw.random() < 0.5 else bytes(data)
        if draw.random() < 0.2:
            data = data[: draw.integers(len(data))]
        try:
            intake.load_uploads(upload(**{kind: data}), dict(zip(KINDS, range(5))), NEEDED)
            ends[None] += 1
        except InputError as error:
            assert "\n" not in str(error)
            ends[InputError] += 1
    assert min(ends.values()) > 100
