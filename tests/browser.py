"""Runs a Streamlit server and drives a real Chromium, for the tests of the app."""

import contextlib
import io
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
VIEWER = ROOT / "app" / "viewer.py"
CHROMIUM_FLAGS = (
    "--no-sandbox --use-gl=angle --use-angle=swiftshader "
    "--enable-unsafe-swiftshader --ignore-gpu-blocklist "
    "--disable-background-networking --disable-quic --no-first-run --disable-sync"
)
# Warnings of Chromium about every frame of Streamlit.
STREAMLITS_OWN = re.compile("Unrecognized feature|can escape its sandboxing")
NO_WEBGL = """HTMLCanvasElement.prototype.getContext = new Proxy(
  HTMLCanvasElement.prototype.getContext, {apply: (get, canvas, [kind, ...rest]) =>
    kind.startsWith("webgl") ? null : Reflect.apply(get, canvas, [kind, ...rest])});"""
"""JavaScript that disables WebGL but not the 2-D canvases of tables."""


@contextlib.contextmanager
def streamlit(script, folder, *flags, arguments=()):
    """Runs `streamlit run script` from `folder`; yields (address, path of the log, process)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "server.log"
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(script),
        f"--server.port={port}",
        *flags,
        "--",
        *arguments,
    ]
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not _listening(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", log, process
    finally:
        process.terminate()
        process.wait(20)


class Reader:
    """A user of a page with the canvas: actions and what the page shows."""

    def __init__(self, browser, address, width=1280, height=800):
        self.page = browser.new_page(
            viewport={"width": width, "height": height}, accept_downloads=True
        )
        self.page.set_default_timeout(60_000)
        self.complaints, self.requests = [], []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", self._response)
        self.address = address
        self.frame = self.page.frame_locator("iframe")

    def open(self):
        self.page.goto(self.address)
        self.settled()
        return self

    def _console(self, message):
        if message.type in ("error", "warning") and not STREAMLITS_OWN.search(message.text):
            self.complaints.append(message.text)

    def _response(self, response):
        self.requests.append(response.url)
        if response.status >= 400:
            self.complaints.append(f"{response.status} {response.url}")

    def settled(self):
        self.page.wait_for_timeout(40)
        self.frame.locator("#stage[data-state=ready]").wait_for()
        self.page.wait_for_timeout(40)

    def choose(self, what, value):
        self.frame.locator(f'[data-choice="{what}"][data-value="{value}"]').click()
        self.settled()

    def act(self, action):
        self.frame.locator(f"[data-action={action}]").click()
        self.settled()

    def press(self, *keys):
        for key in keys:
            self.frame.locator("canvas").first.press(key)
        self.settled()

    def toggle(self, class_id):
        self.frame.locator(f'[data-class="{class_id}"]').click()
        self.settled()

    def picture(self, number=0):
        """uint8 [H, W, 3] of a canvas as the screen shows it."""
        png = self.frame.locator("canvas").nth(number).screenshot()
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def status(self):
        return " · ".join(self.frame.locator("#status span").all_inner_texts())

    def arrived(self, voxel):
        """Waits until the crosshair is at `voxel`; jumps by Streamlit are asynchronous."""
        self.frame.locator("#status span", has_text=str(voxel)).first.wait_for()

    def voxel(self):
        return tuple(map(int, re.search(r"\((.*?)\)", self.status())[1].split(",")))


class Visitor(Reader):
    """A user of the viewer."""

    def open(self):
        self.page.goto(self.address)
        self.page.get_by_role("button", name="Segment all").wait_for()
        return self

    def source(self, name):
        self.page.get_by_test_id("stSidebar").get_by_text(name, exact=True).first.click()

    def case(self, case_id, drawn=True):
        # Typed, because a long list may lose a click while it scrolls to an option.
        self.page.get_by_role("combobox").first.fill(case_id)
        self.page.get_by_role("option", name=case_id).click()
        self.page.get_by_test_id("stSidebar").get_by_role("button", name="Segment").wait_for()
        if drawn:
            self.settled()

    def press_segment(self):
        self.page.get_by_role("button", name="Segment", exact=True).click()

    def segmented(self):
        self.page.get_by_role("button", name="Segmented", exact=True).wait_for(timeout=120_000)
        # The sidebar is updated before the canvas.
        self.frame.locator('[data-value="prediction"][aria-pressed="true"]').wait_for()
        self.settled()

    def segment(self):
        self.press_segment()
        self.segmented()

    def offer(self, files):
        """Uploads (name, bytes) pairs; the page may ask questions about them."""
        self.source("Upload")
        self.page.locator("input[type=file]").set_input_files(
            [
                {"name": name, "mimeType": "application/gzip", "buffer": bytes(data)}
                for name, data in files
            ]
        )

    def choose_scheme(self, scheme):
        box = self.page.get_by_role("combobox", name="Label scheme of the segmentation")
        box.fill(scheme)
        self.page.get_by_role("option", name=scheme).click()

    def figures(self):
        """Structure -> cells of the table of volumes: predicted and true mL, Dice, HD95."""
        rows = self.page.locator("table.numbers tbody tr")
        cells = [row.locator("td").all_inner_texts() for row in rows.all()]
        return {name.strip(): values for name, *values in cells}

    def upload(self, files):
        """Uploads (name, bytes) pairs; returns the error message of the page."""
        self.offer(files)
        box = self.page.get_by_test_id("stAlertContentError")
        box.first.wait_for()
        return box.first.inner_text()


def share_of(picture, colour, apart=30):
    """Returns the share of `picture` [H, W, 3] with about this colour, "#rrggbb"."""
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return (np.abs(picture.astype(int) - wanted).max(axis=-1) < apart).mean()


def centre_of(where):
    """Returns the mean (column, row) of the true pixels of `where` [H, W], as fractions."""
    rows, columns = np.nonzero(where)
    return columns.mean() / where.shape[1], rows.mean() / where.shape[0]


def _listening(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
