"""The page in Streamlit's AppTest, and from start to end in a real browser."""

import gzip
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from functools import cache, partial
from pathlib import Path

import browser
import nibabel
import numpy as np
import pytest
import stand_in
import streamlit
from recognised_scans import EXPECTED
from streamlit.testing.v1 import AppTest
from tiny_uploads import brain, nifti, upload, zeros_gz, zipped

from app import uploads, viewer
from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts
from brats_tfrecord.cohort.case import RELEASE_2023_SUFFIXES
from brats_tfrecord.cohort.nifti import read_case
from brats_tfrecord.metrics import extent
from brats_tfrecord.phantom import generate
from brats_tfrecord.preprocess import masks
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving import predict

pytestmark = pytest.mark.slow

CASE = "BraTS20_Training_001"
HEAD = (56, 48, 40)

load_once = cache(predict.Segmenter)


@pytest.fixture
def start(monkeypatch):
    """Runs the page with command-line flags, with the server option for loopback set.

    Streamlit's caches are cleared, so that no test finds the results of another; only the loaded
    model is shared.
    """
    streamlit.config.set_option("server.address", "127.0.0.1")
    streamlit.cache_resource.clear()
    monkeypatch.setattr(predict, "Segmenter", load_once)

    def run(*flags):
        monkeypatch.setattr(sys, "argv", [str(browser.VIEWER), *flags])
        return AppTest.from_file(str(browser.VIEWER), default_timeout=60).run()

    yield run
    streamlit.config.set_option("server.address", None)


@pytest.fixture
def page(start, tiny_model, small_cohort):
    """The page with a model and a cohort, before a case is chosen."""
    return start(f"--model={tiny_model}", f"--cases_dir={small_cohort}")


def canvas_of(page):
    """The arguments of the canvas."""
    [component] = page.get("component_instance")
    return json.loads(component.proto.json_args)


def layer_names(page):
    return [layer["name"] for layer in canvas_of(page)["layers"]]


def pictures(page):
    return [image.value[0] for image in page.get("image")]


def text(page):
    """The text of the tables of volumes."""
    words = " ".join(re.sub("<[^>]+>", " ", element.proto.body) for element in page.get("html"))
    return " ".join(words.split())


def errors(page):
    return [error.value.replace("\\", "") for error in page.error]


def choose(page, case_id=CASE):
    page.selectbox(key="case").set_value(case_id).run()
    assert not errors(page) and not page.exception
    return page


def segmented(page):
    """Presses the button and waits for the background job."""
    page.button(key="segment").click().run()
    deadline = time.monotonic() + 60
    while page.button(key="segment").label != "Segmented" and time.monotonic() < deadline:
        time.sleep(0.2)
        page.run()
    assert not errors(page) and not page.exception
    return page


def truth_of(cohort):
    [case] = [case for case in layouts.find_cases(cohort) if case.case_id == CASE]
    raw = read_case(case)
    return raw, masks.to_classes(raw.mask, spec.LABEL_SCHEMES["brats2020"], CASE)


def test_a_click_during_the_first_drawing_is_not_undone(page):
    # Streamlit would send a value that the page has set, and so undo the click.
    assert not page.button_group(key="source").proto.set_value
    assert page.button_group(key="source").value == "Folder"


def test_first_page_lists_the_cohort_and_segments_all_of_it(page):
    assert any("not a medical device" in caption.value for caption in page.caption)
    [table] = page.dataframe
    assert list(table.value["Case"]) == [
        *(f"BraTS20_Training_{k:03d}" for k in range(1, 5)),
        "BraTS20_Validation_001",
    ]
    assert list(table.value["Truth"]) == ["yes"] * 4 + [""]
    page.button(key="batch_start").click().run()
    deadline = time.monotonic() + 120
    while "5 of 5" not in page.get("progress")[0].proto.text and time.monotonic() < deadline:
        time.sleep(0.3)
        page.run()
    [table] = page.dataframe
    assert list(table.value[""]) == ["✓"] * 5
    assert (table.value["WT mL"] >= table.value["ET mL"]).all()
    assert table.value["Dice WT"].notna().tolist() == [True] * 4 + [False]
    assert not errors(page) and not page.exception
    choose(page)
    assert page.button(key="segment").label == "Segmented", "a result of the batch is reused"


