"""The text and the structure of the HTML report, read by a parser."""

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from brats_tfrecord import metrics, spec
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.metrics import rano
from brats_tfrecord.report import charts, figures, html
from brats_tfrecord.report.gallery import Picture

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
HOSTILE = "<script>alert(1)</script>"
QUOTING = '"><img src=x onerror=alert(1)>'
HEADER = {
    "evaluated": "set/a, fold 0",
    "model_sha256": "1f3a5c7e9b2d4f60aa",
    "dataset": None,
    "model_modalities": ["flair", "t1ce"],
    "members": 3,
    "flips": True,
    "recipe": {"crop": [[1, 9], [2, 8]]},
    "versions": {"brats_tfrecord": "0.1.0"},
}
RULES = metrics.RULE_SETS["brats2020"]


@pytest.fixture(autouse=True)
def small_charts(monkeypatch):
    """Replaces the charts, which have tests of their own, by small figures to save time."""
    figure = figures.new_figure(0.1, 0.1)
    for name in ("distribution_figure", "volume_figure", "pairs_figure"):
        monkeypatch.setattr(charts, name, lambda *_: figure)


class Page(HTMLParser):
    """Collects visible text, rows of table cells, scripts and addresses."""

    def __init__(self, source):
        super().__init__()
        self.source, self.text, self.scripts, self.addresses, self.tags = source, "", [], [], []
        self.inside, self.in_cell, self.rows = None, False, []
        self.feed(source)
        self.text = re.sub(r"\s+", " ", self.text)
        self.rows = [[re.sub(r"\s+", " ", cell).strip() for cell in row] for row in self.rows]

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        self.inside = None
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.text += data + " "
            if self.in_cell:
                self.rows[-1][-1] += data + " "


def result(case_id, use="unseen", dice=0.8125, rule_set=RULES, **fields):
    values = dict.fromkeys(rule_set.metrics, 2.0) | {"dice": dice, "sensitivity": None}
    volumes = {"WT": 24.75, "TC": 4.5, "ET": 3.0, "NCR/NET": 1.5, "ED": 20.25}
    return case_results.CaseResult(
        case_id,
        case_id,
        None,
        use,
        "ok",
        **(
            {
                "metrics": dict.fromkeys(metrics.structures(4), values),
                "volumes_ml": volumes,
                "truth_ml": {name: volume + 1 for name, volume in volumes.items()},
                "confusion": [[9000, 0, 5, 0], [0, 30, 10, 0], [20, 0, 80, 0], [0, 0, 0, 0]],
                "crop": {"brain": 0.0625, "tumour": 0.0},
                "stages": {"predict": 3.0, "metrics": 1.0},
                "seconds": 4.5,
            }
            | fields
        ),
    )


def page(tmp_path, rows, **options):
    path = tmp_path / "report.html"
    html.write_report(
        path, **({"header": HEADER, "rows": rows, "rule_set": RULES, "pictures": []} | options)
    )
    return Page(path.read_text(encoding="utf-8"))


def entry(difference, low, high, p=0.04, differing=7, patients=12):
    return {
        "here": 0.8,
        "there": 0.8 - difference,
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "differing": differing,
        "patients": patients,
        "n": 7,
    }


def comparison(**changes):
    entries = dict.fromkeys(RULES.metrics, entry(0.1, -0.1, 0.3)) | changes
    return SimpleNamespace(
        other={"model_sha256": "77" * 32, "evaluated": HOSTILE},
        use="unseen",
        cases=7,
        only_here=2,
        only_there=0,
        met_there=1,
        table=dict.fromkeys(spec.REGIONS, entries),
        pairs={region: [("a", 0.8, 0.7)] for region in spec.REGIONS},
    )


def test_headline_has_mean_interval_median_deviation_and_n_of_unseen_cases(tmp_path):
    read = page(
        tmp_path, [result("a", dice=0.7), result("b", dice=0.8), result("c", use="train", dice=1.0)]
    )
    headline, used = read.text.split("Not the headline")
    assert "2 cases of 2 patients that were not used to train or select" in headline
    whole = next(row for row in read.rows if row[0] == "WT whole tumour")
    assert whole[1] == "0.750 [0.700, 0.800]* median 0.750 SD 0.071, n 2"
    column = 1 + RULES.metrics.index("sensitivity")
    assert whole[column] == "– no interval median – SD –, n 0", (
        "sensitivity, undefined in every case"
    )
    assert "1.000" not in headline.split("How to read the table")[0]
    assert "train: used to fit the model" in used
    edema = next(row for row in read.rows if row[0] == "ED peritumoral edema")
    assert edema[1].startswith("0.750 [0.700, 0.800]")


