"""Evaluations of files and of records, by the command line and by `workflow`."""

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest

from brats_tfrecord import files, metrics, spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import InputError
from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.preprocess import masks
from brats_tfrecord.workflow import evaluate_and_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def from_files(run_tool, tiny_model, small_cohort, tmp_path_factory):
    """Folder of an evaluation of the whole cohort, the unlabelled case included."""
    root = tmp_path_factory.mktemp("from_files")
    done = run_tool(
        "evaluate.py",
        f"--model={tiny_model}",
        f"--input_dir={small_cohort}",
        f"--output_dir={root}",
        "--write_segmentations",
        "--threshold_baselines",
    )
    assert "select cases, brats2020 rules" in done.stdout
    assert "no case is unseen" in done.stdout and "best single flair threshold" in done.stdout
    assert "evaluating: 5/5 cases, " in done.stderr and "\r" not in done.stderr
    return root


def rows_of(root):
    return {row["case_id"]: row for row in json.loads((root / "metrics.json").read_text())["rows"]}


def test_every_case_has_a_row(from_files):
    rows = rows_of(from_files)
    assert {case_id: row["status"] for case_id, row in rows.items()} == {
        **{f"BraTS20_Training_00{n}": "ok" for n in range(1, 5)},
        "BraTS20_Validation_001": "unlabelled",
    }
    assert sorted(row["use"] for row in rows.values()) == [
        "select",
        "select",
        "train",
        "train",
        "unseen",
    ]
    with open(from_files / "metrics.csv") as stream:
        table = {row["case_id"]: row for row in csv.DictReader(stream)}
    first = "BraTS20_Training_001"
    assert float(table[first]["WT_dice"]) == rows[first]["metrics"]["WT"]["dice"]
    assert table["BraTS20_Validation_001"]["WT_dice"] == ""


def test_metrics_are_those_of_the_written_segmentations(from_files, small_cohort):
    for case in layouts.find_cases(small_cohort):
        path = from_files / "segmentations" / f"{case.case_id}.nii.gz"
        written = nibabel.load(path)
        np.testing.assert_array_equal(written.affine, nibabel.load(case.image("t1")).affine)
        if case.mask is None:
            continue
        scheme = spec.LABEL_SCHEMES["brats2020"]
        truth = masks.to_classes(nifti.read_case(case).mask, scheme, "")
        prediction = masks.to_classes(nifti.read_volume(path)[0].astype(int), scheme, "")
        expected = metrics.case_metrics(truth, prediction, (1, 1, 1))
        for region, values in rows_of(from_files)[case.case_id]["metrics"].items():
            assert values == pytest.approx(expected[region])


def test_records_give_the_same_metrics_as_files(
    from_files, tiny_model, small_dataset, tmp_path, capsys
):
    evaluate_and_report(
        EvaluateOptions(
            model=str(tiny_model),
            data_dir=str(small_dataset),
            fold="all",
            output_dir=str(tmp_path),
            pictures=0,
            compare=str(from_files / "metrics.json"),
        )
    )
    rows, expected = rows_of(tmp_path), rows_of(from_files)
    assert len(rows) == 4
    for case_id, row in rows.items():
        for field in ("crop", "truth_ml", "volumes_ml"):
            assert row[field] == pytest.approx(expected[case_id][field])
        for region in metrics.structures(4):
            assert row["metrics"][region] == pytest.approx(
                expected[case_id]["metrics"][region], abs=1e-6
            )
    assert "the same 2 select cases" in capsys.readouterr().out
    table = json.loads((tmp_path / "metrics.json").read_text())["comparison"]["table"]
    assert table["WT"]["dice"]["difference"] == pytest.approx(0, abs=1e-6)


def test_a_row_has_volumes_confusion_and_stages(from_files, small_cohort):
    row = rows_of(from_files)["BraTS20_Training_001"]
    [case] = [case for case in layouts.find_cases(small_cohort) if case.case_id == row["case_id"]]
    truth = masks.to_classes(nifti.read_case(case).mask, spec.LABEL_SCHEMES["brats2020"], "")
    assert row["truth_ml"] == pytest.approx(
        {
            name: np.isin(truth, members).sum() / 1000
            for name, members in {**spec.REGIONS, "NCR/NET": 1, "ED": 2}.items()
        }
    )
    matrix = np.array(row["confusion"])
    assert matrix.shape == (4, 4) and matrix.sum() == truth.size
    assert matrix[3].sum() == 1000 * row["truth_ml"]["ET"]
    assert matrix[:, 3].sum() == pytest.approx(1000 * row["volumes_ml"]["ET"])
    assert list(row["stages"]) == sorted(
        ["reading", "bias correction", "network", "metrics", "pictures and files"]
    )
    assert sum(row["stages"].values()) == pytest.approx(row["seconds"], abs=0.5)


def test_the_report_loads_nothing_from_elsewhere(from_files):
    text = (from_files / "report.html").read_text()
    assert "data:image/png;base64," in text and "BraTS20_Training_001" in text
    assert "http://" not in text and "https://" not in text and 'src="/' not in text