def test_case_is_shown_before_it_is_segmented(page, small_cohort):
    choose(page)
    shown = canvas_of(page)
    assert layer_names(page) == ["flair", "t1", "t1ce", "t2", "truth"]
    assert shown["initial"]["image"] == "flair" and shown["initial"]["overlay"] == "truth"
    assert [entry["name"] for entry in shown["classes"]] == ["NCR/NET", "ED", "ET"]
    raw, truth = truth_of(small_cohort)
    largest = extent.extents(truth, (1, 1, 1))[0]
    assert np.allclose(shown["go_to"][:3], (raw.geometry.lps_affine @ (*largest.centre, 1))[:3])
    truth_ml = np.bincount(truth.ravel(), minlength=4) / 1000
    assert f"ED {truth_ml[2]:.1f}" in text(page)
    [lesions] = page.dataframe
    assert lesions.value["WT mL"][0] == pytest.approx(largest.volumes_ml["WT"], abs=0.01)


def test_segmentation_runs_once_and_gives_numbers(page):
    segmented(choose(page))
    job = page.session_state["job"]
    assert layer_names(page)[5:] == [
        "prediction",
        "uncertainty",
        "probability_WT",
        "probability_TC",
        "probability_ET",
    ]
    assert canvas_of(page)["initial"]["overlay"] == "prediction"
    page.run()
    assert page.session_state["job"] is job, "redrawing the page does not segment again"
    for region in spec.REGIONS:
        dice = job.result.metrics[region]["dice"]
        assert re.search(rf"\b{region} [\d.]+ [\d.]+ {dice:.3f}", text(page))
    assert any(
        "network" in caption.value and "bias correction" in caption.value
        for caption in page.caption
    )
    choose(page, "BraTS20_Training_002")
    assert page.button(key="segment").label == "Segment"
    choose(page)
    assert page.button(key="segment").label == "Segmented", "found by its content"
    page.button(key="close").click().run()
    [table] = page.dataframe
    row = table.value.set_index("Case").loc[CASE]
    assert row["WT mL"] == pytest.approx(job.result.volumes_ml["WT"], abs=0.051)


def test_a_scan_is_recognised_under_another_name(start, recognised):
    """The scan in other files and under other ids, a second timepoint, and a scan of its own."""
    page = start(f"--model={recognised / 'model'}", f"--cases_dir={recognised / 'cohort'}")
    sentences = {}
    for case_id in EXPECTED:
        segmented(choose(page, case_id))
        [sentences[case_id]] = [
            caption.value.rsplit("\n", 1)[-1]
            for caption in page.caption
            if "used to" in caption.value
        ]
    grounds = {
        "case id": "A case of this name",
        "same scan": "This scan, under another name,",
        "patient": "Another scan of this patient",
    }
    assert sentences == {
        case_id: f"{grounds[by]} was used to {use} this model."
        if by
        else "Neither this scan nor its patient was used to train or select this model."
        for case_id, (use, by) in EXPECTED.items()
    }


def test_a_click_on_a_lesion_moves_the_crosshair_there(page):
    choose(page)
    first = canvas_of(page)["go_to"]
    [key] = [table.proto.id for table in page.dataframe]
    assert key
    page.session_state["goal"], page.session_state["goal_count"] = (1, 2, 3), 9
    page.run()
    assert canvas_of(page)["go_to"] != first and canvas_of(page)["go_to"][3] == 9
    choose(page, "BraTS20_Training_002")
    assert canvas_of(page)["go_to"][3] == 10, "the crosshair moves again for another case"


def test_plain_pictures_where_the_browser_cannot_draw(page):
    page.session_state["webgl"] = False
    choose(page)
    assert len(set(pictures(page))) == 3 and not page.get("component_instance")
    seen = [pictures(page)]
    for change in (
        lambda: page.session_state.__setitem__("flat_overlay", "None"),
        lambda: page.session_state.__setitem__("flat_overlay", "Truth"),
        lambda: page.slider(key="flat_opacity").set_value(20),
        lambda: page.checkbox(key="class_2").set_value(False),
        lambda: page.slider(key="slice_axial").set_value(10),
    ):
        change()
        page.run()
        seen.append(pictures(page))
    assert all(before != after for before, after in itertools.pairwise(seen))
    segmented(page)
    assert page.session_state["flat_overlay"] == "Prediction"
    assert not errors(page) and not page.exception


