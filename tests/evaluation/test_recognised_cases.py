"""Scans that trained the model are recognised under another id, in other files and in records."""

import csv
import json
import shutil

import pytest
import stand_in
from recognised_scans import EXPECTED, SELECTED, TRAINED, chosen

from brats_tfrecord import workflow
from brats_tfrecord.errors import InputError
from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.records import convert, manifest
from brats_tfrecord.serving import card as cards

pytestmark = pytest.mark.slow


def evaluate(model, output_dir, **options):
    """Runs an evaluation; returns case id -> (use, recognised_by) of metrics.json."""
    workflow.evaluate_and_report(
        EvaluateOptions(model=str(model), output_dir=str(output_dir), pictures=0, **options)
    )
    rows = json.loads((output_dir / "metrics.json").read_text())["rows"]
    return {row["case_id"]: (row["use"], row["recognised_by"]) for row in rows}


def table(output_dir):
    with open(output_dir / "metrics.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_files_are_recognised_by_id_voxels_and_patient(recognised, tmp_path, capsys):
    assert evaluate(recognised / "model", tmp_path, input_dir=str(recognised / "cohort")) == (
        EXPECTED
    )
    assert {row["case_id"]: (row["use"], row["recognised_by"]) for row in table(tmp_path)} == {
        case_id: (use, by or "") for case_id, (use, by) in EXPECTED.items()
    }
    output = capsys.readouterr().out
    assert "BraTS-GLI-00101-000 is not unseen: the same scan, under another id, trained" in output
    assert "BraTS-GLI-00104-000 is not unseen: the same scan, under another id, selected" in output
    assert "BraTS-GLI-00001-001 is not unseen: another scan of its patient trained" in output
    assert "\n1 unseen case, " in output and f"{TRAINED} is not unseen" not in output
    page = (tmp_path / "report.html").read_text()
    assert "5 cases are not unseen, although the model knows no case of this name" in page
    assert "(recognised by case id, same scan, patient)" in page
    assert page.count('<div class="quiet">by same scan</div>') == 4


def test_records_are_recognised_as_their_files(recognised, tmp_path):
    convert.convert(chosen(recognised / "cohort", tmp_path / "dataset"))
    rows = evaluate(
        recognised / "model", tmp_path / "out", data_dir=str(tmp_path / "dataset"), fold="all"
    )
    assert rows == EXPECTED


def test_a_failed_case_is_recognised_by_the_images_that_can_be_read(recognised, tmp_path):
    name = "BraTS-GLI-00101-000"
    shutil.copytree(recognised / "cohort" / name, tmp_path / "in" / name)
    flair = tmp_path / "in" / name / f"{name}-t2f.nii.gz"
    flair.write_bytes(flair.read_bytes()[:999])
    rows = evaluate(recognised / "model", tmp_path / "out", input_dir=str(tmp_path / "in"))
    assert rows == {name: ("train", "same scan")}
    assert [row["status"] for row in table(tmp_path / "out")] == ["failed"]


def test_an_older_card_recognises_ids_only_and_the_report_says_so(recognised, tmp_path, capsys):
    """A card of schema 3 is read as one without identities."""
    stand_in.save_thresholds(
        tmp_path / "model",
        cards.read(recognised / "model").recipe,
        dict.fromkeys(stand_in.MODALITIES, 0.3),
        train_case_ids=(TRAINED,),
        select_case_ids=(SELECTED,),
    )
    rows = evaluate(tmp_path / "model", tmp_path, input_dir=str(recognised / "cohort"))
    assert rows == {
        case_id: ("train", "case id") if case_id == TRAINED else ("unseen", None)
        for case_id in EXPECTED
    }
    sentence = "the model's card is of an older version and names cases by id only"
    assert sentence in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert sentence.replace("'", "&#39;") in page and "(recognised by case id)" in page


def test_the_comparison_is_about_the_cases_that_are_unseen_by_voxels(recognised, tmp_path, capsys):
    """By their names all cases but one are unseen; by their voxels only the last one is."""
    cohort, model = recognised / "cohort", recognised / "model"
    for name in ("BraTS-GLI-00101-000", "BraTS-GLI-00105-000"):
        shutil.copytree(cohort / name, tmp_path / name / name)
        evaluate(model, tmp_path / f"out-{name}", input_dir=str(tmp_path / name))

    def compared_with(name, output_dir):
        other = tmp_path / f"out-{name}" / "metrics.json"
        evaluate(model, tmp_path / output_dir, input_dir=str(cohort), compare=str(other))

    with pytest.raises(InputError, match="none of its 1 cases with metrics is among the 1 comp"):
        compared_with("BraTS-GLI-00101-000", "refused")
    compared_with("BraTS-GLI-00105-000", "compared")
    assert "the same 1 unseen case" in capsys.readouterr().out


def test_a_training_fills_the_card(tiny_model, small_dataset):
    """The tiny model of all rooms' tests, made by the real tools."""
    card, dataset = cards.read(tiny_model), manifest.load(small_dataset)
    used = [case for case in dataset.cases if case.labelled]
    assert not card.recognises_by_id_only and len(used) == 4
    for case in used:
        identity = card.identities[case.case_id]
        assert identity.patient_id == case.patient_id and identity.voxels == case.voxels
        assert sorted(identity.voxels) == ["flair", "t1", "t1ce", "t2"]
        assert card.recognise("x", "x", {"t2": case.voxels["t2"]}).by == "same scan"
    assert SELECTED not in card.identities