def test_a_broken_case_is_reported_and_the_others_are_evaluated(
    run_tool, tiny_model, small_cohort, tmp_path
):
    for name in ("BraTS20_Training_001", "BraTS20_Training_002", "BraTS20_Training_003"):
        shutil.copytree(small_cohort / name, tmp_path / "in" / name)
    t2 = tmp_path / "in" / "BraTS20_Training_003" / "BraTS20_Training_003_t2.nii.gz"
    colours = np.zeros(nibabel.load(t2).shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, nibabel.load(t2).affine), t2)
    flair = tmp_path / "in" / "BraTS20_Training_002" / "BraTS20_Training_002_flair.nii.gz"
    flair.write_bytes(flair.read_bytes()[:999])
    done = run_tool(
        "evaluate.py",
        f"--model={tiny_model}",
        f"--input_dir={tmp_path / 'in'}",
        f"--output_dir={tmp_path / 'out'}",
        expect=1,
    )
    assert "failed: " in done.stderr and "BraTS20_Training_002_flair.nii.gz" in done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert "BraTS20_Training_002_flair.nii.gz" in page
    rows = rows_of(tmp_path / "out")
    assert rows["BraTS20_Training_001"]["status"] == "ok"
    assert rows["BraTS20_Training_002"]["status"] == "failed"
    assert "BraTS20_Training_003_t2.nii.gz" in rows["BraTS20_Training_003"]["reason"]


@pytest.fixture(scope="module")
def metastases(small_cohort, tmp_path_factory):
    """One case whose id is of BraTS-MET."""
    root, case_id = tmp_path_factory.mktemp("metastases"), "BraTS-MET-00001-000"
    (root / case_id).mkdir()
    names = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}
    for old, new in names.items():
        source = small_cohort / "BraTS20_Training_001" / f"BraTS20_Training_001_{old}.nii.gz"
        shutil.copy(source, root / case_id / f"{case_id}-{new}.nii.gz")
    return root


@pytest.mark.parametrize(
    "rules, name, note",
    [
        ("brats2023", "brats2023-met", "ules brats2023-met chosen for BraTS-MET"),
        ("brats2020", "brats2020", "the rules brats2020 are of other tumours; --rules=brats2023"),
    ],
)
def test_metastases_are_not_scored_as_glioma_in_silence(
    metastases, tiny_model, tmp_path, capsys, rules, name, note
):
    options = EvaluateOptions(
        model=str(tiny_model),
        input_dir=str(metastases),
        label_scheme="brats2020",
        output_dir=str(tmp_path / "out"),
        rules=rules,
        pictures=0,
    )
    [row] = evaluate_and_report(options)
    assert row.status == "ok"
    assert note in capsys.readouterr().err
    assert note in (tmp_path / "out" / "report.html").read_text()
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert stored["rules"] == stored["identity"]["--rules"] == name
    assert stored["hd95"] == stored["identity"]["HD95"] == metrics.RULE_SETS[name].hd95_definition


HOSTILE = "=<script>alert(1)</script>"


def test_unlabelled_cases_are_segmented_and_names_are_escaped(
    tiny_model, small_cohort, tmp_path, capsys
):
    """The slash is left out of the folder's name, where it would be a separator."""
    for name in ("a", "b", "c", HOSTILE.replace("/", "")):
        folder = tmp_path / "in" / name
        folder.mkdir(parents=True)
        for path in (small_cohort / "BraTS20_Validation_001").iterdir():
            shutil.copy(path, folder / path.name.replace("BraTS20_Validation_001", name))
    options = EvaluateOptions(
        model=str(tiny_model),
        input_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
        write_segmentations=True,
        pictures=2,
    )
    rows = evaluate_and_report(options)
    assert [row.status for row in rows] == ["unlabelled"] * 4
    assert all(row.metrics is None and row.volumes_ml["WT"] > 0 for row in rows)
    assert sorted(path.name for path in (tmp_path / "out/segmentations").iterdir()) == sorted(
        f"{files.safe_file_name(row.case_id)}.nii.gz" for row in rows
    )
    assert "No case has a mask to compare with" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "unlabelled" in page and "<script>alert(1)" not in page
    with open(tmp_path / "out" / "metrics.csv") as stream:
        assert f"'{HOSTILE.replace('/', '')}" in {row["case_id"] for row in csv.DictReader(stream)}


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--data_dir, --input_dir: expected exactly one"),
        (["--input_dir={cohort}", "--fold=0"], "--fold=0: needs --data_dir"),
        (["--data_dir={cohort}"], "is not a dataset"),
        (
            ["--data_dir={dataset}", "--threshold_baselines"],
            "--threshold_baselines: needs --input_dir",
        ),
        (["--input_dir={cohort}", "--output_dir=/dev/null/x"], "cannot be written to"),
        (["--input_dir={cohort}", "--output_dir={cohort}/report"], "lies within --input_dir"),
        (["--data_dir={dataset}", "--fold=7"], "--fold=7: has no case in"),
        (["--data_dir={dataset}", "--fold=x"], "--fold=x: expected a number"),
        (["--input_dir={cohort}", "--model={cohort}"], "holds no SavedModel"),
        (
            ["--data_dir={dataset}", "--compare={dataset}/dataset.json"],
            "is not a metrics.json of evaluate.py, or is damaged (it has no 'rules')",
        ),
        (
            ["--data_dir={dataset}", "--compare={dataset}"],
            "is a folder; expected the metrics.json in",
        ),
    ],
)
def test_bad_flags_write_nothing(tiny_model, small_cohort, small_dataset, tmp_path, flags, message):
    given = {"model": tiny_model, "output_dir": tmp_path / "out"}
    for flag in flags:
        name, _, value = flag.removeprefix("--").partition("=")
        given[name] = value.format(cohort=small_cohort, dataset=small_dataset) or True
    with pytest.raises(InputError) as caught:
        evaluate_and_report(
            EvaluateOptions(
                **{name: value if value is True else str(value) for name, value in given.items()}
            )
        )
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_bad_flag_prints_one_line_and_exits_with_2(run_tool, tiny_model, small_dataset, tmp_path):
    done = run_tool(
        "evaluate.py",
        f"--model={tiny_model}",
        f"--output_dir={tmp_path / 'out'}",
        f"--data_dir={small_dataset}",
        "--compare=missing.json",
        expect=2,
    )
    assert "--compare=missing.json: cannot be read" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
