"""Evaluations that are stopped, killed or damaged, and resumed."""

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import stand_in
from tiny_cohorts import listing, wait_for, write_tiny_case

from brats_tfrecord import files, workflow
from brats_tfrecord.errors import CaseError, InputError, Stopped
from brats_tfrecord.evaluation import evaluate as evaluate_module
from brats_tfrecord.evaluation import record_cases, result_store
from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.pieces import Piece
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import convert, manifest, tfrecord
from brats_tfrecord.records.convert_options import ConvertOptions
from brats_tfrecord.report import html
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.serving.predict import Segmenter
from brats_tfrecord.training.network.unet import build_unet

pytestmark = pytest.mark.slow

TOOL = Path(__file__).parents[2] / "tools/evaluate.py"
WAIT_IN_THE_THIRD_CASE = """
import runpy, sys, time
from pathlib import Path
from brats_tfrecord.serving.predict import Segmenter

segment, case_ids = Segmenter.segment_raw, []

def segment_two(self, raw, *args, **more):
    case_ids.append(raw.case_id)
    while len(case_ids) == 3:
        time.sleep(1)
    return segment(self, raw, *args, **more)

Segmenter.segment_raw = segment_two
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
RECIPE = Recipe(
    bias_correction="none", crop="fixed", crop_origin=(1, 1, 1), crop_shape=(22, 18, 14)
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Folder of four tiny cases, the last one without a mask."""
    root = tmp_path_factory.mktemp("cohort")
    for index in range(1, 5):
        folder = write_tiny_case(root, index)
    next(folder.glob("*_seg.nii.gz")).unlink()
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A SavedModel with random weights; all cases are unseen."""
    path = tmp_path_factory.mktemp("model") / "saved_model"
    network = build_unet((None, None, None, 2), 4, (4, 8), (0,) * 3, seed=4)
    export_saved_model(
        network,
        stand_in.model_card(RECIPE, ("flair", "t2"), piece=Piece((8, 8, 8), 2, 10**6)),
        path,
    )
    return path


@pytest.fixture(scope="module", autouse=True)
def loaded_once(model):
    """Loads the model once and writes no HTML, to save time."""
    segmenter = Segmenter(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_module, "Segmenter", lambda *_, **__: segmenter)
        patch.setattr(html, "write_report", lambda path, **_: path.write_text("report"))
        yield


@pytest.fixture(scope="module")
def options(model, cohort):
    """Function (output folder) -> options of an evaluation of the cohort without pictures."""

    def make(output_dir, **more):
        return EvaluateOptions(
            **{
                "model": str(model),
                "input_dir": str(cohort),
                "pictures": 0,
                "output_dir": str(output_dir),
                **more,
            }
        )

    return make


@pytest.fixture(scope="module")
def uninterrupted(options, tmp_path_factory):
    """Output folder of an evaluation that was not interrupted."""
    root = tmp_path_factory.mktemp("uninterrupted")
    workflow.evaluate_and_report(options(root, write_segmentations=True))
    return root


def metrics_csv(root):
    """Rows of metrics.csv without the columns of seconds."""
    with open(root / "metrics.csv", newline="") as stream:
        return [
            {name: cell for name, cell in row.items() if not name.startswith("seconds")}
            for row in csv.DictReader(stream)
        ]


def saved_results(root):
    return sorted(root.glob(".evaluation/*-row.json"))


def start(options, script=None):
    """Starts evaluate.py, or a Python script that runs it."""
    flags = [
        f"--{name}={getattr(options, name)}"
        for name in ("model", "input_dir", "output_dir", "pictures")
    ]
    return subprocess.Popen(
        [
            sys.executable,
            *(("-c", script) if script else ()),
            str(TOOL),
            *flags,
            "--write_segmentations",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def counted(monkeypatch, stop_at=None):
    """Yields a list of segmented case ids; raises KeyboardInterrupt after `stop_at` of them."""
    segmented, segment = [], Segmenter.segment_raw

    def counting(self, raw, *args, **more):
        if len(segmented) == stop_at:
            raise KeyboardInterrupt
        segmented.append(raw.case_id)
        return segment(self, raw, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "segment_raw", counting)
        yield segmented


def stopped_after(count, options, monkeypatch):
    with counted(monkeypatch, stop_at=count), pytest.raises(KeyboardInterrupt):
        workflow.evaluate_and_report(options)


def test_a_killed_evaluation_resumes(options, uninterrupted, tmp_path, monkeypatch):
    process = start(options(tmp_path, pictures=3), WAIT_IN_THE_THIRD_CASE)
    wait_for(lambda: len(saved_results(tmp_path)) == 2, 120)
    process.kill()
    process.communicate()
    assert len(saved_results(tmp_path)) == 2 and not (tmp_path / "metrics.csv").exists()
    with counted(monkeypatch) as segmented:
        workflow.evaluate_and_report(options(tmp_path, write_segmentations=True, pictures=3))
    assert segmented == ["BraTS20_Training_003", "BraTS20_Training_004"]
    assert metrics_csv(tmp_path) == metrics_csv(uninterrupted)
    same = {path: digest for path, digest in listing(uninterrupted).items() if "segment" in path}
    assert len(same) == 4 and same.items() <= listing(tmp_path).items()
    assert set(listing(tmp_path)) == set(listing(uninterrupted)), "the work folder is removed"


@pytest.mark.soak
def test_an_evaluation_killed_at_any_time_resumes(options, uninterrupted, tmp_path):
    rng, moments = random.Random(5), []
    for index in range(20):
        out = tmp_path / str(index)
        process = start(options(out, pictures=3))
        wait_for(lambda out=out: (out / ".evaluation").exists(), 120)
        moments.append(rng.uniform(0, 3))
        time.sleep(moments[-1])
        process.kill()
        process.communicate()
        workflow.evaluate_and_report(options(out, write_segmentations=True, pictures=3))
        assert metrics_csv(out) == metrics_csv(uninterrupted), f"killed after {moments[-1]:.2f} s"
        assert set(listing(out)) == set(listing(uninterrupted))


@pytest.mark.soak
@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_stops_and_says_how_to_resume(options, tmp_path, sent, code):
    process = start(options(tmp_path, pictures=3), WAIT_IN_THE_THIRD_CASE)
    wait_for(lambda: len(saved_results(tmp_path)) == 2, 120)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in errors
    assert (
        "2 of 4 cases are finished and saved" in errors and "run the same command again" in errors
    )
    assert "\r" not in errors and "evaluating: 1/4 cases, " in errors and "ETA 0:00:" in errors


def test_an_interrupted_evaluation_resumes(options, uninterrupted, tmp_path, monkeypatch, capsys):
    stopped_after(2, options(tmp_path), monkeypatch)
    assert "stopped; 2 of 4 cases are finished and saved" in capsys.readouterr().err
    with counted(monkeypatch) as segmented:
        workflow.evaluate_and_report(options(tmp_path))
    assert segmented == ["BraTS20_Training_003", "BraTS20_Training_004"]
    assert metrics_csv(tmp_path) == metrics_csv(uninterrupted)
    assert not (tmp_path / ".evaluation").exists()


def test_other_options_are_refused_while_work_is_unfinished(options, cohort, tmp_path, monkeypatch):
    shutil.copytree(cohort / "BraTS20_Training_001", tmp_path / "in" / "BraTS20_Training_001")
    root = tmp_path / "out"
    stopped_after(2, options(root), monkeypatch)
    saved = saved_results(root)
    for changes, difference in (
        ({"rules": "nnunet"}, "--rules was brats2020, now nnunet"),
        ({"input_dir": str(tmp_path / "in")}, "1 of its 2 cases are not among the 1 to evaluate"),
    ):
        with pytest.raises(
            InputError,
            match=(
                f"--output_dir={root}: holds unfinished work of another evaluation: {difference}; "
                "choose another folder"
            ),
        ):
            workflow.evaluate_and_report(options(root, **changes))
    assert saved_results(root) == saved
    with counted(monkeypatch) as segmented:
        workflow.evaluate_and_report(options(root))
    assert len(segmented) == 2


def test_the_report_of_another_evaluation_is_not_overwritten(
    options, uninterrupted, cohort, tmp_path
):
    shutil.copytree(uninterrupted, tmp_path / "out")
    shutil.copytree(cohort / "BraTS20_Training_001", tmp_path / "in" / "BraTS20_Training_001")
    before = listing(tmp_path / "out")
    for changes, difference in (
        ({"rules": "nnunet"}, "--rules was brats2020, now nnunet"),
        (
            {"input_dir": str(tmp_path / "in")},
            "3 of its 4 cases are not among the 1 to evaluate; choose another",
        ),
    ):
        with pytest.raises(
            InputError, match=(f"holds the report of another evaluation: {difference}")
        ):
            workflow.evaluate_and_report(options(tmp_path / "out", **changes))
    assert listing(tmp_path / "out") == before


def test_cases_without_a_requested_picture_are_evaluated_again(options, tmp_path, monkeypatch):
    stopped_after(2, options(tmp_path), monkeypatch)
    with counted(monkeypatch) as segmented:
        workflow.evaluate_and_report(options(tmp_path, pictures=2))
    assert len(segmented) == 4


def test_a_case_whose_files_changed_is_evaluated_again(options, cohort, tmp_path, monkeypatch):
    shutil.copytree(cohort, tmp_path / "in")
    chosen = options(tmp_path / "out", input_dir=str(tmp_path / "in"))
    stopped_after(2, chosen, monkeypatch)
    first, third = (
        tmp_path / "in" / name / f"{name}_flair.nii.gz"
        for name in ("BraTS20_Training_001", "BraTS20_Training_003")
    )
    shutil.copy(third, first)
    with counted(monkeypatch) as segmented:
        workflow.evaluate_and_report(chosen)
    assert [name[-3:] for name in segmented] == ["001", "003", "004"]


def test_temporary_files_of_a_killed_process_are_removed(options, uninterrupted, tmp_path):
    names = (".metrics.csv", "segmentations/.a.nii.gz", ".evaluation/.a-row.json")
    orphans = [tmp_path / f"{name}.29809-8ce1caa4.tmp" for name in names]
    others = [tmp_path / ".notes.tmp", tmp_path / "training/.a.29809-8ce1caa4.tmp"]
    for path in (*orphans, *others):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"cut off")
    workflow.evaluate_and_report(options(tmp_path))
    assert not any(path.exists() for path in orphans) and all(path.exists() for path in others)


def test_two_evaluations_into_one_folder_are_refused(options, tmp_path):
    with (
        result_store.open_store(tmp_path, {}, []),
        pytest.raises(InputError, match="another evaluation is writing to this folder"),
    ):
        workflow.evaluate_and_report(options(tmp_path))


def test_a_full_disk_stops_the_evaluation(options, tmp_path, monkeypatch):
    write_bytes = files.write_bytes

    def full(path, data):
        if path.name.endswith("picture.png"):
            raise OSError(28, os.strerror(28), str(path))
        write_bytes(path, data)

    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(Stopped, match="the disk is full; free some space and run the same command"):
        workflow.evaluate_and_report(options(tmp_path, pictures=1))


def test_a_drawing_error_is_a_warning(options, uninterrupted, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise ValueError("no canvas")

    monkeypatch.setattr(workflow, "case_png", broken)
    workflow.evaluate_and_report(options(tmp_path, pictures=3))
    assert "no picture (ValueError: no canvas)" in capsys.readouterr().err
    assert metrics_csv(tmp_path) == metrics_csv(uninterrupted)


@pytest.fixture(scope="module")
def dataset(cohort, tmp_path_factory):
    """A dataset of the labelled cases in one shard."""
    root = tmp_path_factory.mktemp("dataset")
    convert.convert(
        ConvertOptions(
            str(cohort),
            str(root),
            folds=1,
            jobs=1,
            cases_per_shard=3,
            bias_correction="none",
            crop="fixed",
            crop_window="1:23,1:19,1:15",
        )
    )
    return root


@pytest.mark.parametrize("damage", ["payload", "length"])
def test_only_the_damaged_record_fails(options, dataset, uninterrupted, tmp_path, capsys, damage):
    shutil.copytree(dataset, tmp_path / "data")
    case = manifest.load(tmp_path / "data").cases[1]
    shard = tmp_path / "data" / case.shard
    data = bytearray(shard.read_bytes())
    length = case.record_offset - tfrecord.HEADER_BYTES
    data[length if damage == "length" else case.record_offset + case.record_bytes // 2] ^= 0xFF
    shard.write_bytes(data)
    rows = workflow.evaluate_and_report(
        options(tmp_path / "out", data_dir=str(tmp_path / "data"), input_dir=None)
    )
    assert [row.status for row in rows] == ["ok", "failed", "ok"]
    message = f"failed: {case.case_id}: its record cannot be read from {shard}"
    assert message in capsys.readouterr().err
    expected = {row["case_id"]: row for row in metrics_csv(uninterrupted)}
    for row in metrics_csv(tmp_path / "out"):
        if row["status"] == "ok":
            assert row == expected[row["case_id"]]


def test_the_record_of_another_case_is_refused(dataset, model, monkeypatch):
    stored = manifest.load(dataset)
    first, second, *others = stored.cases
    moved = replace(second, record_offset=first.record_offset, record_bytes=first.record_bytes)
    swapped = replace(stored, cases=[first, moved, *others])
    monkeypatch.setattr(record_cases.manifest, "load", lambda _: swapped)
    case = record_cases.from_dataset(dataset, "0", cards.read(model)).cases[1]
    message = f"{second.case_id}: its record cannot be read from .*is of case {first.case_id}"
    with pytest.raises(CaseError, match=message):
        case.segment(None)


def test_records_and_files_give_the_same_metrics_if_the_crop_holds_the_brain(
    options, dataset, uninterrupted, tmp_path
):
    rows = workflow.evaluate_and_report(options(tmp_path, data_dir=str(dataset), input_dir=None))
    expected = {
        row["case_id"]: row
        for row in json.loads((uninterrupted / "metrics.json").read_text())["rows"]
    }
    assert len(rows) == 3
    for row in rows:
        assert row.crop == {"brain": 0, "tumour": 0}
        for field in ("metrics", "volumes_ml", "truth_ml", "crop"):
            assert getattr(row, field) == expected[row.case_id][field], field
