"""Segmentation of all cases of a folder, with a stand-in for the network."""

import csv
import gc
import io
import re
import shutil
import threading
import tracemalloc
import zipfile
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import stand_in
from tiny_cohorts import wait_for

from app import batch, cohort_page, intake, jobs
from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.segmentation import Segmentation

SHAPE = (24, 20, 16)


class FakeSegmenter:
    """Segments every case as `stand_in.head`; fails on the case `bad`.

    Attributes:
        seen: ids of the cases it was given.
        started: set when it has been given a case.
        go: it answers only while this is set, as it is at first.
    """

    def __init__(self, bad=None):
        self.bad, self.seen = bad, []
        self.started, self.go = threading.Event(), threading.Event()
        self.go.set()

    def segment_raw(self, raw, progress):
        self.seen.append(raw.case_id)
        self.started.set()
        self.go.wait()
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


def run_all(cohort):
    """Segments all cases; returns the rows."""
    cohort.start()
    wait_for(lambda: not cohort.running, 600)
    return list(cohort.rows.values())


def test_rows_show_volumes_or_the_reason_of_a_failure(cases, caplog):
    cohort = batch.Batch(cases, jobs.Queue(FakeSegmenter(bad="BraTS20_Training_003")), False)
    assert [row.status for row in cohort.rows.values()] == [batch.OPEN] * 3
    first, second, third = run_all(cohort)
    classes, _ = stand_in.head(SHAPE)
    assert first.status == batch.DONE and first.dice is None and first.seconds > 0.25
    assert first.volumes_ml["WT"] == pytest.approx(np.count_nonzero(classes) / 1000)
    assert second.status == batch.FAILED and "truncated or damaged" in second.reason
    assert third.status == batch.FAILED and third.reason == "ZeroDivisionError"
    assert len(caplog.records) >= 1, "a bug is logged"


def test_a_second_run_segments_only_the_cases_that_failed(cases):
    segmenter = FakeSegmenter(bad="BraTS20_Training_003")
    cohort = batch.Batch(cases, jobs.Queue(segmenter), False)
    run_all(cohort)
    segmenter.bad, segmenter.seen = None, []
    first, second, third = run_all(cohort)
    assert segmenter.seen == ["BraTS20_Training_003"]
    assert [row.status for row in (first, second, third)] == [batch.DONE, batch.FAILED, batch.DONE]


def test_stop_finishes_the_current_case_and_leaves_the_others_open(cases):
    segmenter = FakeSegmenter()
    segmenter.go.clear()
    cohort = batch.Batch(cases, jobs.Queue(segmenter), False)
    cohort.start()
    segmenter.started.wait()
    assert cohort.busy and not cohort.stopping
    cohort.stop()
    assert cohort.stopping
    segmenter.go.set()
    wait_for(lambda: not cohort.running, 600)
    assert not cohort.stopping and not cohort.busy
    assert [row.status for row in cohort.rows.values()] == [batch.DONE, batch.OPEN, batch.OPEN]


def test_a_case_segmented_by_hand_gets_its_row_even_if_no_page_shows_it(cases):
    segmenter = FakeSegmenter(bad="BraTS20_Training_003")
    segmenter.go.clear()
    queue = jobs.Queue(segmenter)
    cohort = batch.Batch(cases, queue, False)
    for case_id in ("BraTS20_Training_001", "BraTS20_Training_003"):
        job = queue.submit(intake.load_case(cohort.cases[case_id], any_spacing=False))
        cohort.follow(case_id, (), job)
    statuses = [row.status for row in cohort.rows.values()]
    assert statuses == [batch.RUNNING, batch.OPEN, batch.RUNNING]
    assert cohort.busy and not cohort.running
    segmenter.go.set()
    wait_for(lambda: not cohort.busy)
    first, _, third = cohort.rows.values()
    assert first.status == batch.DONE and first.volumes_ml["WT"] > 0
    assert third.status == batch.FAILED and third.reason == "ZeroDivisionError"


def test_label_maps_are_written_to_the_folder_and_offered_as_a_zip(cases, tmp_path):
    queue = jobs.Queue(FakeSegmenter())
    cohort = batch.Batch(cases, queue, False, tmp_path / "out")
    run_all(cohort)
    classes, _ = stand_in.head(SHAPE)
    names = [f"BraTS20_Training_{number:03d}_prediction.nii.gz" for number in (1, 3)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        image = nibabel.load(tmp_path / "out" / name)
        assert (image.affine == stand_in.LPS).all()
        assert ((np.asarray(image.dataobj) == 4) == (classes == spec.ET)).all()
    with zipfile.ZipFile(io.BytesIO(cohort.archive())) as archive:
        assert archive.namelist() == names
        for name in names:
            assert archive.read(name) == (tmp_path / "out" / name).read_bytes()


def test_a_map_is_written_once_however_often_a_page_shows_its_case(cases, tmp_path):
    queue = jobs.Queue(FakeSegmenter())
    cohort = batch.Batch(cases, queue, False, tmp_path / "out")
    job = queue.submit(intake.load_case(cases[0], any_spacing=False))
    job.wait()
    cohort.enter(cases[0].case_id, (), job.result)
    [path] = (tmp_path / "out").iterdir()
    path.write_bytes(b"corrected by hand")
    cohort.enter(cases[0].case_id, (), job.result)
    assert path.read_bytes() == b"corrected by hand"


def test_a_folder_that_cannot_be_written_fails_the_row_with_its_reason(cases, tmp_path):
    (tmp_path / "file").touch()
    cohort = batch.Batch(cases, jobs.Queue(FakeSegmenter()), False, tmp_path / "file" / "out")
    first, _, _ = run_all(cohort)
    assert first.status == batch.FAILED
    assert re.search(r"segmented, but --output_dir=.*/file/out cannot be written \(", first.reason)


@pytest.mark.soak
def test_three_hundred_cases_take_no_more_memory_than_thirty(tmp_path):
    _, volumes = stand_in.head(SHAPE)
    first = stand_in.write_case(tmp_path, volumes)
    many = []
    for number in range(300):
        path = tmp_path / f"{number}_t1.nii"
        nibabel.save(nibabel.Nifti1Image(volumes[..., 0] + np.int16(number), stand_in.LPS), path)
        images = {**first.images, "t1": path}
        many.append(replace(first, case_id=f"病例 {number}", images=images))
    queue = jobs.Queue(FakeSegmenter(), kept_bytes=50_000)
    rows, memory = [], []
    tracemalloc.start()
    for count in (30, 300):
        cohort = batch.Batch(many[:count], queue, False, tmp_path / "out")
        rows = run_all(cohort)
        gc.collect()
        memory.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert {row.status for row in rows} == {batch.DONE}
    assert len(list((tmp_path / "out").iterdir())) == len(cohort.saved_label_maps()) == 300
    assert memory[1] - memory[0] < 270 * 4_000, "a row and where its result lies, no volumes"


def test_table_as_csv(cases):
    cohort = batch.Batch(cases, jobs.Queue(FakeSegmenter()), False)
    run_all(cohort)
    rows = list(csv.DictReader(io.StringIO(cohort_page.csv_of(cohort.rows))))
    assert [row["case_id"] for row in rows] == ["BraTS20_Training_001", "BraTS20_Training_003"]
    assert float(rows[0]["WT_ml"]) == pytest.approx(
        cohort.rows[rows[0]["case_id"]].volumes_ml["WT"], abs=1e-3
    )
    assert rows[0]["WT_dice"] == ""
