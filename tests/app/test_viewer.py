"""The page's logic through Streamlit's own AppTest, and the whole story in a real browser."""

import gzip
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import render
import streamlit
from streamlit.testing.v1 import AppTest

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.preprocess import masks
from brats_tfrecord.serving.predict import Segmenter

ROOT = Path(__file__).parents[2]
VIEWER = ROOT / "app" / "viewer.py"
CASE = "BraTS20_Training_001"
CHROMIUM_FLAGS = ("--no-sandbox --use-gl=angle --use-angle=swiftshader "
                  "--enable-unsafe-swiftshader --ignore-gpu-blocklist "
                  "--disable-background-networking --disable-quic --no-first-run --disable-sync")


@pytest.fixture
def start(monkeypatch):
    """Runs the page with command-line flags; its server is said to be bound to loopback."""
    streamlit.config.set_option("server.address", "127.0.0.1")

    def run(*flags):
        monkeypatch.setattr(sys, "argv", [str(VIEWER), *flags])
        return AppTest.from_file(str(VIEWER), default_timeout=60).run()

    yield run
    streamlit.config.set_option("server.address", None)


@pytest.fixture
def page(start, tiny_model, small_cohort):
    """The page with a model and a cohort, before a case is chosen."""
    return start(f"--model={tiny_model}", f"--cases_dir={small_cohort}")


def pictures(page):
    return [image.value[0] for image in page.get("image")]


def text(page):
    """All that the tables say."""
    return " ".join(re.sub("<[^>]+>", " ", element.proto.body) for element in page.get("html"))


def errors(page):
    return [error.value for error in page.error]


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
    raw = nifti.read_case(case)
    return masks.to_classes(raw.mask, spec.LABEL_SCHEMES["brats2020"], CASE)


def test_empty_page_says_what_to_do(page):
    assert "Choose a case" in page.info[0].value
    assert any("not a medical device" in caption.value for caption in page.caption)
    assert not pictures(page) and not errors(page) and not page.exception


def test_case_is_shown_before_it_is_segmented(page, small_cohort):
    page.selectbox(key="case").set_value(CASE).run()
    assert len(set(pictures(page))) == 3
    x, y, z = render.centre_of(truth_of(small_cohort))
    sliders = [page.slider(key=f"slice_{plane}").value for plane in render.PLANES]
    assert sliders == [z, y, x]
    labels = [box.label for box in page.checkbox]
    for label, part in zip(labels, ("**NCR/NET** necrotic / non-enhancing core (1)",
                                    "**ED** peritumoral edema (2)", "**ET** enhancing tumour (4)"),
                           strict=True):
        assert label.endswith(part)
    truth_ml = np.bincount(truth_of(small_cohort).ravel(), minlength=4) / 1000
    assert f"ED {truth_ml[2]:.1f}" in " ".join(text(page).split())


def test_segmentation_runs_once_and_gives_numbers(page):
    page.selectbox(key="case").set_value(CASE).run()
    segmented(page)
    [job] = page.session_state["jobs"].values()
    assert page.session_state["overlay"] == "Prediction"
    shown = pictures(page)
    slider = page.slider(key="slice_axial")
    slider.set_value(slider.value + 3).run()
    assert pictures(page) != shown
    assert [*page.session_state["jobs"].values()] == [job], "a slider runs nothing again"
    words = " ".join(text(page).split())
    for region in spec.REGIONS:
        dice = job.result.metrics[region]["dice"]
        assert re.search(rf"{region} {spec.REGION_TITLES[region]} [\d.]+ [\d.]+ {dice:.3f}", words)
    assert any("network" in caption.value and "bias correction" in caption.value
               for caption in page.caption)


def test_overlay_opacity_and_classes_change_the_pictures(page):
    page.selectbox(key="case").set_value(CASE).run()
    seen = [pictures(page)]
    page.session_state["overlay"] = "Truth"
    page.run()
    seen.append(pictures(page))
    page.slider(key="opacity").set_value(20).run()
    seen.append(pictures(page))
    page.checkbox(key="class_2").set_value(False).run()
    seen.append(pictures(page))
    page.session_state["modality"] = "t1"
    page.run()
    seen.append(pictures(page))
    assert all(before != after for before, after in zip(seen, seen[1:]))
    assert not errors(page) and not page.exception


def test_upload_is_recognised_and_refused_when_incomplete(start, tiny_model, small_cohort):
    page = start(f"--model={tiny_model}")
    [case] = [case for case in layouts.find_cases(small_cohort) if case.case_id == CASE]
    uploads = [(case.images[name].name, case.images[name].read_bytes(), "application/gzip")
               for name in ("t2", "flair", "t1ce")]
    page.file_uploader[0].set_value(uploads[:2]).run()
    assert "no t1ce image" in errors(page)[0].replace("\\", "")
    assert not pictures(page)
    page.file_uploader[0].set_value(uploads).run()
    assert not errors(page) and len(pictures(page)) == 3
    assert any("t1ce, t2, flair" in caption.value for caption in page.caption)


