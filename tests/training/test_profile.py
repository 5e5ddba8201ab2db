import re

from brats_tfrecord.training import profile
from brats_tfrecord.training.train_options import TrainOptions


def test_the_table_tells_steps_and_loader_and_leaves_the_folder_alone(
    dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(profile, "STEPS", 3)
    table = profile.profile(
        TrainOptions(
            str(dataset.root), str(tmp_path / "model"), filters="2,4", patch_size=8, epochs=1
        )
    )
    for name in ("step with real input", "step with one batch, repeated", "loader alone"):
        seconds, volumes = map(float, re.search(rf"^{name} +(\S+) +(\S+)$", table, re.M).groups())
        assert 1.8 < seconds * volumes < 2.2  # batches of two, rounded
    assert re.search(r"Waiting for input: \d+\.\d% of the step\. The ", table)
    assert not (tmp_path / "model").exists()


def test_slow_steps_are_timed_for_a_minute(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(profile.time, "perf_counter", lambda: now[0])

    def slow():
        calls.append(1)
        now[0] += 12 if len(calls) > profile.WARM_UP else 90  # the first ones build the graph

    assert profile._times("slow", slow) == 12
    assert len(calls) == profile.WARM_UP + 6  # 72 s are over the minute
