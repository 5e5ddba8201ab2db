"""Long evaluations that are stopped, killed or damaged, and run again."""

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
from pathlib import Path

import pytest
from tiny_cohorts import listing, wait_for, write_tiny_case

from brats_tfrecord import workflow
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.evaluation import evaluate as evaluation
from brats_tfrecord.evaluation import examine, result_store
from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import convert, manifest, tfrecord
from brats_tfrecord.records.convert_options import ConvertOptions
from brats_tfrecord.report import html
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.serving.predict import Segmenter
from brats_tfrecord.training.network.unet import build_unet

TOOL = Path(__file__).parents[2] / "tools/evaluate.py"
RECIPE = Recipe(
    bias_correction="none", crop="fixed", crop_origin=(0, 0, 0), crop_shape=(14, 16, 12)
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
    """A SavedModel with random weights, which has met none of the cases."""
    path = tmp_path_factory.mktemp("model") / "saved_model"
    network = build_unet((None, None, None, 2), 4, (4, 8), (0,) * 3, seed=4)
    export_saved_model(
        network,
        ModelCard(RECIPE, ("flair", "t2"), "brats2020", "classes", 2, 10**6, "f" * 64, (), (), {}),
        path,
    )
    return path


@pytest.fixture(scope="module", autouse=True)
def loaded_once(model):
    """The model loads once, and nothing is laid out: pages and figures have tests of their own."""
    segmenter = Segmenter(model, cover="window")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "Segmenter", lambda *_, **__: segmenter)
        patch.setattr(html, "write_report", lambda path, **_: path.write_text("report"))
        yield


@pytest.fixture(scope="module")
def options(model, cohort):
    """Function (output folder) -> the options of one evaluation of the cohort."""

    def of(output_dir, **more):
        return EvaluateOptions(
            **{
                "model": str(model),
                "input_dir": str(cohort),
                "pictures": 0,
                "output_dir": str(output_dir),
                **more,
            }
        )

    return of


@pytest.fixture(scope="module")
def unbroken(options, tmp_path_factory):
    """Folder of an evaluation that nothing happened to."""
    root = tmp_path_factory.mktemp("unbroken")
    workflow.evaluate_and_report(options(root, write_segmentations=True))
    return root


def figures(root):
    """metrics.csv but for the seconds."""
    with open(root / "metrics.csv", newline="") as stream:
        return [
            {name: cell for name, cell in row.items() if not name.startswith("seconds")}
            for row in csv.DictReader(stream)
        ]


def rows_kept(root):
    return sorted(root.glob(".evaluation/*-row.json"))


