"""Progress lines in a log file."""

import io

from brats_tfrecord.evaluation import case_progress


def test_lines_have_the_remaining_time_of_cases_that_are_evaluated(monkeypatch):
    now, stream = [100.0], io.StringIO()
    monkeypatch.setattr(case_progress.time, "monotonic", lambda: now[0])
    progress = case_progress.Progress(1000, stream)
    for seconds, restored in ((0, True), (4, False), (4, False), (4, False), (4, False)):
        now[0] += seconds
        progress.advance(restored)
    assert stream.getvalue().splitlines() == [
        "evaluating: 2/1000 cases, 4.0 s a case, ETA 1:06:32",
        "evaluating: 5/1000 cases, 4.0 s a case, ETA 1:06:20",
    ]