def test_subtitle_names_model_and_data(tmp_path):
    text = page(tmp_path, [result("a")]).text
    assert re.search(
        r"Model 1f3a5c7e9b2d on flair, t1ce, 3 networks averaged, averaged over "
        r"flips\. Evaluated on set/a, fold 0 : 1 case: 1 compared",
        text,
    )
    assert "model sha256 1f3a5c7e9b2d4f60aa" in text and "dataset –" in text
    assert "recipe crop [1, 9], [2, 8]" in text and "versions brats tfrecord 0.1.0" in text
    with_brain = page(tmp_path, [], header=HEADER | {"brain_channel": True}).text
    assert "on flair, t1ce and a brain channel, 3 networks averaged" in with_brain
    assert "Model without a fingerprint" in page(tmp_path, [], header={}).text


@pytest.mark.parametrize("name", metrics.RULE_SETS)
def test_rules_are_printed_below_every_table_of_metrics(tmp_path, name):
    rule_set = metrics.RULE_SETS[name]
    rows = [result("a", rule_set=rule_set), result("b", "train", rule_set=rule_set)]
    read = page(tmp_path, rows, rule_set=rule_set, baselines=[("threshold", {"WT": 0.5})])
    # regions, classes, baselines, cases that trained, every case
    assert read.text.count(f"Rules {name} : {rule_set.text}") == 5
    assert ("Lesion by lesion" in read.text) == ("lesion_dice" in rule_set.metrics)
    assert ("Missed / false lesions" in read.text) == ("lesion_dice" in rule_set.metrics)
    for metric in rule_set.metrics:
        assert metrics.METRIC_TITLES[metric] in read.text


def test_without_unseen_cases_there_is_no_headline(tmp_path):
    read = page(tmp_path, [result("a", use="select")])
    headline, used = read.text.split("Not the headline")
    assert "There is no headline" in headline and "0.812" not in headline
    assert "select: used to choose the best epoch" in used and "0.812" in used


def test_failed_cases_come_first_and_unlabelled_ones_are_marked(tmp_path):
    read = page(
        tmp_path,
        [
            case_results.CaseResult("a", "a", None, "unseen", "unlabelled", volumes_ml={"WT": 4.0}),
            case_results.CaseResult("b", "b", None, "unseen", "failed", f"b_t1.nii.gz: {HOSTILE}"),
        ],
    )
    assert "There are no metrics" in read.text and "was segmented without metrics" in read.text
    assert (
        f"1 case failed and is not included in the results below: b : b_t1.nii.gz: {HOSTILE}"
        in read.text
    )
    assert read.text.index("1 case failed") < read.text.index("Research use only")
    cases = [row for row in read.rows if row[0] in ("a", "b")]
    assert [row[3] for row in cases] == ["failed", "unlabelled"] and "4.0" in cases[1]
    assert '<tr class="failed">' in read.source and '<tr class="unlabelled">' in read.source


def test_a_warning_is_printed_once_with_its_cases(tmp_path):
    odd = "affine of the images is a bare identity: left and right may be swapped"
    rows = [result(f"case {k}", warnings=(odd,)) for k in range(1, 7)]
    rows[0] = result("case 1", warnings=(odd, HOSTILE))
    read = page(tmp_path, rows)
    assert f"case 1, case 2, case 3, case 4 and 2 others : {odd}" in read.text
    assert f"case 1 : {HOSTILE}" in read.text and read.text.count(odd) == 1
    assert "Warnings about" not in page(tmp_path, [result("case 1")]).text


def test_a_row_has_metrics_volumes_crop_and_seconds(tmp_path):
    read = page(tmp_path, [result("a")])
    row = next(row for row in read.rows if row[0] == "a")
    assert row == [
        "a",
        "–",
        "unseen",
        "ok",
        *["0.812"] * 3,
        *["2.00"] * 3,
        *["–"] * 3,
        "24.8 / 25.8",
        "4.5 / 5.5",
        "3.0 / 4.0",
        "6.2 %",
        "0.0 %",
        "4.5",
    ]


def test_an_evaluation_without_cases_is_a_page(tmp_path):
    assert "There are no metrics" in page(tmp_path, []).text


def test_confusion_has_shares_by_row_except_for_the_background(tmp_path):
    rows = page(tmp_path, [result("a"), result("b")]).rows
    start = next(k for k, row in enumerate(rows) if row[0] == "Truth")
    assert rows[start + 2] == ["background", "18 000", "0", "10", "0"]
    assert rows[start + 3] == ["NCR/NET", "0.0 % 0", "75.0 % 60", "25.0 % 20", "0.0 % 0"]
    assert rows[start + 5] == ["ET", "0", "0", "0", "0"], "no share without true voxels"
    assert rows[start + 6][1:] == ["–", "100.0 %", "84.2 %", "–"]


