"""The table of volumes, the CSV and the one-page summary of a segmented case."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import stand_in

from app import canvas_layers, downloads, intake, jobs, readings, summary
from app import scene as scenes
from brats_tfrecord import metrics, spec
from brats_tfrecord.metrics import extent
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.missing_modalities import MissingModalities
from brats_tfrecord.serving.recognition import Identity

SHAPE = (48, 40, 36)
HOSTILE = "<script>alert(1)</script>"
CARD = stand_in.model_card(Recipe())


def segmented(case_id=stand_in.CASE, with_truth=True):
    """(`Scene`, `Result`) of a head whose prediction is the truth moved by two voxels."""
    truth, raw = stand_in.raw_case(SHAPE)
    prediction = np.roll(truth, 2, axis=0)
    raw = replace(raw, case_id=case_id)
    case = intake.LoadedCase(
        raw, truth if with_truth else None, "digest", 0.5, ("<b>odd</b>",), ("rounded",)
    )
    layer = canvas_layers.label_layer(
        canvas_layers.PREDICTION, "Prediction", prediction, raw.geometry
    )
    figures = metrics.case_metrics(truth, prediction, (1, 1, 1)) if with_truth else None
    return scenes.prepare(case), jobs.Result(
        b"",
        (layer,),
        extent.volumes_ml(np.bincount(prediction.ravel()), (1, 1, 1)),
        tuple(extent.extents(prediction, (1, 1, 1))),
        figures,
        ("ET of 0.3 mL replaced",),
        ("t1 does not vary", "<b>odd</b>"),
        {"network": 1.0},
    )


def test_table_lists_volumes_and_agreement_of_every_structure():
    scene, result = segmented()
    head, rows = readings.volume_rows(scene, result)
    assert head == ("", "Pred. mL", "Truth mL", "Dice", "HD95 mm")
    names = [re.sub("<[^>]+>", "", row[0]) for row in rows]
    assert names == ["WT", "TC", "ET", "NCR/NET", "ED"]
    for name, row in zip(names, rows):
        figures = result.metrics[name]
        assert row[1:] == (
            f"{result.volumes_ml[name]:.1f}",
            f"{scene.truth_ml[name]:.1f}",
            f"{figures['dice']:.3f}",
            f"{figures['hd95']:.2f}",
        )
    assert spec.CLASS_COLOURS[spec.ED] in rows[4][0] and "style" not in rows[0][0]
    head, rows = readings.volume_rows(*segmented(with_truth=False))
    assert head == ("", "Pred. mL") and len(rows[0]) == 2
    head, _ = readings.volume_rows(scene, None)
    assert head == ("", "Truth mL")


def test_diameters_are_those_of_the_measurable_enhancing_lesions():
    classes = np.full((60, 50, 12), spec.ED, np.uint8)
    whole = extent.extents(classes, (1, 1, 1))
    assert readings.rano_diameters(whole[0]) == "–"
    assert readings.rano_sum(whole) == "RANO: no enhancing lesion above 50 mm³."
    classes[2:8, 2:8, 2:8] = spec.ET  # 6 mm wide
    small = extent.extents(classes, (1, 1, 1))
    assert readings.rano_diameters(small[0]) == "not measurable"
    assert readings.rano_sum(small) == "RANO: 1 enhancing lesion, none measurable."
    classes[20:35, 20, 2:8] = classes[27, 14:27, 2:8] = spec.ET  # a cross, 15 x 13 mm
    [tumour] = extent.extents(classes, (1, 1, 1))
    assert readings.rano_diameters(tumour) == "15.0 × 13.0"
    assert readings.rano_sum([tumour]) == (
        "RANO: 2 enhancing lesions, 1 measurable; sum of the products 195 mm²."
    )


def test_csv_has_all_figures_and_no_cell_that_a_spreadsheet_evaluates():
    scene, result = segmented("=cmd|'/c calc'!A1")
    rows = list(csv.DictReader(io.StringIO(downloads.csv_of(scene, result))))
    assert [row["structure"] for row in rows] == list(result.volumes_ml)
    assert {row["case_id"] for row in rows} == {"'=cmd|'/c calc'!A1"}
    for row in rows:
        assert float(row["truth_ml"]) == pytest.approx(scene.truth_ml[row["structure"]], abs=1e-3)
        assert float(row["dice"]) == result.metrics[row["structure"]]["dice"]


def test_summary_makes_no_request_and_escapes_names():
    page = summary.page_of(*segmented(HOSTILE), CARD)
    assert HOSTILE not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;odd&lt;/b&gt;" in page and "ET of 0.3 mL replaced" in page
    assert page.count("&lt;b&gt;odd&lt;/b&gt;") == 1 and "t1 does not vary" in page
    assert "rounded" in page and "brats2020 (1 NCR/NET, 2 ED, 4 ET)" in page
    assert page.count('src="data:image/png') == 6 and page.count("src=") == 6
    assert not re.search(r"https?://|<script|<link", page)
    assert "not a medical device" in page and "(4 in files)" in page
    assert "{:.1f} × {:.1f}".format(*segmented()[1].extents[0].axial_extent_mm) in page
    assert "RANO: 1 enhancing lesion, " in page
    assert "HD95" not in summary.page_of(*segmented(with_truth=False), CARD)


def test_summary_names_the_brain_channel_of_a_model_that_has_one():
    assert "brain channel" not in summary.page_of(*segmented(), CARD)
    page = summary.page_of(*segmented(), replace(CARD, brain_channel=True))
    assert "reads flair, t1ce, t2 and a brain channel computed from them." in page


def test_summary_says_which_modalities_a_case_may_lack():
    page = summary.page_of(*segmented(), CARD)
    assert "Missing modalities: never trained without one of its modalities." in page
    card = replace(CARD, missing=MissingModalities(0.3, {"": 4}, {"": 2, "t2": 1}))
    text = "trained with modality dropout 0.3; trained on 4 complete cases; validated on 2 complete"
    assert text in summary.page_of(*segmented(), card)


def test_summary_says_how_the_model_used_the_case():
    """The case is uploaded under another name; one modality is enough to recognise it."""
    scene, result = segmented("upload")
    assert "Neither this scan nor its patient was used" in summary.page_of(scene, result, CARD)
    scene = replace(scene, voxels={"t1": "1" * 64, "flair": "2" * 64})
    met = stand_in.model_card(
        Recipe(),
        select_case_ids=("A",),
        identities={"A": Identity("A", {"t2": "9" * 64, "flair": "2" * 64})},
    )
    assert "This scan, under another name, was used to select" in summary.page_of(
        scene, result, met
    )
    older = stand_in.model_card(Recipe(), select_case_ids=("A",))
    page = summary.page_of(scene, result, older)
    assert "No case of this name was used" in page and "names cases by id only" in page


def test_the_rules_of_the_figures_are_named_and_those_of_another_tumour_too():
    assert readings.scoring_of("BraTS20_Training_001") == "Dice and HD95 by the rules of BraTS 2020"
    assert readings.scoring_of("BraTS-MET-00001-000") == (
        "Dice and HD95 by the rules of BraTS 2020: the case ids name BraTS-MET, the rules "
        "brats2020 are of other tumours"
    )