def start(options):
    flags = [
        f"--{name}={getattr(options, name)}"
        for name in ("model", "input_dir", "output_dir", "pictures")
    ]
    return subprocess.Popen(
        [sys.executable, str(TOOL), *flags, "--write_segmentations"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def counted(monkeypatch, stop_at=None):
    """Gives a list that grows by each case segmented; Ctrl-C comes when it has `stop_at`."""
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


def test_killed_at_work_the_rerun_ends_as_if_unbroken(options, unbroken, tmp_path, monkeypatch):
    process = start(options(tmp_path, pictures=3))
    wait_for(lambda: rows_kept(tmp_path), 120)
    process.kill()
    process.communicate()
    kept = len(rows_kept(tmp_path))
    assert 1 <= kept < 4 and not (tmp_path / "metrics.csv").exists()
    with counted(monkeypatch) as segmented:
        workflow.evaluate_and_report(options(tmp_path, write_segmentations=True, pictures=3))
    assert len(segmented) == 4 - kept
    assert figures(tmp_path) == figures(unbroken)
    same = {path: digest for path, digest in listing(unbroken).items() if "segment" in path}
    assert len(same) == 4 and same.items() <= listing(tmp_path).items()
    assert set(listing(tmp_path)) == set(listing(unbroken)), "the work folder is gone"


@pytest.mark.soak
def test_killed_at_twenty_moments(options, unbroken, tmp_path):
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
        assert figures(out) == figures(unbroken), f"killed after {moments[-1]:.2f} s"
        assert set(listing(out)) == set(listing(unbroken))


@pytest.mark.soak
@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_says_how_to_go_on(options, tmp_path, sent, code):
    process = start(options(tmp_path, pictures=3))
    wait_for(lambda: rows_kept(tmp_path), 120)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in errors
    assert "of 4 cases are done and kept" in errors and "run the same command again" in errors
    assert "\r" not in errors and "evaluating: 1/4 cases, " in errors and "ETA 0:00:" in errors


def test_interrupted_the_rerun_goes_on(options, unbroken, tmp_path, monkeypatch, capsys):
    stopped_after(2, options(tmp_path), monkeypatch)
    assert "stopped; 2 of 4 cases are done and kept" in capsys.readouterr().err
    with counted(monkeypatch) as segmented:
        workflow.evaluate_and_report(options(tmp_path))
    assert segmented == ["BraTS20_Training_003", "BraTS20_Training_004"]
    assert figures(tmp_path) == figures(unbroken)
    assert not (tmp_path / ".evaluation").exists()


def test_another_evaluation_takes_nothing_from_a_stopped_one(
    options, cohort, tmp_path, monkeypatch
):
    shutil.copytree(cohort / "BraTS20_Training_001", tmp_path / "in" / "BraTS20_Training_001")
    root = tmp_path / "out"
    stopped_after(2, options(root), monkeypatch)
    kept = rows_kept(root)
    for other, difference in (
        ({"rules": "nnunet"}, "--rules was brats2020, now nnunet"),
        ({"cover": "brain"}, "--cover was window, now brain"),
        ({"input_dir": str(tmp_path / "in")}, "1 of its 2 cases are not among the 1 here"),
    ):
        with pytest.raises(
            InputError,
            match=(
                f"--output_dir={root}: holds unfinished work of another evaluation: {difference}; "
                "name another folder"
            ),
        ):
            workflow.evaluate_and_report(options(root, **other))
    assert rows_kept(root) == kept
    with counted(monkeypatch) as segmented:
        workflow.evaluate_and_report(options(root))
    assert len(segmented) == 2


def test_nothing_is_written_over_another_report(options, unbroken, cohort, tmp_path):
    shutil.copytree(unbroken, tmp_path / "out")
    shutil.copytree(cohort / "BraTS20_Training_001", tmp_path / "in" / "BraTS20_Training_001")
    before = listing(tmp_path / "out")
    for other, difference in (
        ({"rules": "nnunet"}, "--rules was brats2020, now nnunet"),
        (
            {"input_dir": str(tmp_path / "in")},
            "3 of its 4 cases are not among the 1 here; name another",
        ),
    ):
        with pytest.raises(
            InputError, match=(f"holds the report of another evaluation: {difference}")
        ):
            workflow.evaluate_and_report(options(tmp_path / "out", **other))
    assert listing(tmp_path / "out") == before


def test_pictures_asked_for_later_are_drawn(options, tmp_path, monkeypatch):
    stopped_after(2, options(tmp_path), monkeypatch)
    with counted(monkeypatch) as segmented:
        workflow.evaluate_and_report(options(tmp_path, pictures=2))
    assert len(segmented) == 4


def test_what_changed_meanwhile_is_done_again(options, cohort, tmp_path, monkeypatch):
    shutil.copytree(cohort, tmp_path / "in")
    chosen = options(tmp_path / "out", input_dir=str(tmp_path / "in"))
    stopped_after(2, chosen, monkeypatch)
    first, other = (
        tmp_path / "in" / name / f"{name}_flair.nii.gz"
        for name in ("BraTS20_Training_001", "BraTS20_Training_003")
    )
    shutil.copy(other, first)
    with counted(monkeypatch) as segmented:
        workflow.evaluate_and_report(chosen)
    assert [name[-3:] for name in segmented] == ["001", "003", "004"]


def test_what_a_killed_writer_left_is_removed(options, unbroken, tmp_path):
    names = (".metrics.csv", "segmentations/.a.nii.gz", ".evaluation/.a-row.json")
    left = [tmp_path / f"{name}.29809-8ce1caa4.tmp" for name in names]
    others = [tmp_path / ".notes.tmp", tmp_path / "training/.a.29809-8ce1caa4.tmp"]
    for path in (*left, *others):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"cut off")
    workflow.evaluate_and_report(options(tmp_path))
    assert not any(path.exists() for path in left) and all(path.exists() for path in others)


def test_two_evaluations_into_one_folder_are_refused(options, tmp_path):
    with (
        result_store.opened(tmp_path, {}, []),
        pytest.raises(InputError, match="another evaluation writes there"),
    ):
        workflow.evaluate_and_report(options(tmp_path))


def test_a_full_disk_is_no_cases_fault(options, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28), "x")

    monkeypatch.setattr(examine.files, "write_bytes", full)
    with pytest.raises(Stopped, match="the disk is full; make room and run the same command"):
        workflow.evaluate_and_report(options(tmp_path, pictures=1))