def test_a_phantom_can_be_chosen_without_files(start, tiny_model, monkeypatch):
    monkeypatch.setattr(generate, "make_case", partial(generate.make_case, shape=(96, 92, 72)))
    monkeypatch.setattr(generate, "geometry", partial(generate.geometry, (96, 92, 72)))
    page = start(f"--model={tiny_model}")
    page.button_group(key="source").set_value("Phantom").run()
    assert not errors(page) and not page.exception
    assert layer_names(page) == ["flair", "t1", "t1ce", "t2", "truth"]


def uploads_of(cohort, *kinds):
    [case] = [case for case in layouts.find_cases(cohort) if case.case_id == CASE]
    files = {**case.images, "seg": case.mask}
    return [(files[kind].name, files[kind].read_bytes(), "application/gzip") for kind in kinds]


def test_upload_is_recognised_and_refused_when_incomplete(start, tiny_model, small_cohort):
    page = start(f"--model={tiny_model}")
    uploads = uploads_of(small_cohort, "t2", "flair", "t1ce")
    page.file_uploader[0].set_value(uploads[:2]).run()
    assert "no t1ce image" in errors(page)[0]
    assert not page.get("component_instance")
    page.file_uploader[0].set_value(uploads).run()
    assert not errors(page) and layer_names(page) == ["flair", "t1ce", "t2"]
    assert any("t1ce, t2, flair" in expander.label for expander in page.expander)


def test_upload_of_other_names_is_assigned_by_hand(start, tiny_model, small_cohort):
    page = start(f"--model={tiny_model}")
    uploads = uploads_of(small_cohort, "t2", "flair", "t1ce", "seg")
    names = ("scan_a.nii.gz", "scan_b.nii.gz", "scan_c.nii.gz", "mask.nii.gz")
    page.file_uploader[0].set_value(
        [(name, data, kind) for name, (_, data, kind) in zip(names, uploads)]
    ).run()
    assert "no flair and no t1ce and no t2 image" in errors(page)[0]
    boxes = [box for box in page.selectbox if box.key.startswith("kind_")]
    assert [box.label.replace("\\", "") for box in boxes] == list(names)
    for box, kind in zip(boxes, ("t2", "flair", "flair", "seg")):
        box.set_value(kind)
    page.run()
    assert "scan_c.nii.gz: is taken as flair, as is scan_b.nii.gz" in errors(page)[0]
    page.selectbox(key=boxes[2].key).set_value("t1ce").run()
    assert "its name does not say which label scheme" in errors(page)[0]
    scheme_box(page).set_value("brats2020").run()
    assert not errors(page) and layer_names(page) == ["flair", "t1ce", "t2", "truth"]


def scheme_box(page):
    [box] = [box for box in page.selectbox if box.label == "Label scheme of the segmentation"]
    return box


def test_a_label_scheme_by_name_can_be_corrected_and_the_dice_follows(
    start, tiny_model, small_cohort
):
    page = start(f"--model={tiny_model}")
    files = uploads_of(small_cohort, "t2", "flair", "t1ce")
    [case] = [case for case in layouts.find_cases(small_cohort) if case.case_id == CASE]
    image = nibabel.load(case.mask)
    labels = np.asarray(image.dataobj).astype(np.uint8)
    labels[labels == 4] = 3  # ET in brats2023 and msd, which disagree about 1 and 2
    mask = nibabel.Nifti1Image(labels, image.affine).to_bytes()
    files.append((f"{CASE}_seg.nii", mask, "application/octet-stream"))
    page.file_uploader[0].set_value(files).run()
    assert "holds label 3; scheme brats2020 knows 0, 1, 2, 4" in errors(page)[0]
    jobs = {}
    for scheme in ("msd", "brats2023"):
        scheme_box(page).set_value(scheme).run()
        assert not errors(page) and page.button(key="segment").label == "Segment"
        assert any(f"Truth read as {scheme}" in caption.value for caption in page.caption)
        jobs[scheme] = segmented(page).session_state["job"].result.metrics
    assert jobs["msd"]["ED"] != jobs["brats2023"]["ED"]
    assert jobs["msd"]["WT"] == jobs["brats2023"]["WT"]
    scheme_box(page).set_value("msd").run()
    assert page.session_state["job"].result.metrics == jobs["msd"]


