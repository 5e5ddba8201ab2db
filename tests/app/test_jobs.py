"""Background segmentations, with a stand-in for the network that waits until it may answer."""

import gzip
import threading
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import stand_in

from app import canvas_layers, intake, jobs
from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.segmentation import Segmentation

SHAPE = (6, 7, 8)
GEOMETRY = Geometry(SHAPE, np.diag([2.0, 1, 1, 1]) @ np.diag([-1.0, 1, 1, 1]))


def classes_with_all_labels():
    classes = np.zeros(SHAPE, np.uint8)
    classes[1, 2, 3:6] = spec.NCR, spec.ED, spec.ET
    return classes


def loaded(truth=None, digest="digest"):
    """A case whose lowest plane is air, the rest brain."""
    volumes = np.ones((*SHAPE, 1), np.float32)
    volumes[..., 0, :] = 0
    raw = nifti.RawCase("A", "A", None, "brats2020", ("flair",), volumes, None, GEOMETRY)
    return intake.LoadedCase(raw, truth, digest, 0.5)


class Answering:
    """Segments every case as `classes_with_all_labels`, once `go` is set.

    Attributes:
        started: set when the first case is in the network.
        cases: number of cases segmented.
    """

    def __init__(self, go=False):
        self.go, self.started, self.cases = threading.Event(), threading.Event(), 0
        if go:
            self.go.set()

    def segment_raw(self, raw, progress):
        progress("network")
        self.cases += 1
        self.started.set()
        self.go.wait()
        classes = classes_with_all_labels()
        sure = np.eye(4, dtype=np.float32)[classes] * 0.9 + np.float32(0.025)
        return Segmentation(
            raw.case_id,
            stand_in.model_card(Recipe()),
            classes,
            sure,
            (0, 0, 0),
            raw.geometry,
            ("small",),
            {"network": 0.25},
        )


class Failing:
    def __init__(self, error):
        self.error = error

    def segment_raw(self, raw, progress):
        raise self.error


def finished(job):
    job.wait()
    return job


def segmented(truth=None):
    return finished(jobs.Queue(Answering(go=True)).submit(loaded(truth))).result


def test_result_has_the_native_label_map_figures_and_durations():
    result = segmented(classes_with_all_labels())
    assert [*result.seconds] == ["reading", "network", "metrics", "pictures"]
    assert result.seconds["reading"] == 0.5
    assert {region: result.metrics[region]["dice"] for region in spec.REGIONS} == {
        "WT": 1,
        "TC": 1,
        "ET": 1,
    }
    assert result.volumes_ml == pytest.approx(
        {"WT": 0.006, "TC": 0.004, "ET": 0.002, "NCR/NET": 0.002, "ED": 0.002}
    )
    assert result.extents == () and result.changes == ("small",)  # 6 mm³ are too few to list
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(result.nifti))
    assert image.shape == SHAPE and (image.affine == GEOMETRY.affine).all()
    native = GEOMETRY.from_lps(classes_with_all_labels())
    assert (np.asarray(image.dataobj)[native == spec.ET] == 4).all()


def test_layers_are_prediction_uncertainty_and_probabilities_on_the_grid_of_the_case():
    result = segmented()
    assert [layer.name for layer in result.layers] == [
        "prediction",
        "uncertainty",
        "probability_WT",
        "probability_TC",
        "probability_ET",
    ]
    assert np.array_equal(
        canvas_layers.array_of(result.layers[0], GEOMETRY), classes_with_all_labels()
    )
    entropy, whole, core, enhancing = (
        canvas_layers.array_of(layer, GEOMETRY) for layer in result.layers[1:]
    )
    expected = -(0.925 * np.log(0.925) + 3 * 0.025 * np.log(0.025))
    assert np.allclose(entropy[..., 1:], expected, atol=0.0026)
    assert not entropy[..., 0].any(), "the entropy of air is not shown"
    assert result.layers[1].shown_range == pytest.approx((0, np.log(4)))
    assert np.allclose(whole[1, 2, 3:6], 0.975, atol=0.0026)
    assert np.allclose(core[1, 2, 3:6], (0.95, 0.05, 0.95), atol=0.0026)
    assert np.allclose(enhancing[1, 2, 3:6], (0.025, 0.025, 0.925), atol=0.0026)


def test_metrics_are_none_without_a_truth():
    assert segmented().metrics is None


def test_jobs_report_their_stage_and_wait_for_each_other():
    segmenter = Answering()
    queue = jobs.Queue(segmenter)
    first, second = (queue.submit(loaded(digest=digest)) for digest in "ab")
    segmenter.started.wait()
    assert [name for name, _ in first.progress()] == ["reading", "network"]
    assert [name for name, _ in second.progress()] == ["reading"]
    assert (queue.ahead_of(first), queue.ahead_of(second)) == (0, 1)
    assert not first.done and first.result is None and first.error is None
    segmenter.go.set()
    assert finished(second).result and first.done
    assert queue.ahead_of(second) == 0


def test_cases_of_equal_content_share_one_job():
    segmenter = Answering(go=True)
    queue = jobs.Queue(segmenter)
    job = finished(queue.submit(loaded()))
    again = queue.submit(replace(loaded(), raw=replace(loaded().raw, case_id="another name")))
    assert again is job is queue.find("digest") and segmenter.cases == 1
    assert queue.find("other") is None


def test_a_full_queue_refuses_until_a_job_is_done():
    segmenter = Answering()
    queue = jobs.Queue(segmenter, most_waiting=2)
    held = [queue.submit(loaded(digest=digest)) for digest in "ab"]
    with pytest.raises(InputError, match="2 segmentations are already waiting"):
        queue.submit(loaded(digest="c"))
    assert queue.submit(loaded(digest="a")) is held[0], "a waiting case is not queued twice"
    segmenter.go.set()
    assert all(finished(job).result for job in held)
    assert finished(queue.submit(loaded(digest="c"))).result


def test_least_recently_used_results_are_dropped_above_the_limit():
    size = segmented().size
    queue = jobs.Queue(Answering(go=True), kept_bytes=2 * size + size // 2, disk_bytes=0)
    for digest in "abca":
        finished(queue.submit(loaded(digest=digest)))
    finished(queue.submit(loaded(digest="d")))
    assert [digest for digest in "abcd" if queue.find(digest)] == ["a", "c", "d"]
    # The limit is checked when a case is submitted: now the result of "d" counts too.
    finished(queue.submit(loaded(digest="d")))
    assert [digest for digest in "abcd" if queue.find(digest)] == ["c", "d"]


def test_a_result_that_memory_has_no_room_for_is_restored_from_the_disk():
    segmenter = Answering(go=True)
    queue = jobs.Queue(segmenter, kept_bytes=0)
    results = {digest: finished(queue.submit(loaded(digest=digest))).result for digest in "ab"}
    for digest, result in results.items():
        job = queue.find(digest)
        assert job.done and job.result == result and job.result is not result
        assert queue.submit(loaded(digest=digest)).result == result
    assert segmenter.cases == 2, "none was segmented again"


@pytest.mark.parametrize("error, logged", [(CaseError("A: no t1ce"), 0), (KeyError("bug"), 1)])
def test_errors_are_kept_and_bugs_logged_and_the_case_can_be_submitted_again(caplog, error, logged):
    queue = jobs.Queue(Failing(error))
    job = finished(queue.submit(loaded()))
    assert job.done and job.result is None
    assert job.error is error and error.__traceback__ is None
    assert len(caplog.records) == logged
    assert finished(queue.submit(loaded())) is not job
