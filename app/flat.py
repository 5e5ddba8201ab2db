"""The plain 2-D mode: pictures drawn by the server, for browsers that cannot draw themselves."""

import numpy as np
import streamlit as st

from app import canvas_layers, messages, render
from brats_tfrecord import spec


def show(scene, result, classes, centre):
    """Three linked planes with sliders; a change draws pictures and runs nothing else.

    Args:
        scene: `scene.Scene`.
        result: `jobs.Result`, or None.
        classes: number of classes in the legend, background included.
        centre: voxel (x, y, z) where the crosshair starts, or None.
    """
    st.caption("This browser has no WebGL 2: plain pictures instead of the interactive view.")
    state = st.session_state
    field = _kept(
        "field",
        scene,
        lambda: render.field_of_view(scene.unpacked().raw.volumes, scene.geometry.spacing_mm),
    )
    at = (scene.digest, result is not None, centre)
    if state.get("flat_at") != at:
        state.flat_at = at
        state.flat_overlay = "Prediction" if result else "Truth" if scene.truth_ml else "None"
        position = centre or render.middle_of(field, scene.geometry.lps_shape)
        for plane, laid in render.PLANES.items():
            state[f"slice_{plane}"] = position[laid.axis]
    _planes(scene, result, classes, field)


@st.fragment
def _planes(scene, result, classes, field):
    with messages.one_line_errors():
        modality, overlay, opacity, shown = _controls(scene, result, classes)
        volume = scene.volume(modality)
        by_axis = {
            laid.axis: st.session_state[f"slice_{plane}"] for plane, laid in render.PLANES.items()
        }
        position = tuple(by_axis[axis] for axis in range(3))
        window = _kept(f"window_{modality}", scene, lambda: render.window_of(volume))
        # All drawn before any is sent, so that the planes change together.
        pictures = [
            render.png_data_url(
                render.render_plane(
                    volume,
                    plane,
                    position,
                    window=window,
                    field=field,
                    classes=overlay,
                    shown=shown,
                    opacity=opacity,
                )
            )
            for plane in render.PLANES
        ]
        for column, picture, (plane, laid) in zip(st.columns(3), pictures, render.PLANES.items()):
            with column:
                st.image(picture, width="stretch")
                st.slider(
                    f"{plane.capitalize()} slice ({laid.towards})",
                    0,
                    volume.shape[laid.axis] - 1,
                    key=f"slice_{plane}",
                )
        x, y, z = (float(mm) for mm in (scene.geometry.lps_affine @ (*position, 1))[:3])
        st.caption(
            f"Crosshair: voxel {position} in LPS order, RAS ({x:.1f}, {y:.1f}, {z:.1f}) mm, "
            f"{canvas_layers.MODALITY_TITLES[modality]} {volume[position]:.0f}. Radiological "
            "convention: the patient's right is on the left."
        )


def _controls(scene, result, classes):
    """(modality, uint8 [X, Y, Z] or None, opacity, ids of the classes to show)."""
    image, over, cover = st.columns(3)
    modality = image.segmented_control(
        "Image",
        [layer.name for layer in scene.layers if layer.kind == "image"],
        required=True,
        default=scene.layers[0].name,
        key=f"flat_image_{scene.digest[:8]}",
        format_func=canvas_layers.MODALITY_TITLES.get,
    )
    overlays = {
        "Prediction": result and (lambda: canvas_layers.array_of(result.layers[0], scene.geometry)),
        "Truth": scene.truth_ml and scene.truth,
    }
    overlay = over.segmented_control(
        "Overlay",
        [name for name, there in overlays.items() if there] + ["None"],
        required=True,
        key="flat_overlay",
    )
    opacity = cover.slider("Opacity (%)", 0, 100, 50, 5, key="flat_opacity")
    shown = [
        class_id
        for class_id, column in zip(range(1, classes), st.columns(classes - 1))
        if _class_toggle(column, class_id)
    ]
    return modality, overlays[overlay]() if overlay in overlays else None, opacity / 100, shown


def _class_toggle(column, class_id):
    """A check box with the class's colour, name and title."""
    swatch = render.png_data_url(
        np.full((12, 12, 3), render.rgb_of(spec.CLASS_COLOURS[class_id]), np.uint8)
    )
    name, title = spec.CLASS_NAMES[class_id], spec.CLASS_TITLES[class_id]
    return column.checkbox(f"![{name}]({swatch}) **{name}** {title}", True, key=f"class_{class_id}")


def _kept(name, scene, make):
    """What `make` gives for this case, made once a session."""
    kept = st.session_state.get("flat_kept")
    if kept is None or kept[0] != scene.digest:
        kept = st.session_state.flat_kept = (scene.digest, {})
    if name not in kept[1]:
        kept[1][name] = make()
    return kept[1][name]