def test_uploads_above_the_limit_of_a_session_are_dropped_with_one_line(
    start, tiny_model, small_cohort, monkeypatch
):
    page = start(f"--model={tiny_model}")
    files = uploads_of(small_cohort, "t2", "flair", "t1ce")
    page.file_uploader[0].set_value([*files, *files, *files, *files, *files]).run()
    [error] = errors(page)
    assert re.match(r"15 files of \d+ MB were uploaded and have been removed; expected", error)
    monkeypatch.setattr(uploads, "MAX_BYTES", 100)
    page.run()
    assert not errors(page) and not page.file_uploader[0].value
    page.file_uploader[0].set_value(files).run()
    assert "3 files of" in errors(page)[0]
    monkeypatch.setattr(uploads, "MAX_BYTES", 1 << 30)
    page.run()
    page.file_uploader[0].set_value(files).run()
    assert not errors(page) and layer_names(page) == ["flair", "t1ce", "t2"]


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "required: --model"),
        (["--model=nowhere"], "nowhere: holds no SavedModel"),
        (["--model=nowhere", "--nodel=x"], "unrecognized arguments: --nodel=x"),
    ],
)
def test_bad_command_lines_are_one_line_on_the_page_and_the_terminal(start, flags, message, capsys):
    [error] = errors(start(*flags))
    assert message in error and message in capsys.readouterr().err
    assert "viewer.py -- " not in error, "two hyphens as text would become a dash"


def test_a_missing_folder_is_reported_before_the_model_is_loaded(start):
    [error] = errors(start("--model=nowhere", "--cases_dir=neither"))
    assert "neither: no such folder" in error


def test_modules_import_without_tensorflow():
    # The page shows a spinner while TensorFlow is imported, and its messages are turned off first.
    script = "import sys; import app.viewer; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=browser.ROOT, check=True)


def test_help_explains_the_flags(start, capsys):
    page = start("--help")
    [help_text] = [code.value for code in page.code]
    for flag in ("--model", "--cases_dir", "--label_scheme", "--output_dir", "--allow_network"):
        assert f"  {flag}" in help_text
    assert not errors(page) and "streamlit run app/viewer.py -- --model" in help_text
    assert help_text in capsys.readouterr().err


def test_the_session_survives_a_damaged_case(start, tiny_model, small_cohort, tmp_path):
    cohort = tmp_path / "cohort"
    shutil.copytree(small_cohort / CASE, cohort / CASE)
    damaged = shutil.copytree(small_cohort / CASE, cohort / "Z")
    for path in damaged.iterdir():
        path.rename(path.with_name(path.name.replace(CASE, "Z")))
    flair = damaged / "Z_flair.nii.gz"
    flair.write_bytes(flair.read_bytes()[:2000])
    page = start(f"--model={tiny_model}", f"--cases_dir={cohort}")
    page.selectbox(key="case").set_value("Z").run()
    [error] = errors(page)
    assert "truncated or damaged" in error
    choose(page)
    assert layer_names(page)


def test_the_page_is_empty_if_the_server_is_open_to_the_network(start, tiny_model):
    start("--model=nowhere")
    streamlit.config.set_option("server.address", None)
    [error] = errors(start(f"--model={tiny_model}"))
    assert "--server.address=127.0.0.1" in error


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.7", "radiology.example.org"])
def test_an_address_that_others_can_reach_must_be_asked_for_by_name(start, address):
    start("--model=nowhere")
    streamlit.config.set_option("server.address", address)
    [error] = errors(start("--model=nowhere"))
    assert error.startswith(f"--server.address={address}: this page would be open to the network")
    assert "--allow_network" in error
    [error] = errors(start("--model=nowhere", "--allow_network"))
    assert "nowhere: holds no SavedModel" in error


def test_addresses_of_this_machine_are_local():
    for address in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "unix:///run/a.sock"):
        assert viewer.is_local(address)
    for address in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "127.0.0.1.nip.io"):
        assert not viewer.is_local(address)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--output_dir=out"], "--output_dir=out: takes the label maps of a folder's cases"),
        (["--output_dir={cohort}/out", "--cases_dir={cohort}"], "lies within --cases_dir="),
        (["--output_dir=/proc/out", "--cases_dir={cohort}"], "--output_dir=/proc/out: cannot be"),
    ],
)
def test_an_unusable_output_folder_is_refused_at_the_start(start, small_cohort, flags, message):
    flags = [flag.format(cohort=small_cohort) for flag in flags]
    [error] = errors(start("--model=nowhere", *flags))
    assert message in error


@pytest.fixture(scope="module")
def server(tiny_model, small_cohort, tmp_path_factory):
    """A real server, started from another folder: (address, path of its log, process)."""
    with browser.streamlit(
        browser.VIEWER,
        tmp_path_factory.mktemp("elsewhere"),
        arguments=(f"--model={tiny_model}", f"--cases_dir={small_cohort}"),
    ) as started:
        yield started


