"""The viewer's canvas: linked planes and a 3-D rendering by NiiVue, as a Streamlit component.

What a reader changes all day (image, overlay, classes, window, layout, comparison) lives in the
browser and runs nothing in Python. Volumes travel by address, not with the page: the browser
fetches each once, however often the script runs again.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit.components.v1 as components
from streamlit import runtime

from brats_tfrecord import spec

__all__ = ["Layer", "View", "canvas"]

KINDS = ("image", "labels", "scalar")
TRUTH = "truth"
"""The label layer of this name is what the other one is compared with."""

LAYOUTS = ("planes", "large", "axial", "coronal", "sagittal", "render")
STYLES = ("fill", "contour", "both")
COMPARISONS = ("off", "side", "difference")

_component = components.declare_component("canvas", path=Path(__file__).with_name("frontend"))


@dataclass(frozen=True)
class Layer:
    """A volume that the canvas can show.

    Attributes:
        name: the layer's key, unlike that of every other layer; "truth" is the reference of
            comparisons.
        title: what the reader sees.
        kind: "image" (grey), "labels" (canonical class ids, uint8) or "scalar" (a probability
            or an entropy, in colours).
        nifti: the bytes of a .nii.gz file; all layers of a canvas lie on one grid.
        shown_range: of a scalar, the (low, high) of its colours; None: 0 to its maximum.
    """

    name: str
    title: str
    kind: str
    nifti: bytes
    shown_range: tuple[float, float] | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind of layer {self.name!r} is {self.kind!r}; one of {KINDS}")


@dataclass(frozen=True)
class View:
    """How the canvas opens.

    A field that changes between two runs of the script is applied anew; the others stay as the
    reader has set them.

    Attributes:
        image: name of the image underneath; None: the first.
        overlay: name of the label or scalar layer on top; None: no overlay.
        layout: "planes" (three planes and the rendering), "large" (the axial plane large),
            "axial", "coronal", "sagittal" or "render".
        style: "fill", "contour" or "both", of label layers.
        opacity: of fillings and scalars, 0 to 1.
        neurological: the patient's right on the right of the picture, not on the left.
        compare: "off", "side" (prediction and truth side by side) or "difference".
        hidden: ids of the classes that are not drawn.
    """

    image: str | None = None
    overlay: str | None = None
    layout: str = "planes"
    style: str = "fill"
    opacity: float = 0.5
    neurological: bool = False
    compare: str = "off"
    hidden: tuple[int, ...] = ()

    def __post_init__(self):
        for field, allowed in (("layout", LAYOUTS), ("style", STYLES), ("compare", COMPARISONS)):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is {getattr(self, field)!r}; one of {allowed}")


def canvas(
    layers,
    *,
    classes,
    initial,
    key,
    picture_name="view",
    go_to_mm=None,
    go_to_count=0,
    height=None,
    report_crosshair=False,
):
    """Draws the canvas.

    Args:
        layers: `Layer`s, at least one of kind "image".
        classes: number of classes, background included: the legend's length.
        initial: the `View` to open with.
        key: Streamlit's key; the browser keeps the reader's settings as long as it is the same.
        picture_name: what the names of saved pictures begin with.
        go_to_mm: RAS (x, y, z) in millimetres to move the crosshair to. It moves when this or
            `go_to_count` differs from the run before, so the value may stand in later runs.
        go_to_count: a number that grows with every press of a button, for a second jump to the
            same place.
        height: pixels; None fills the browser's window, with room for a line above.
        report_crosshair: run the script again when the crosshair has come to rest elsewhere.

    Returns:
        None as long as the browser has reported nothing; {"webgl": False} where it cannot draw,
        so that the page can fall back to pictures; else, with `report_crosshair`,
        {"mm": [x, y, z], "values": {layer name: value}} of the layers shown.
    """
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        raise ValueError(f"layers share a name: {names}")
    if not any(layer.kind == "image" for layer in layers):
        raise ValueError("no layer of kind 'image' to draw")
    return _component(
        layers=[
            {
                "name": layer.name,
                "title": layer.title,
                "kind": layer.kind,
                "file": _published(layer, key),
                "range": layer.shown_range,
            }
            for layer in layers
        ],
        classes=[
            {
                "id": class_id,
                "name": spec.CLASS_NAMES[class_id],
                "title": spec.CLASS_TITLES[class_id],
                "colour": spec.CLASS_COLOURS[class_id],
            }
            for class_id in range(1, classes)
        ],
        initial=asdict(initial),
        picture_name=picture_name,
        go_to=None if go_to_mm is None else [*map(float, go_to_mm), go_to_count],
        height=height,
        report=report_crosshair,
        key=key,
        default=None,
    )


def _published(layer, key):
    """The file name under which Streamlit's media route serves the layer to this session."""
    if not runtime.exists():
        return ""
    # Streamlit's own address covers but the ends and the middle of large files.
    digest = hashlib.sha256(layer.nifti).hexdigest()
    address = runtime.get_instance().media_file_mgr.add(
        layer.nifti, "application/octet-stream", f"{key}.{layer.name}", file_name=digest
    )
    return address.rsplit("/", 1)[-1]
