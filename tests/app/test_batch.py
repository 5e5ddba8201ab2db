"""A folder's cases segmented in the background, with a network made by hand."""

import csv
import io
import shutil
import threading
import time

import nibabel
import numpy as np
import pytest
import stand_in
from tiny_cohorts import wait_for

from app import batch, cohort_page, intake, jobs
from brats_tfrecord.cohort import layouts
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.segmentation import Segmentation

SHAPE = (24, 20, 16)


class Finding:
    """Finds the tumour of `stand_in.head` in every case, or fails on the one called `bad`."""

    def __init__(self, bad=None):
        self.bad, self.seen = bad, []

    def segment_raw(self, raw, progress):
        self.seen.append(raw.case_id)
        if raw.case_id == self.bad:
            raise ZeroDivisionError("a bug")
        progress("network")
        classes, _ = stand_in.head(SHAPE)
        sure = np.eye(4, dtype=np.float32)[classes]
        return Segmentation(
            raw.case_id,
            stand_in.model_card(Recipe()),
            classes,
            sure,
            (0, 0, 0),
            raw.geometry,
            (),
            {"network": 0.25},
        )


@pytest.fixture
def cases(tmp_path):
    """Three cases without truth, the second one's FLAIR cut short."""
    _, volumes = stand_in.head(SHAPE)
    stand_in.write_case(tmp_path, volumes)
    for number in (2, 3):
        name = f"BraTS20_Training_{number:03d}"
        folder = shutil.copytree(tmp_path / stand_in.CASE, tmp_path / name)
        for path in folder.iterdir():
            path.rename(path.with_name(path.name.replace(stand_in.CASE, name)))
        image = nibabel.Nifti1Image(volumes[..., 0] + np.int16(number), stand_in.LPS)
        nibabel.save(image, folder / f"{name}_t1.nii.gz")
    flair = tmp_path / "BraTS20_Training_002" / "BraTS20_Training_002_flair.nii.gz"
    flair.write_bytes(flair.read_bytes()[:2000])
    return layouts.find_cases(tmp_path)


def finished(found):
    found.start()
    deadline = time.monotonic() + 30
    while found.running and time.monotonic() < deadline:
        time.sleep(0.01)
    return list(found.rows.values())


def test_every_case_gets_its_row_and_a_damaged_one_its_reason(cases, caplog):
    found = batch.Batch(cases, jobs.Queue(Finding(bad="BraTS20_Training_003")), False)
    assert [row.status for row in found.rows.values()] == [batch.OPEN] * 3
    first, second, third = finished(found)
    classes, _ = stand_in.head(SHAPE)
    assert first.status == batch.DONE and first.dice is None and first.seconds > 0.25
    assert first.volumes_ml["WT"] == pytest.approx(np.count_nonzero(classes) / 1000)
    assert second.status == batch.FAILED and "truncated or damaged" in second.reason
    assert third.status == batch.FAILED and third.reason == "ZeroDivisionError"
    assert len(caplog.records) >= 1, "a bug is logged"


def test_what_is_done_is_not_done_again_and_what_failed_is(cases):
    segmenter = Finding(bad="BraTS20_Training_003")
    found = batch.Batch(cases, jobs.Queue(segmenter), False)
    finished(found)
    segmenter.bad, segmenter.seen = None, []
    first, second, third = finished(found)
    assert segmenter.seen == ["BraTS20_Training_003"]
    assert [row.status for row in (first, second, third)] == [batch.DONE, batch.FAILED, batch.DONE]


def test_stopped_it_leaves_the_rest_open(cases):
    found = batch.Batch(cases, jobs.Queue(Finding()), False)
    found.stop()
    found._run()
    assert [row.status for row in found.rows.values()] == [batch.OPEN] * 3


def test_told_to_stop_it_says_so_until_the_case_at_hand_is_done(cases):
    segmenter, begun, gate = Finding(), threading.Event(), threading.Event()

    def wait_and_fail(raw, progress):
        begun.set()
        gate.wait(30)
        raise ZeroDivisionError

    segmenter.segment_raw = wait_and_fail
    found = batch.Batch(cases, jobs.Queue(segmenter), False)
    found.start()
    begun.wait(30)
    assert found.busy and not found.stopping
    found.stop()
    assert found.stopping
    gate.set()
    wait_for(lambda: not found.running)
    assert not found.stopping and not found.busy
    assert [row.status for row in found.rows.values()] == [batch.FAILED, batch.OPEN, batch.OPEN]


def test_a_case_segmented_by_hand_gets_its_row_though_nobody_looks_at_it(cases):
    segmenter, gate = Finding(bad="BraTS20_Training_003"), threading.Event()
    queue = jobs.Queue(segmenter)
    queue._pool.submit(gate.wait, 30)  # keeps what follows waiting
    found = batch.Batch(cases, queue, False)
    for case_id in ("BraTS20_Training_001", "BraTS20_Training_003"):
        job = queue.submit(intake.load_case(found.cases[case_id], any_spacing=False))
        found.follow(case_id, job)
    assert [row.status for row in found.rows.values()] == [batch.RUNNING, batch.OPEN, batch.RUNNING]
    assert found.busy and not found.running
    gate.set()
    job.wait()
    wait_for(lambda: not found.busy)
    first, _, third = found.rows.values()
    assert first.status == batch.DONE and first.volumes_ml["WT"] > 0
    assert third.status == batch.FAILED and third.reason == "ZeroDivisionError"


def test_table_as_csv(cases):
    found = batch.Batch(cases, jobs.Queue(Finding()), False)
    finished(found)
    rows = list(csv.DictReader(io.StringIO(cohort_page.csv_of(found.rows))))
    assert [row["case_id"] for row in rows] == ["BraTS20_Training_001", "BraTS20_Training_003"]
    assert float(rows[0]["WT_ml"]) == pytest.approx(
        found.rows[rows[0]["case_id"]].volumes_ml["WT"], abs=1e-3
    )
    assert rows[0]["WT_dice"] == ""