def test_a_picture_that_cannot_be_drawn_costs_only_itself(
    options, unbroken, tmp_path, monkeypatch, capsys
):
    def broken(*_):
        raise ValueError("no canvas")

    monkeypatch.setattr(examine.figures, "case_figure", broken)
    workflow.evaluate_and_report(options(tmp_path, pictures=3))
    assert "no picture (ValueError: no canvas)" in capsys.readouterr().err
    assert figures(tmp_path) == figures(unbroken)


@pytest.fixture(scope="module")
def dataset(cohort, tmp_path_factory):
    """The labelled cases as records of one shard."""
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
            crop_window="0:14,0:16,0:12",
        )
    )
    return root


def record_ends(shard):
    end, ends = 0, []
    for record in tfrecord.framed_records(shard):
        end += len(record)
        ends.append(end)
    return ends


@pytest.mark.parametrize("damage, lost", [("payload", [1]), ("length", [1, 2])])
def test_a_damaged_record_costs_only_what_cannot_be_read(
    options, dataset, unbroken, tmp_path, capsys, damage, lost
):
    shutil.copytree(dataset, tmp_path / "data")
    [shard] = manifest.load(tmp_path / "data").shard_paths([0])
    data, ends = bytearray(shard.read_bytes()), record_ends(shard)
    data[ends[0] + (3 if damage == "length" else (ends[1] - ends[0]) // 2)] ^= 0xFF
    shard.write_bytes(data)
    rows = workflow.evaluate_and_report(
        options(tmp_path / "out", data_dir=str(tmp_path / "data"), input_dir=None)
    )
    assert [index for index, row in enumerate(rows) if row.status == "failed"] == lost
    errors = capsys.readouterr().err
    for index in lost:
        assert f"failed: {rows[index].case_id}: its record cannot be read from {shard}" in errors
    expected = {row["case_id"]: row for row in figures(unbroken)}
    for row in figures(tmp_path / "out"):
        if row["status"] == "ok":
            assert row == expected[row["case_id"]]


def test_records_and_files_give_the_same_figures_crop_and_volumes(
    options, dataset, unbroken, tmp_path
):
    rows = workflow.evaluate_and_report(options(tmp_path, data_dir=str(dataset), input_dir=None))
    twins = {
        row["case_id"]: row for row in json.loads((unbroken / "metrics.json").read_text())["rows"]
    }
    assert len(rows) == 3
    for row in rows:
        assert 0 < row.crop["brain"] < 1 and 0 < row.crop["tumour"] < 1
        for field in ("metrics", "volumes_ml", "truth_ml", "crop"):
            assert getattr(row, field) == twins[row.case_id][field], field


def test_a_name_never_leaves_its_folder():
    assert examine.file_name("BraTS20 <script>alert(1)</script>") == (
        "BraTS20 <script>alert(1)<%2Fscript>"
    )
    assert examine.file_name("../../etc/x%2F") == "%2E.%2F..%2Fetc%2Fx%252F"
