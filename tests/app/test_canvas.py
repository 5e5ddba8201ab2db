"""The canvas in a real browser, on a head of 40x48x32 voxels with known positions."""

import re

import browser
import nibabel
import numpy as np
import pytest
from browser import centre_of, share_of
from PIL import Image

from app import canvas
from brats_tfrecord import spec

pytestmark = pytest.mark.slow

SHAPE = (40, 48, 32)  # LPS: towards the patient's left, back and head
AFFINE = np.array([[-2, 0, 0, 40], [0, -2, 0, 50], [0, 0, 3, -45], [0, 0, 0, 1]], float)
LESION = (22, 24, 16)  # a voxel of ET, in truth and prediction
LESION_MM = (-4.0, 2.0, 3.0)  # AFFINE @ LESION

PAGE = f"""
import sys
from pathlib import Path
import streamlit as st

sys.path.insert(0, {str(browser.ROOT)!r})
from app.canvas import Layer, View, canvas

folder = Path(__file__).parent
kinds = {{"flair": "image", "t1ce": "image", "prediction": "labels", "truth": "labels",
         "probability": "scalar"}}
layers = [Layer(name, name.upper(), kind, (folder / f"{{name}}.nii.gz").read_bytes(),
                (0, 1) if kind == "scalar" else None) for name, kind in kinds.items()]
if st.toggle("Another case"):
    layers = [Layer("flair", "FLAIR", "image", (folder / "other.nii.gz").read_bytes())]
runs = st.session_state.runs = st.session_state.get("runs", 0) + 1
st.button("Run again")
st.session_state.jumps = st.session_state.get("jumps", 0) + st.button("Go to the lesion")
value = canvas(layers, classes=4, initial=View(image="flair", overlay="prediction"), height=560,
               key="canvas", go_to_mm={LESION_MM} if st.session_state.jumps else None,
               go_to_count=st.session_state.jumps, report_crosshair=st.toggle("Report"))
st.text(f"runs={{runs}} value={{value}}")
"""


COUNT = """for (const name of ["framebufferTextureLayer", "drawElements", "drawArrays"]) {
  const call = WebGL2RenderingContext.prototype[name];
  window[name] = 0;
  WebGL2RenderingContext.prototype[name] = function (...rest) {
    window[name] += 1;
    return call.apply(this, rest);
  };
}"""
"""JavaScript that counts the calls of WebGL."""


def head():
    """Name -> array of each layer: a brain with a bright mark at the right, front and top."""
    x, y, z = np.ogrid[:40, :48, :32]
    inside = ((x - 19.5) / 17) ** 2 + ((y - 23.5) / 21) ** 2 + ((z - 15.5) / 14) ** 2 < 1
    flair = np.where(inside, 100 + x + y + z, 0).astype(np.int16)
    flair[9:13, 9:13, 15:24] = 400
    truth = np.zeros(SHAPE, np.uint8)
    truth[16:30, 18:34, 10:22] = spec.ED
    truth[20:26, 21:30, 12:20] = spec.ET
    truth[22:25, 26:29, 12:20] = spec.NCR
    prediction = np.roll(truth, 2, axis=0)  # two voxels towards the left
    return {
        "flair": flair,
        "t1ce": np.where(inside, 300 - flair // 2, 0).astype(np.int16),
        "truth": truth,
        "prediction": prediction,
        "probability": np.where(prediction > 0, 200, 0).astype(np.uint8),
    }  # of 250: 0.8


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address, path of the log) of a real server with one page."""
    folder = tmp_path_factory.mktemp("page")
    for name, volume in {**head(), "other": head()["flair"] * 2}.items():
        image = nibabel.Nifti1Image(volume, AFFINE)
        if name == "probability":
            image.header.set_slope_inter(1 / 250, 0)
        nibabel.save(image, folder / f"{name}.nii.gz")
    (folder / "page.py").write_text(PAGE)
    with browser.streamlit(
        "page.py",
        folder,
        "--server.address=127.0.0.1",
        "--server.headless=true",
        "--browser.gatherUsageStats=false",
        "--server.fileWatcherType=none",
    ) as (address, log, _):
        yield address, log


class Reader(browser.Reader):
    """A user of the page above, which shows how often its script has run."""

    def said(self):
        """(runs of the script, value that it got)."""
        text = self.page.get_by_test_id("stText").inner_text()
        runs, value = re.fullmatch(r"runs=(\d+) value=(.*)", text).groups()
        return int(runs), value

    def run(self, button):
        """Presses one of Streamlit's buttons and waits for the script."""
        runs, _ = self.said()
        self.page.get_by_role("button", name=button).click()
        self.page.get_by_text(f"runs={runs + 1} ").wait_for()
        self.page.wait_for_timeout(200)
        self.settled()

    def calls(self, name):
        """How often a function of WebGL has been called."""
        return self.frame.locator("body").evaluate("(_, name) => window[name]", name)

    def reset(self):
        """Restores the view that the page opens with."""
        for what, value in (("overlay", "prediction"), ("style", "fill"), ("layout", "axial")):
            pressed = f'[data-choice="{what}"][data-value="{value}"][aria-pressed="true"]'
            if not self.frame.locator(pressed).count():
                self.choose(what, value)
        hidden = self.frame.locator("[data-class]:not(:checked)")
        while hidden.count():
            hidden.first.click()
            self.settled()
        self.act("fit")
        self.settled()


