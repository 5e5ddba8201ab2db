"""2-D mode for browsers without WebGL 2: the server draws the images."""

from collections.abc import Callable
from typing import Any

import numpy as np
import streamlit as st

from app import canvas_layers, memory, messages, render
from app.jobs import Result
from app.scene import Scene
from brats_tfrecord import spec
from brats_tfrecord.report.slices import PLANES, grey_window

_DIRECTIONS = {"axial": "I → S", "coronal": "A → P", "sagittal": "R → L"}
"""Plane -> the direction in which its slices are numbered."""


def show(
    scene: Scene, result: Result | None, classes: int, centre: tuple[int, int, int] | None
) -> None:
    """Shows three linked planes with sliders; a change redraws the images and nothing else.

    Args:
        scene: the case.
        result: its segmentation, or None.
        classes: number of classes in the legend, background included.
        centre: voxel (x, y, z) at which the crosshair starts, or None for the brain's centre.
    """
    st.caption("This browser has no WebGL 2: plain pictures instead of the interactive view.")
    state = st.session_state
    field = _cached("field", scene, lambda: _field_of(scene))
    opened_at = (scene.digest, result is not None, centre)
    if state.get("flat_opened_at") != opened_at:
        state.flat_opened_at = opened_at
        state.flat_overlay = "Prediction" if result else "Truth" if scene.truth_ml else "None"
        position = centre or render.middle_of(field, scene.geometry.lps_shape)
        for plane in PLANES:
            state[f"slice_{plane.name}"] = position[plane.axis]
    _show_planes(scene, result, classes, field)


def _field_of(scene):
    with memory.READING.reader() as reserve:
        reserve(scene.unpacked_bytes)
        return render.field_of_view(scene.unpacked().raw.volumes, scene.geometry.spacing_mm)


@st.fragment
def _show_planes(scene, result, classes, field):
    with messages.one_line_errors():
        modality, overlay, opacity, shown = _show_controls(scene, result, classes)
        volume = scene.volume(modality)
        by_axis = {plane.axis: st.session_state[f"slice_{plane.name}"] for plane in PLANES}
        position = tuple(by_axis[axis] for axis in range(3))
        window = _cached(f"window_{modality}", scene, lambda: grey_window(volume[volume != 0]))
        # All are drawn before the first is sent, so that the planes change together.
        pictures = render.plane_urls(
            volume,
            position,
            window=window,
            field=field,
            classes=overlay,
            shown=shown,
            opacity=opacity,
        )
        for column, picture, plane in zip(st.columns(3), pictures, PLANES):
            with column:
                st.image(picture, width="stretch")
                st.slider(
                    f"{plane.name.capitalize()} slice ({_DIRECTIONS[plane.name]})",
                    0,
                    volume.shape[plane.axis] - 1,
                    key=f"slice_{plane.name}",
                )
        x, y, z = (float(mm) for mm in (scene.geometry.lps_affine @ (*position, 1))[:3])
        st.caption(
            f"Crosshair: voxel {position} in LPS order, RAS ({x:.1f}, {y:.1f}, {z:.1f}) mm, "
            f"{canvas_layers.MODALITY_TITLES[modality]} {volume[position]:.0f}. Radiological "
            "convention: the patient's right is on the left."
        )


def _show_controls(scene, result, classes):
    """Returns (modality, overlay or None, opacity, ids of the classes to colour)."""
    image_column, overlay_column, opacity_column = st.columns(3)
    modality = image_column.segmented_control(
        "Image",
        [layer.name for layer in scene.layers if layer.kind == "image"],
        required=True,
        default=scene.layers[0].name,
        key=f"flat_image_{scene.digest[:8]}",
        format_func=canvas_layers.MODALITY_TITLES.__getitem__,
    )
    overlays = {}
    if result:
        overlays["Prediction"] = lambda: canvas_layers.array_of(result.layers[0], scene.geometry)
    if scene.truth_ml:
        overlays["Truth"] = scene.truth
    overlay = overlay_column.segmented_control(
        "Overlay", [*overlays, "None"], required=True, key="flat_overlay"
    )
    opacity = opacity_column.slider("Opacity (%)", 0, 100, 50, 5, key="flat_opacity")
    shown = [
        class_id
        for class_id, column in zip(range(1, classes), st.columns(classes - 1))
        if _class_checkbox(column, class_id)
    ]
    return modality, overlays[overlay]() if overlay in overlays else None, opacity / 100, shown


def _class_checkbox(column, class_id):
    """Shows a check box with the colour, name and title of a class."""
    swatch = render.png_data_url(
        np.full((12, 12, 3), render.rgb_of(spec.CLASS_COLOURS[class_id]), np.uint8)
    )
    name, title = spec.CLASS_NAMES[class_id], spec.CLASS_TITLES[class_id]
    return column.checkbox(f"![{name}]({swatch}) **{name}** {title}", True, key=f"class_{class_id}")


def _cached(name: str, scene: Scene, compute: Callable[[], Any]) -> Any:
    """Returns `compute()`, called once per case and session."""
    cache = st.session_state.get("flat_cache")
    if cache is None or cache[0] != scene.digest:
        cache = st.session_state.flat_cache = (scene.digest, {})
    values: dict[str, Any] = cache[1]
    if name not in values:
        values[name] = compute()
    return values[name]
