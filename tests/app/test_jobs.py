"""Background segmentations, with a stand-in for the network that can be held up."""

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor

import intake
import jobs
import nibabel
import numpy as np
import pytest
import stand_in

from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.errors import CaseError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.segmentation import Segmentation

SHAPE = (6, 7, 8)
GEOMETRY = nifti.Geometry(SHAPE, np.diag([2.0, 1, 1, 1]) @ np.diag([-1.0, 1, 1, 1]))


def classes_with_all_labels():
    classes = np.zeros(SHAPE, np.uint8)
    classes[1, 2, 3:6] = spec.NCR, spec.ED, spec.ET
    return classes


def loaded(truth):
    raw = nifti.RawCase("A", "A", None, "brats2020", ("flair",), np.zeros((*SHAPE, 1), np.float32),
                        None, GEOMETRY)
    return intake.LoadedCase(raw, truth, "digest", 0.5)


class Answering:
    """Segments every case as `classes_with_all_labels`, once it is let go."""

    def __init__(self):
        self.go = threading.Event()

    def segment_raw(self, raw, progress):
        progress("network")
        assert self.go.wait(10)
        card = stand_in.model_card(Recipe())
        return Segmentation(raw.case_id, card, classes_with_all_labels(), None, (0, 0, 0),
                            raw.geometry, (), {"network": 0.25})


class Failing:
    def __init__(self, error):
        self.error = error

    def segment_raw(self, raw, progress):
        raise self.error


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1) as executor:
        yield executor


def finished(job):
    job._future.exception(timeout=10)
    return job


def test_result_holds_native_file_figures_and_seconds(pool, tmp_path):
    segmenter = Answering()
    segmenter.go.set()
    result = finished(jobs.Job(pool, segmenter, loaded(classes_with_all_labels()))).result
    assert [*result.seconds] == ["reading", "network", "metrics"]
    assert result.seconds["reading"] == 0.5
    assert {region: result.metrics[region]["dice"] for region in spec.REGIONS} == {
        "WT": 1, "TC": 1, "ET": 1}
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(result.nifti))
    assert image.shape == SHAPE and (image.affine == GEOMETRY.affine).all()
    native = GEOMETRY.from_lps(classes_with_all_labels())
    assert (np.asarray(image.dataobj)[native == spec.ET] == 4).all()


def test_without_truth_there_are_no_figures(pool):
    segmenter = Answering()
    segmenter.go.set()
    assert finished(jobs.Job(pool, segmenter, loaded(None))).result.metrics is None


def test_jobs_queue_and_tell_their_stage(pool):
    segmenter = Answering()
    first, second = (jobs.Job(pool, segmenter, loaded(None)) for _ in range(2))
    while not first.stages:
        pass
    assert [name for name, _ in first.progress()] == ["reading", "network"]
    assert [name for name, _ in second.progress()] == ["reading"]
    assert not first.done and first.result is None and first.error is None
    segmenter.go.set()
    assert finished(second).result and first.done


@pytest.mark.parametrize("error, logged", [(CaseError("A: no t1ce"), 0), (KeyError("bug"), 1)])
def test_error_is_kept_and_a_bug_is_logged(pool, caplog, error, logged):
    job = finished(jobs.Job(pool, Failing(error), loaded(None)))
    assert job.done and job.result is None
    assert job.error is error and error.__traceback__ is None
    assert len(caplog.records) == logged