@pytest.fixture(scope="module")
def opened(server, chromium):
    address, log = server
    reader = Reader(chromium, address)
    reader.page.add_init_script(COUNT)
    reader.open()
    yield reader
    assert not reader.complaints
    assert not re.search("Traceback|[Ee]rror|deprecat", log.read_text())


@pytest.fixture
def reader(opened):
    opened.reset()
    return opened


@pytest.mark.browser
def test_opens_with_three_planes_the_rendering_and_the_crosshair_position(opened):
    picture = opened.picture()
    height, width, _ = picture.shape
    tiles = [
        picture[top : top + height // 2 - 2, left : left + width // 2 - 2]
        for top in (0, height // 2 + 2)
        for left in (0, width // 2 + 2)
    ]
    for tile in tiles:
        assert (tile.max(axis=-1) > 60).mean() > 0.05, "something is drawn in every tile"
    assert len({tile.tobytes() for tile in tiles}) == 4
    x, y, z = opened.voxel()
    mm = AFFINE @ (x, y, z, 1)
    assert np.allclose(
        [float(part) for part in re.search(r"RAS (.*?) mm", opened.status())[1].split(",")],
        mm[:3],
        atol=1.5,
    )
    assert f"FLAIR {head()['flair'][x, y, z]} ·" in opened.status()


@pytest.mark.browser
def test_right_is_left_in_the_radiological_convention_and_front_is_up(reader):
    reader.choose("overlay", "none")
    bright = reader.picture().min(axis=-1) > 240  # the mark: right, in front
    column, row = centre_of(bright)
    assert column < 0.45 and row < 0.45
    reader.act("convention")
    column, row = centre_of(reader.picture().min(axis=-1) > 240)
    assert column > 0.55 and row < 0.45
    reader.act("convention")
    reader.choose("layout", "coronal")
    reader.press(*["ArrowUp"] * 12)  # towards the front, where the mark is
    column, row = centre_of(reader.picture().min(axis=-1) > 240)
    assert column < 0.45 and row < 0.5
    reader.press(*["ArrowDown"] * 12)


@pytest.mark.browser
def test_classes_are_toggled_without_running_the_script(reader):
    runs, _ = reader.said()
    seen = [reader.picture()]
    reader.frame.locator('[data-slider="opacity"]').fill("100")
    reader.settled()
    seen.append(reader.picture())
    for class_id in (spec.NCR, spec.ED, spec.ET):
        assert share_of(seen[-1], spec.CLASS_COLOURS[class_id]) > 0.002
    reader.toggle(spec.ED)
    seen.append(reader.picture())
    assert share_of(seen[-1], spec.CLASS_COLOURS[spec.ED]) == 0
    assert share_of(seen[-1], spec.CLASS_COLOURS[spec.ET]) > 0.002
    reader.press("2")
    assert np.array_equal(reader.picture(), seen[1]), "the digit undoes it"
    reader.press("Space")
    bare = reader.picture()
    assert share_of(bare, spec.CLASS_COLOURS[spec.ET]) == 0
    reader.press("Space")
    reader.frame.locator('[data-slider="opacity"]').fill("50")
    reader.settled()
    assert reader.said()[0] == runs
    assert len({picture.tobytes() for picture in seen}) == 3


@pytest.mark.browser
def test_style_and_image_change_the_picture(reader):
    filled = reader.picture()
    reader.choose("style", "contour")
    contour = reader.picture()
    colour = spec.CLASS_COLOURS[spec.ED]
    assert 0.001 < share_of(contour, colour) < 0.03, "a thin line in the full colour"
    assert (contour != filled).any(axis=-1).mean() > 0.02
    reader.choose("image", "t1ce")
    assert (reader.picture() != contour).any(axis=-1).mean() > 0.3
    reader.choose("image", "flair")
    assert np.array_equal(reader.picture(), contour)


@pytest.mark.browser
def test_keys_step_slices(reader):
    x, y, z = reader.voxel()
    before = reader.picture()
    reader.press("ArrowUp")
    assert reader.voxel() == (x, y, z + 1)
    assert (reader.picture() != before).any()
    reader.press("PageDown")
    assert reader.voxel() == (x, y, z - 9)
    reader.press("PageUp", "ArrowDown")
    assert reader.voxel() == (x, y, z)
    assert np.array_equal(reader.picture(), before)


@pytest.mark.browser
def test_truth_and_prediction_side_by_side_move_together(reader):
    reader.run("Go to the lesion")
    reader.arrived(LESION)
    reader.choose("compare", "side")
    assert reader.frame.locator("canvas").count() == 2
    assert reader.frame.locator(".caption").all_inner_texts() == ["PREDICTION", "TRUTH"]
    left, right = reader.picture(0), reader.picture(1)
    assert (left != right).any(axis=-1).mean() > 0.01
    status = reader.status()
    assert "PREDICTION ET" in status and "TRUTH ET" in status
    reader.frame.locator("canvas").nth(1).click(position={"x": 60, "y": 200})
    reader.settled()
    assert reader.voxel()[:2] != LESION[:2]
    assert (reader.picture(0) != left).any(), "the other canvas follows"


@pytest.mark.browser
def test_difference_shows_agreeing_missed_and_extra_voxels(reader):
    reader.choose("compare", "difference")
    reader.frame.locator('[data-slider="opacity"]').fill("100")
    reader.settled()
    names = reader.frame.locator("[data-difference]").all_inner_texts()
    assert [name.split("\n")[0] for name in names] == ["Agree", "Missed", "Extra", "Other class"]
    picture = reader.picture()
    agree, missed, extra, other = ("#e6edf3", "#ff4fa3", "#22d3ee", "#ff9d2e")
    for colour in (agree, missed, extra, other):
        assert share_of(picture, colour, 12) > 0.002
    # The prediction lies two voxels to the patient's left: extra right of missed on the screen.
    where = [
        centre_of(
            np.abs(picture.astype(int) - [int(colour[k : k + 2], 16) for k in (1, 3, 5)]).max(
                axis=-1
            )
            < 12
        )
        for colour in (missed, extra)
    ]
    assert where[0][0] < where[1][0]
    for class_id in (spec.NCR, spec.ET):
        reader.toggle(class_id)
    assert share_of(reader.picture(), other, 12) == 0, "a single class has no other class"
    reader.frame.locator('[data-slider="opacity"]').fill("50")


@pytest.mark.browser
def test_running_the_script_again_fetches_nothing_and_keeps_the_view(reader):
    reader.run("Go to the lesion")
    reader.arrived(LESION)
    reader.toggle(spec.ED)
    before, fetched = reader.picture(), len(reader.requests)
    reader.run("Run again")
    reader.run("Go to the lesion")  # where it is already: other arguments, the same picture
    assert np.array_equal(reader.picture(), before)
    assert not [url for url in reader.requests[fetched:] if "/media/" in url]
    assert reader.said()[1] == "None", "nothing is reported to Python without report_crosshair"


@pytest.mark.browser
def test_unchanged_volumes_are_not_uploaded_or_drawn_again(reader):
    # Without a graphics card, a rendering takes one second and the upload of an image four.
    def uploads(what, value):
        reader.picture()
        before = reader.calls("framebufferTextureLayer")
        reader.choose(what, value)
        reader.picture()
        return reader.calls("framebufferTextureLayer") - before

    _, _, slices = SHAPE
    assert uploads("overlay", "truth") == slices, "the overlay alone"
    assert uploads("image", "t1ce") == 4 * slices, "the image, twice for its gradients, the overlay"
    assert uploads("image", "flair") == 4 * slices
    assert uploads("overlay", "none") == 3 * slices
    assert uploads("overlay", "prediction") == slices

    def drawn(act):
        before = reader.calls("drawElements") + reader.calls("drawArrays")
        act()
        reader.picture()
        return reader.calls("drawElements") + reader.calls("drawArrays") - before

    once = drawn(lambda: reader.act("fit"))
    assert drawn(lambda: reader.press("ArrowUp")) == once > 0
    assert drawn(lambda: reader.run("Run again")) == 0


@pytest.mark.browser
def test_the_pointer_may_move_while_another_case_is_fetched(reader):
    """The other case has no prediction, which is on the screen until its files have come."""
    held = []
    reader.page.route("**/media/**", lambda route: held.append(route))
    reader.page.get_by_text("Another case", exact=True).click()
    reader.frame.locator("#stage[data-state=loading]").wait_for()
    canvas = reader.frame.locator("canvas").first
    for x in (180, 220):
        canvas.click(position={"x": x, "y": 200})
    assert "PREDICTION" in reader.status(), "the status line describes the picture"
    canvas.dblclick(position={"x": 200, "y": 200})
    canvas.press("ArrowUp")
    assert held
    for route in held:
        route.continue_()
    reader.page.unroute("**/media/**")
    reader.settled()
    assert "PREDICTION" not in reader.status()
    assert not reader.complaints
    reader.page.get_by_text("Another case", exact=True).click()
    reader.page.wait_for_timeout(300)
    reader.settled()
    reader.choose("overlay", "prediction")


@pytest.mark.browser
def test_window_is_dragged_and_reset(reader):
    numbers = reader.frame.locator('[data-numbers="image"]')
    automatic, before = numbers.inner_text(), reader.picture()
    box = reader.frame.locator("canvas").bounding_box()
    reader.page.mouse.move(box["x"] + 200, box["y"] + 300)
    reader.page.mouse.down(button="right")
    reader.page.mouse.move(box["x"] + 280, box["y"] + 240, steps=3)
    reader.page.mouse.up(button="right")
    reader.settled()
    assert numbers.inner_text() != automatic
    assert (reader.picture() != before).any(axis=-1).mean() > 0.2
    reader.act("reset-image")
    assert numbers.inner_text() == automatic
    assert np.array_equal(reader.picture(), before)


@pytest.mark.browser
@pytest.mark.soak
def test_probability_has_a_colour_bar_and_its_value_in_the_status_line(reader):
    reader.choose("overlay", "probability")
    assert reader.frame.locator(".scale span").all_inner_texts() == ["0", "0.500", "1"]
    reader.run("Go to the lesion")
    assert re.search(r"PROBABILITY 0\.800", reader.status())
    shown = reader.picture()
    reader.press("Space")
    assert (reader.picture() != shown).any(axis=-1).mean() > 0.01
    reader.press("Space")
    assert np.array_equal(reader.picture(), shown)
    reader.frame.locator('[data-window="overlay-0"]').fill("0.9")  # above every probability
    reader.settled()
    hidden = reader.picture()
    assert (shown != hidden).any(axis=-1).mean() > 0.01
    reader.choose("overlay", "none")
    assert np.array_equal(reader.picture()[40:], hidden[40:]), "but for the caption"


@pytest.mark.browser
@pytest.mark.soak
def test_go_to_works_again_after_the_crosshair_has_moved(reader):
    for _ in range(2):
        reader.run("Go to the lesion")
        reader.arrived(LESION)
        reader.press("ArrowUp", "ArrowUp")
        assert reader.voxel() != LESION
        reader.run("Run again")
        assert reader.voxel() != LESION, "other runs leave the crosshair alone"


@pytest.mark.browser
@pytest.mark.soak
def test_picture_is_saved_with_its_legend(reader, tmp_path):
    with reader.page.expect_download() as download:
        reader.act("screenshot")
    download.value.save_as(tmp_path / "view.png")
    saved = np.asarray(Image.open(tmp_path / "view.png").convert("RGB"))
    height, width, _ = reader.picture().shape
    assert saved.shape[1] == width and saved.shape[0] > height
    for class_id in (1, 2, 3):
        assert share_of(saved[height:], spec.CLASS_COLOURS[class_id], 8) > 0.001
    assert (saved[:height].max(axis=-1) > 100).mean() > 0.1


@pytest.mark.browser
@pytest.mark.soak
def test_canvas_is_restored_after_a_reset_of_the_graphics_card(reader):
    reader.press("ArrowUp")
    before, voxel = reader.picture(), reader.voxel()
    reader.frame.locator("canvas").evaluate(
        "canvas => canvas.getContext('webgl2').getExtension('WEBGL_lose_context').loseContext()"
    )
    reader.page.wait_for_timeout(1500)
    reader.settled()
    assert reader.voxel() == voxel
    assert np.array_equal(reader.picture(), before)


@pytest.mark.browser
@pytest.mark.soak
def test_crosshair_is_reported_on_demand(server, chromium):
    reader = Reader(chromium, server[0]).open()
    reader.choose("layout", "axial")
    reader.page.get_by_text("Report", exact=True).click()
    reader.page.wait_for_timeout(1500)
    reader.press("ArrowUp", "ArrowUp")
    reader.page.get_by_text("'mm'").wait_for()
    value = reader.said()[1]
    assert "'flair'" in value and "'prediction'" in value
    assert not reader.complaints
    reader.page.close()


@pytest.mark.browser
@pytest.mark.soak
def test_missing_webgl_is_reported_to_python(server, chromium):
    reader = Reader(chromium, server[0])
    reader.page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    reader.page.goto(reader.address)
    reader.page.get_by_text("value={'webgl': False}").wait_for()
    assert "no WebGL" in reader.frame.locator("#message").inner_text()
    assert not reader.complaints
    reader.page.close()


def test_layers_and_views_are_checked():
    image = canvas.Layer("flair", "FLAIR", "image", b"")
    view = canvas.View()
    with pytest.raises(ValueError, match="share a name"):
        canvas.canvas([image, image], classes=4, initial=view, key="k")
    with pytest.raises(ValueError, match="no layer of kind 'image'"):
        canvas.canvas([], classes=4, initial=view, key="k")
    with pytest.raises(ValueError, match="kind of layer 'flair' is 'mask'"):
        canvas.Layer("flair", "FLAIR", "mask", b"")
    with pytest.raises(ValueError, match="layout is 'round'"):
        canvas.View(layout="round")