@pytest.mark.browser
def test_a_case_from_start_to_download(server, chromium, small_cohort, tiny_model, tmp_path):
    address, log, process = server
    assert _addresses(process.pid) == {("127.0.0.1", int(address.rsplit(":", 1)[1]))}
    reader = browser.Visitor(chromium, address).open()
    reader.case(CASE)
    centre = reader.voxel()
    reader.choose("layout", "axial")  # drawing heads in 3-D takes seconds without a graphics card
    seen = [reader.picture()]
    assert browser.share_of(seen[0], spec.CLASS_COLOURS[spec.ED], 60) > 0.001, "the truth is shown"
    assert "Truth" in reader.status()
    reader.segment()
    assert "Prediction" in reader.status()
    seen.append(reader.picture())
    for what, value in (
        ("overlay", "uncertainty"),
        ("compare", "difference"),
        ("compare", "side"),
        ("compare", "off"),
        ("overlay", "truth"),
    ):
        reader.choose(what, value)
        seen.append(reader.picture())
    assert all(
        (before.shape != after.shape) or (before != after).any()
        for before, after in itertools.pairwise(seen)
    )
    reader.press("ArrowUp", "ArrowUp")
    assert reader.voxel() != centre
    table = reader.page.get_by_test_id("stDataFrame").last
    table.scroll_into_view_if_needed()
    table.click(position={"x": 16, "y": 52})  # the box of the first row: the largest of the truth
    reader.arrived(centre)

    with reader.page.expect_download() as download:
        reader.page.get_by_role("button", name="NIfTI").click()
    assert download.value.suggested_filename == f"{CASE}_prediction.nii.gz"
    download.value.save_as(tmp_path / "downloaded.nii.gz")
    _check_segmentation(tmp_path / "downloaded.nii.gz", small_cohort, tiny_model)
    with reader.page.expect_download() as download:
        reader.page.get_by_role("button", name="Summary").click()
    summary = Path(download.value.path()).read_text()
    assert "not a medical device" in summary and CASE in summary and "<script" not in summary
    _quiet(reader, log)


@pytest.mark.browser
def test_without_webgl_the_page_shows_plain_pictures(server, chromium):
    address, log, _ = server
    reader = browser.Visitor(chromium, address)
    reader.page.add_init_script(browser.NO_WEBGL)
    reader.open()
    reader.case("BraTS20_Training_002", drawn=False)
    images = reader.page.get_by_test_id("stImage").locator("img")
    images.nth(2).wait_for()
    before = images.first.get_attribute("src")
    reader.page.get_by_role("slider", name=re.compile("Axial")).focus()
    reader.page.keyboard.press("ArrowRight")
    reader.page.wait_for_function(
        "([image, before]) => image.src !== before && image.complete",
        arg=[images.first.element_handle(), before],
    )
    _quiet(reader, log)


REFUSALS = {
    "a bomb": (lambda: upload(t2=zeros_gz(100, nifti(brain()))), "far more than the voxels"),
    "a modality is missing": (lambda: upload(t2=None), "no t2 image among the uploaded files"),
    "two dimensions": (lambda: upload(t2=nifti(brain()[0])), "has shape 7x8; expected a 3-D"),
    "four dimensions": (lambda: upload(t2=nifti(np.stack([brain()] * 4, -1))), "4-D; expected"),
    "no brain": (lambda: upload(t2=nifti(brain() * 0)), "every voxel is 0"),
    "not finite": (
        lambda: upload(t2=nifti(np.where(brain() > 0, np.nan, 0).astype("f4"))),
        "NaN or infinite",
    ),
    "an archive": (lambda: upload(t2=zipped()), "NIfTI"),
}


@pytest.mark.browser
def test_bad_uploads_are_refused_on_the_page_and_the_session_lives(server, chromium):
    address, log, _ = server
    reader = browser.Visitor(chromium, address).open()
    for name, (files, message) in REFUSALS.items():
        assert message in reader.upload(files()), name
        box = reader.page.get_by_test_id("stAlertContentError").first.bounding_box()
        assert box["y"] + box["height"] < 800, f"{name}: seen without scrolling"
        reader.source("Folder")  # takes the files away
        reader.page.get_by_test_id("stAlertContentError").wait_for(state="detached")
    table = reader.page.get_by_test_id("stDataFrame").first
    table.click(position={"x": 16, "y": 52})  # the box of the first row opens its case
    reader.settled()
    assert reader.page.get_by_role("combobox").first.input_value() == CASE
    _quiet(reader, log)