def test_volumes_crop_losses_and_times_are_summarised(tmp_path):
    rows = page(tmp_path, [result("a"), result("b", crop={"brain": 0.1, "tumour": 1e-6})]).rows
    bias = "−1.00 [−1.00, −1.00]"
    assert ["WT whole tumour", "25.8", "24.8", bias, "–", "–"] in rows
    assert ["unseen", "brain", "2", "2", "8.12 %", "10.00 %", "b"] in rows
    assert ["", "tumour", "2", "1", "< 0.01 %", "< 0.01 %", "b"] in rows
    assert ["predict", "2", "3.00", "3.00", "75.0 %"] in rows


def test_comparison_has_intervals_p_values_and_verdicts(tmp_path):
    read = page(
        tmp_path,
        [result("a")],
        comparison=comparison(
            dice=entry(0.1, 0.02, 0.2, 0.0004),
            hd95=entry(2.0, 1.0, 3.0),
            assd=entry(0.5, None, None),
            volume_error_ml=entry(0.5, 0.2, 0.9),
        ),
    )
    row = next(row for row in read.rows if row[0] == "WT whole tumour" and "against" in row[1])
    assert row[1] == "+0.100 [+0.020, +0.200] better 0.800 against 0.700 p < 0.001, n 7"
    assert row[2].startswith("+2.00 [+1.00, +3.00] worse") and "p 0.040" in row[2]
    assert row[4].startswith("+0.50 no interval 0.80 against"), "ASSD"
    assert "better" not in row[7] and "worse" not in row[7], "a volume error has no better sign"
    assert "model 777777777777" in read.text and f"evaluated on {HOSTILE}" in read.text
    assert (
        "7 cases of the headline are compared; 2 cases with metrics only here and 0 only there"
        in read.text
    )
    assert "1 of these cases trained or selected the other model" in read.text


@pytest.mark.parametrize(
    "p, differing, low, verdict",
    [
        (0.03, 7, 0.02, "better"),
        (None, 5, 0.02, ""),  # five of 20 patients differ: p cannot be below 0.0625
        (0.05, 7, 0.02, ""),
        (0.03, 7, -0.02, ""),
    ],
)
def test_a_verdict_needs_interval_and_test(tmp_path, p, differing, low, verdict):
    change = entry(0.1, low, 0.2, p, differing, patients=20)
    read = page(tmp_path, [result("a")], comparison=comparison(dice=change))
    row = next(row for row in read.rows if row[0] == "WT whole tumour" and "against" in row[1])
    assert ("better" in row[1]) == (verdict == "better") and "worse" not in row[1]
    assert ("5 of 20 differ" in row[1]) == (differing == 5)


@pytest.mark.parametrize("count, marked", [(9, True), (10, False)])
def test_intervals_of_fewer_than_ten_patients_are_marked(tmp_path, count, marked):
    rows = [result(f"p{n}", dice=0.5 + n / 20) for n in range(count)]
    narrow = entry(0.1, -0.1, 0.3, patients=count)
    compared = comparison(**dict.fromkeys(RULES.metrics, narrow))
    read = page(tmp_path, rows, comparison=compared)
    headline, other = (
        next(row for row in read.rows if row[0] == "WT whole tumour" and text in row[1])
        for text in ("median", "against")
    )
    assert ("]*" in headline[1]) == ("]*" in other[1]) == marked
    # regions, classes, comparison
    assert read.text.count("* An interval from fewer than 10 patients is too narrow") == 3 * marked


def test_diameters_of_prediction_and_truth_are_listed(tmp_path):
    def measured(*values):
        return dataclasses.asdict(rano.TumourBurden(*values))

    rows = [
        result(
            "a",
            rano=measured(3, 1, 21.54, 12.0, 258.48),
            truth_rano=measured(1, 0, None, None, 0.0),
        ),
        result("b", rano=measured(0, 0, None, None, 0.0)),
    ]
    read = page(tmp_path, rows)
    start = next(k for k, row in enumerate(read.rows) if "largest (mm)" in row)
    assert read.rows[start + 1 : start + 3] == [
        ["a", "unseen", "1 of 3", "21.5 × 12.0", "258", "0 of 1", "not measurable", "0"],
        ["b", "unseen", "0 of 0", "–", "0", "–", "–", "–"],
    ]
    assert "both at least 10 mm" in read.text and "#rano" in read.addresses
    assert "Diameters of the enhancing" not in page(tmp_path, [result("a")]).text


