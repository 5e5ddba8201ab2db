"""The viewer's canvas: linked planes and a 3-D rendering by NiiVue, as a Streamlit component.

The browser keeps the settings (image, overlay, classes, window, layout, comparison); changing them
runs no Python. Volumes are sent as addresses: the browser fetches each one once, however often the
script runs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import streamlit.components.v1 as components
from streamlit import runtime

from brats_tfrecord import spec

__all__ = ["Layer", "View", "canvas"]

KINDS = ("image", "labels", "scalar")
TRUTH = "truth"
"""Name of the label layer with which the prediction is compared."""

LAYOUTS = ("planes", "large", "axial", "coronal", "sagittal", "render")
STYLES = ("fill", "contour", "both")
COMPARISONS = ("off", "side", "difference")

_component = components.declare_component("canvas", path=Path(__file__).with_name("frontend"))


@dataclass(frozen=True)
class Layer:
    """A volume that the canvas can display.

    Attributes:
        name: unique key of the layer; "truth" is the reference of comparisons.
        title: name on the page.
        kind: "image" (grey), "labels" (canonical class ids, uint8) or "scalar" (a probability
            or an entropy, in colours).
        nifti: bytes of a .nii.gz file; all layers of a canvas share one voxel grid.
        shown_range: (low, high) of a scalar's colours; None for 0 to its maximum.
    """

    name: str
    title: str
    kind: str
    nifti: bytes
    shown_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind of layer {self.name!r} is {self.kind!r}; one of {KINDS}")


@dataclass(frozen=True)
class View:
    """Initial settings of the canvas.

    If a field changes between two runs of the script, the new value is applied; the other fields
    stay as the user has set them.

    Attributes:
        image: name of the image; None for the first.
        overlay: name of the label or scalar layer over the image; None for no overlay.
        layout: "planes" (three planes and the rendering), "large" (the axial plane large),
            "axial", "coronal", "sagittal" or "render".
        style: "fill", "contour" or "both", for label layers.
        opacity: opacity of fills and scalars, 0 to 1.
        neurological: whether the patient's right is on the right of the picture.
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

    def __post_init__(self) -> None:
        for field, allowed in (("layout", LAYOUTS), ("style", STYLES), ("compare", COMPARISONS)):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is {getattr(self, field)!r}; one of {allowed}")


def canvas(
    layers: Sequence[Layer],
    *,
    classes: int,
    initial: View,
    key: str,
    picture_name: str = "view",
    go_to_mm: Sequence[float] | None = None,
    go_to_count: int = 0,
    height: int | None = None,
    report_crosshair: bool = False,
) -> dict[str, Any] | None:
    """Shows the canvas.

    Args:
        layers: at least one of kind "image".
        classes: number of classes in the legend, background included.
        initial: the settings to open with.
        key: Streamlit's key; the browser keeps the user's settings as long as it is the same.
        picture_name: beginning of the names of saved pictures.
        go_to_mm: RAS (x, y, z) in millimetres to move the crosshair to. It moves only if this or
            `go_to_count` differs from the previous run.
        go_to_count: a number to increase for a second jump to the same point.
        height: pixels; None fills the browser's window, with room for a line above.
        report_crosshair: whether to run the script again after the crosshair has moved.

    Returns:
        None until the browser reports something; {"webgl": False} if it has no WebGL 2; with
        `report_crosshair`, {"mm": [x, y, z], "values": {layer name: value}} of the displayed
        layers.

    Raises:
        ValueError: two layers share a name, or none is an image.
    """
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        raise ValueError(f"layers share a name: {names}")
    if not any(layer.kind == "image" for layer in layers):
        raise ValueError("no layer of kind 'image' to draw")
    return _component(
        layers=[_layer_entry(layer, key) for layer in layers],
        classes=[_class_entry(class_id) for class_id in range(1, classes)],
        initial=asdict(initial),
        picture_name=picture_name,
        go_to=None if go_to_mm is None else [*map(float, go_to_mm), go_to_count],
        height=height,
        report=report_crosshair,
        key=key,
        default=None,
    )


def _layer_entry(layer, key):
    return {
        "name": layer.name,
        "title": layer.title,
        "kind": layer.kind,
        "file": _publish(layer, key),
        "range": layer.shown_range,
    }


def _class_entry(class_id):
    return {
        "id": class_id,
        "name": spec.CLASS_NAMES[class_id],
        "title": spec.CLASS_TITLES[class_id],
        "colour": spec.CLASS_COLOURS[class_id],
    }


def _publish(layer, key):
    """Returns the file name under which Streamlit's media route serves the layer."""
    if not runtime.exists():
        return ""
    # Streamlit hashes only the ends and the middle of large files.
    digest = hashlib.sha256(layer.nifti).hexdigest()
    address = runtime.get_instance().media_file_mgr.add(
        layer.nifti, "application/octet-stream", f"{key}.{layer.name}", file_name=digest
    )
    return address.rsplit("/", 1)[-1]