@pytest.mark.browser
def test_figures_follow_a_corrected_label_scheme_in_every_session(chromium, tmp_path):
    """A mask of brats2023, first taken for msd; the model segments this head without error."""
    files = bare_uploads()
    caveat = (
        "affine of the images is a bare identity: taken as it is, but left and right may be swapped"
    )
    recipe = Recipe(bias_correction="none", crop="brain", crop_shape=HEAD)
    model = stand_in.save_model(tmp_path / "model", recipe, stand_in.raw_case(HEAD, np.eye(4))[1])
    with browser.streamlit(browser.VIEWER, tmp_path, arguments=[f"--model={model}"]) as server:
        address, log, _ = server
        reader = browser.Visitor(chromium, address, height=1000)
        reader.page.goto(address)
        reader.offer(files)
        figures = {}
        for scheme in ("msd", "brats2023"):
            reader.choose_scheme(scheme)
            reader.segment()
            reader.page.get_by_text(f"Truth read as {scheme}").wait_for()
            figures[scheme] = reader.figures()
            assert reader.page.get_by_text(caveat).bounding_box()["y"] < 700, "without scrolling"
            reader.page.screenshot(path=tmp_path / f"{scheme}.png")
        wrong, right = figures["msd"], figures["brats2023"]
        assert [cells[2:] for cells in right.values()] == [["1.000", "0.00"]] * 5
        assert wrong["WT"] == right["WT"], "the union of all classes"
        for structure in ("TC", "NCR/NET", "ED"):
            dice, hd95 = map(float, wrong[structure][2:])
            assert dice < 0.9 and hd95 > 1, structure
        with reader.page.expect_download() as download:
            reader.page.get_by_role("button", name="Summary").click()
        summary = Path(download.value.path()).read_text()
        assert caveat in summary and "Truth read as brats2023" in summary
        other = browser.Visitor(chromium, address)
        other.page.goto(address)
        other.offer(files)
        other.choose_scheme("brats2023")
        other.segmented()
        assert other.figures() == right
        _quiet(other, log)
        _quiet(reader, log)


def bare_uploads():
    """[(name, bytes)] of a head with the values of brats2023 and an identity as affine.

    The names follow a release, but without its ids they do not decide the label scheme.
    """
    classes, raw = stand_in.raw_case(HEAD, np.eye(4))
    volumes = {
        suffix: raw.volumes[..., raw.modalities.index(name)].astype(np.int16)
        for name, suffix in RELEASE_2023_SUFFIXES.items()
    }
    volumes["seg"] = masks.to_file_values(classes, spec.LABEL_SCHEMES["brats2023"])
    return [
        (f"P1-{kind}.nii", nibabel.Nifti1Image(volume[::-1, ::-1], np.eye(4)).to_bytes())
        for kind, volume in volumes.items()
    ]


def _quiet(reader, log):
    """Checks that neither the browser nor the server has reported a problem."""
    assert not reader.complaints
    assert not re.search("Traceback|deprecat", log.read_text(), re.IGNORECASE)
    reader.page.close()


def _check_segmentation(path, cohort, model):
    """Checks that the file has the grid of the images and the labels of the model."""
    [case] = [case for case in layouts.find_cases(cohort) if case.case_id == CASE]
    image, source = nibabel.load(path), nibabel.load(case.image("flair"))
    assert gzip.decompress(path.read_bytes())[:4] == b"\\\x01\x00\x00"  # NIfTI-1's header size
    assert image.shape == source.shape and np.array_equal(image.affine, source.affine)
    values = np.asarray(image.dataobj)
    assert values.dtype == np.uint8 and set(np.unique(values)) <= {0, 1, 2, 4}
    expected = load_once(model).segment(case)
    agreement = (values == expected.geometry.from_lps(expected.labels)).mean()
    assert agreement > 0.9999


def _addresses(pid):
    """(address, port) of every TCP socket on which process `pid` listens (Linux)."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry)):
            inodes.add(match[1])
    addresses = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                words = bytes.fromhex(address)
                packed = b"".join(words[k : k + 4][::-1] for k in range(0, len(words), 4))
                addresses.add((socket.inet_ntop(family, packed), int(port, 16)))
    return addresses