def test_text_from_outside_is_escaped(tmp_path):
    row = case_results.CaseResult(HOSTILE, HOSTILE, HOSTILE, "unseen", "failed", HOSTILE)
    scored = [
        result(
            name, post_processing=(name,), stages={name: 1.0}, crop={"brain": 0.1, "tumour": 0.1}
        )
        for name in (HOSTILE, QUOTING)
    ]
    read = page(
        tmp_path,
        [row, *scored],
        header={
            HOSTILE: HOSTILE,
            "map": {HOSTILE: HOSTILE},
            "list": [HOSTILE],
            "evaluated": QUOTING,
            "model_sha256": HOSTILE,
        },
        pictures=[Picture(HOSTILE, HOSTILE, HOSTILE, PNG), Picture(QUOTING, QUOTING, QUOTING, PNG)],
        baselines=[(HOSTILE, {"WT": 0.5})],
        comparison=comparison(),
    )
    assert read.text.count(HOSTILE) >= 16
    assert len(read.scripts) == 1 and "alert" not in read.scripts[0]
    assert read.tags.count("script") == 1 and read.tags.count("img") == 5
    assert "x" not in read.addresses


def test_the_page_loads_nothing_and_allows_only_its_own_script(tmp_path):
    read = page(tmp_path, [result("a")], pictures=[Picture("a", "WT: worst", "FLAIR", PNG)])
    assert read.addresses and all(
        address.startswith(("data:image/png;base64,", "#")) for address in read.addresses
    )
    assert "http:" not in read.source and "https:" not in read.source
    own = base64.b64encode(hashlib.sha256(read.scripts[0].encode()).digest()).decode()
    assert (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src "
        f"'sha256-{own}'" in read.source
    )


def test_links_within_the_page_have_targets(tmp_path):
    read = page(
        tmp_path,
        [result("a")],
        pictures=[Picture("a", "WT: worst", "FLAIR", PNG)],
        comparison=comparison(),
    )
    links = [address[1:] for address in read.addresses if address.startswith("#")]
    assert len(links) == 9 and all(f'id="{link}"' in read.source for link in links)


def test_baselines_are_listed_below_the_model(tmp_path):
    rows = page(tmp_path, [result("a")], baselines=[("FLAIR threshold", {"WT": 0.61})]).rows
    assert ["this model", "0.812", "0.812", "0.812"] in rows
    assert ["FLAIR threshold", "0.610", "–", "–"] in rows


def test_pictures_have_their_headings_and_captions(tmp_path):
    text = page(
        tmp_path, [result("a")], pictures=[Picture("a", "WT: worst, ET: median", "Dice 0.5", PNG)]
    ).text
    assert "WT: worst ET: median a Dice 0.5" in text


def test_pictures_beyond_the_size_limit_are_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "MAX_PICTURE_BYTES", 2 * len(PNG))
    pictures = [Picture(name, "WT: worst", f"caption {name}", PNG) for name in "abc"]
    read = page(tmp_path, [result("a")], pictures=pictures)
    assert "caption b" in read.text and "caption c" not in read.text
    assert "1 more picture left out" in read.text


@pytest.mark.parametrize("rows", [[], [result("a"), result("b")]])
def test_the_same_input_gives_the_same_bytes(tmp_path, rows):
    first, second = (tmp_path / name for name in "12")
    for path in (first, second):
        html.write_report(path, header=HEADER, rows=rows, rule_set=RULES, pictures=[])
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.browser
def test_the_table_of_cases_sorts_and_does_not_widen_the_page(tmp_path, chromium):
    page(
        tmp_path,
        [
            result("b10", dice=0.25),
            result("b9", dice=None),
            result("b2", dice=0.5),
            case_results.CaseResult("x" * 200, "x", None, "unseen", "failed", "y" * 500),
        ],
    )
    console = []
    tab = chromium.new_page(viewport={"width": 700, "height": 600})
    tab.on("console", lambda message: console.append(message.text))
    tab.goto((tmp_path / "report.html").as_uri())

    def order():
        return [name[:3] for name in tab.locator("#cases tbody td:first-child").all_inner_texts()]

    heads = tab.locator("#cases th[data-sort] button")
    orders = [order()]
    for column in (0, 0, 4, 4):  # the case, the Dice of WT
        heads.nth(column).click()
        orders.append(order())
    width = tab.evaluate("document.documentElement.scrollWidth")
    tab.close()
    assert orders == [
        ["xxx", "b10", "b9", "b2"],
        ["b2", "b9", "b10", "xxx"],
        ["xxx", "b10", "b9", "b2"],
        ["b10", "b2", "xxx", "b9"],
        ["b2", "b10", "xxx", "b9"],
    ]
    assert width == 700 and not console


def test_dice_is_shown_by_missing_modalities(tmp_path):
    rows = [result("a", dice=0.5), result("b", missing=("t1ce", "t2")), result("c", use="train")]
    shown = page(tmp_path, rows, header={**HEADER, "modalities_dropped": ["t1ce", "t2"]})
    assert ["nothing", "1", "0.500", "0.500", "0.500"] in shown.rows
    assert ["t1ce, t2", "1", "0.812", "0.812", "0.812"] in shown.rows
    assert "Every case was segmented as if it lacked t1ce, t2" in shown.text
    assert "Mean Dice by missing modalities" not in page(tmp_path, [result("a")]).text
