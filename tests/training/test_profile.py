import itertools
import re

import pytest

from brats_tfrecord.training import profile
from brats_tfrecord.training.train_options import TrainOptions

pytestmark = pytest.mark.slow


def test_steps_and_loader_are_timed_and_nothing_is_written(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "STEPS", 3)
    quarters = itertools.count()
    monkeypatch.setattr(profile.time, "perf_counter", lambda: next(quarters) / 4)
    table = profile.profile(
        TrainOptions(
            str(dataset.root), str(tmp_path / "model"), filters="2,4", patch_size=8, epochs=1
        )
    )
    for name in ("step with real input", "step with one batch, repeated", "loader alone"):
        seconds, volumes = map(float, re.search(rf"^{name} +(\S+) +(\S+)$", table, re.M).groups())
        assert (seconds, volumes) == (0.25, 8)  # batches of two; the clock ticks once a step
    assert "Waiting for input: 0.0% of the step. The " in table
    assert not (tmp_path / "model").exists()


def test_slow_calls_are_timed_for_a_minute(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(profile.time, "perf_counter", lambda: now[0])

    def slow():
        calls.append(1)
        now[0] += 12 if len(calls) > profile.WARM_UP else 90  # the first calls build the graph

    assert profile.median_seconds(slow, "slow") == 12
    assert len(calls) == profile.WARM_UP + 6  # the sixth call ends after 72 s