@pytest.mark.parametrize("flags, message", [
    ([], "required: --model"),
    (["--model=nowhere"], "nowhere: no SavedModel there"),
    (["--model=nowhere", "--nodel=x"], "unrecognized arguments: --nodel=x"),
])
def test_bad_command_lines_are_one_line_on_the_page(start, flags, message):
    [error] = errors(start(*flags))
    assert message in error.replace("\\", "")


def test_damaged_case_leaves_the_session_alive(start, tiny_model, small_cohort, tmp_path):
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
    page.selectbox(key="case").set_value(CASE).run()
    assert not errors(page) and len(pictures(page)) == 3


def test_nothing_is_shown_on_an_open_network(start, tiny_model):
    start("--model=nowhere")
    streamlit.config.set_option("server.address", None)
    [error] = errors(start(f"--model={tiny_model}"))
    assert "--server.address=127.0.0.1" in error.replace("\\", "")


@pytest.fixture
def server(tiny_model, small_cohort, tmp_path):
    """A real server, started from another folder: (port, path of its log, process)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "server.log"
    paths = [path for path in (os.environ.get("PYTHONPATH"), str(ROOT)) if path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "streamlit", "run", str(VIEWER), f"--server.port={port}",
               "--", f"--model={tiny_model}", f"--cases_dir={small_cohort}"]
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=stream,
                                   stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 30
        while not _listening(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield port, log, process
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def browser_page():
    """A page in a real Chromium, with a list of what its console and network complained of."""
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not executable:
        message = "no Chromium found: install chromium or name it in CHROMIUM"
        if os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail(message)
        pytest.skip(message)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable,
                                             args=CHROMIUM_FLAGS.split())
        page = browser.new_page(viewport={"width": 1280, "height": 800}, accept_downloads=True)
        page.set_default_timeout(30_000)
        complaints = []
        page.on("console", lambda message: message.type in ("error", "warning")
                and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("response", lambda response: response.status >= 400
                and complaints.append(f"{response.status} {response.url}"))
        yield page, complaints
        browser.close()


@pytest.mark.browser
def test_whole_story_in_a_browser(server, browser_page, small_cohort, tiny_model, tmp_path):
    (port, log, process), (page, complaints) = server, browser_page
    assert _addresses(process.pid) == {("127.0.0.1", port)}
    page.goto(f"http://127.0.0.1:{port}")
    page.get_by_role("combobox").click()
    page.get_by_role("option", name=CASE).click()
    images = page.get_by_test_id("stImage").locator("img")
    images.nth(2).wait_for()

    bare = images.first.screenshot()
    before = images.first.get_attribute("src")
    page.get_by_test_id("stButtonGroup").get_by_text("Truth", exact=True).click()
    before = _changed(page, images, before)
    coloured = images.first.screenshot()
    page.get_by_text("peritumoral edema").click()
    before = _changed(page, images, before)
    assert len({bare, coloured, images.first.screenshot()}) == 3
    page.get_by_role("slider", name=re.compile("Coronal")).focus()
    page.keyboard.press("ArrowRight")
    _changed(page, images, before)  # the crosshair of the axial plane follows

    page.get_by_role("button", name="Segment", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download NIfTI").click()
    assert download.value.suggested_filename == f"{CASE}_prediction.nii.gz"
    path = tmp_path / "downloaded.nii.gz"
    download.value.save_as(path)
    _check_segmentation(path, small_cohort, tiny_model)
    assert not complaints
    assert "Traceback" not in log.read_text() and "deprecat" not in log.read_text().lower()


def _changed(page, images, before):
    """Waits until the first plane is another picture than `before`; returns its source."""
    page.wait_for_function("([image, before]) => image.src !== before && image.complete",
                           arg=[images.first.element_handle(), before])
    page.wait_for_timeout(200)
    return images.first.get_attribute("src")


def _check_segmentation(path, cohort, model):
    """The file lies where the case's images lie, and is what the model says."""
    [case] = [case for case in layouts.find_cases(cohort) if case.case_id == CASE]
    image, source = nibabel.load(path), nibabel.load(case.image("flair"))
    assert gzip.decompress(path.read_bytes())[:4] == b"\\\x01\x00\x00"  # NIfTI-1's header size
    assert image.shape == source.shape and np.array_equal(image.affine, source.affine)
    values = np.asarray(image.dataobj)
    assert values.dtype == np.uint8 and set(np.unique(values)) <= {0, 1, 2, 4}
    expected = Segmenter(model).segment(case)
    agreement = (values == expected.geometry.from_lps(expected.labels)).mean()
    assert agreement > 0.9999


def _listening(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _addresses(pid):
    """(address, port) of every TCP socket on which process `pid` listens (Linux)."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry)):
            inodes.add(match[1])
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                words = bytes.fromhex(address)
                packed = b"".join(words[k:k + 4][::-1] for k in range(0, len(words), 4))
                found.add((socket.inet_ntop(family, packed), int(port, 16)))
    return found
