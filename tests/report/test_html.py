"""The HTML report as a parser reads it: what it says, and what it must never hold."""

import re
from html.parser import HTMLParser

import pytest

from brats_tfrecord.report import html, tables

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
HOSTILE = "<script>alert(1)</script>"
HEADER = {"model_sha256": "1f3a", "modalities": ["flair", "t1ce"], "dataset": None,
          "versions": {"brats_tfrecord": "0.1.0"}}


class Page(HTMLParser):
    """Collects the text that a reader sees, the scripts and every address."""

    def __init__(self, source):
        super().__init__()
        self.text, self.scripts, self.addresses, self.tags = "", [], [], []
        self.inside = None
        self.feed(source)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside = tag
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.text += data + " "


def result(case_id, use="unseen", dice=0.8125):
    figure = {"dice": dice, "hd95": 2.5, "sensitivity": None, "specificity": 0.99}
    return tables.CaseResult(case_id, case_id, None, use, "ok",
                             metrics={"WT": figure, "TC": figure, "ET": figure},
                             volumes_ml={"NCR/NET": 1.5, "ED": 20.25, "ET": 3.0})


def page(tmp_path, rows, **options):
    path = tmp_path / "report.html"
    html.write_report(path, **({"header": HEADER, "rows": rows, "pictures": []} | options))
    assert path.stat().st_size < 10 << 20
    return Page(path.read_text(encoding="utf-8"))


def test_headline_counts_the_unseen_and_names_the_rules(tmp_path):
    read = page(tmp_path, [result("a", dice=0.7), result("b", dice=0.8),
                           result("c", use="train", dice=1.0)])
    headline, rest = read.text.split("Not the headline")
    assert "2 cases of 2 patients that neither trained nor selected" in headline
    assert "0.750 ± 0.071" in headline and "1.000" not in headline
    assert "train: the model was fitted to them" in rest and "1.000" in rest
    assert "0.750" not in rest
    assert "Rules: brats2020" in rest and "373.12866" in rest
    assert "Research use only." in headline
    assert "model sha256 1f3a" in rest and "flair, t1ce" in rest
    assert "brats_tfrecord 0.1.0" in rest and "dataset –" in rest


def test_without_unseen_cases_there_is_no_headline(tmp_path):
    read = page(tmp_path, [result("a", use="select")])
    headline, rest = read.text.split("Not the headline")
    assert "There is no headline" in headline and "0.812" not in headline
    assert "select: chose the best epoch" in rest and "0.812" in rest


def test_unlabelled_and_failed_cases_are_told(tmp_path):
    read = page(tmp_path, [
        tables.CaseResult("a", "a", None, "unseen", "unlabelled", volumes_ml={"ED": 4.0}),
        tables.CaseResult("b", "b", None, "unseen", "failed", f"b_t1.nii.gz: {HOSTILE}"),
    ])
    assert "There are no figures" in read.text and "segmented without metrics" in read.text
    assert f"1 case failed and counts in no figure below: b : b_t1.nii.gz: {HOSTILE}" in read.text


def test_an_empty_evaluation_is_still_a_page(tmp_path):
    assert "There are no figures" in page(tmp_path, []).text


def test_names_from_outside_stay_text(tmp_path):
    row = tables.CaseResult(HOSTILE, HOSTILE, HOSTILE, "unseen", "failed", HOSTILE)
    quoting = '"><img src=x onerror=alert(1)>'
    read = page(tmp_path, [row, result(HOSTILE), result(quoting)],
                header={HOSTILE: HOSTILE, "map": {HOSTILE: HOSTILE}, "list": [HOSTILE]},
                pictures=[(HOSTILE, HOSTILE, PNG), (quoting, quoting, PNG)],
                baselines=[(HOSTILE, {"WT": 0.5})])
    assert read.text.count(HOSTILE) >= 10
    assert len(read.scripts) == 1 and "alert" not in read.scripts[0]
    assert read.tags.count("script") == 1 and read.tags.count("img") == 3
    assert "x" not in read.addresses


def test_nothing_is_fetched(tmp_path):
    read = page(tmp_path, [result("a")], pictures=[("a", "FLAIR", PNG)])
    assert read.addresses and all(
        address.startswith(("data:image/png;base64,", "#")) for address in read.addresses)


def test_baselines_stand_beside_the_network(tmp_path):
    read = page(tmp_path, [result("a")], baselines=[("FLAIR threshold", {"WT": 0.61})])
    assert "this model 0.812 0.812 0.812 FLAIR threshold 0.610 – –" in read.text


def test_pictures_beyond_the_budget_are_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "MAX_PICTURE_BYTES", 2 * len(PNG))
    pictures = [(name, f"caption {name}", PNG) for name in "abc"]
    read = page(tmp_path, [result("a")], pictures=pictures)
    assert "caption b" in read.text and "caption c" not in read.text
    assert "1 more picture left out" in read.text


@pytest.mark.parametrize("rows", [[], [result("a")]])
def test_the_same_input_gives_the_same_bytes(tmp_path, rows):
    first, second = (tmp_path / name for name in "12")
    for path in (first, second):
        html.write_report(path, header=HEADER, rows=rows, pictures=[])
    assert first.read_bytes() == second.read_bytes()
