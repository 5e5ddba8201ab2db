"""What the page shows of a case: the view's controls, the linked planes, the numbers."""

import html
import re
from dataclasses import dataclass

import intake
import messages
import numpy as np
import render
import streamlit as st

from brats_tfrecord import spec

# A Dice on a case that the model has learnt from proves nothing.
USES = {
    "train": "A case of this name was used to **train** this model.",
    "select": "A case of this name was used to **select** this model.",
    "unseen": "No case of this name was used to train or select this model.",
}


@dataclass(frozen=True)
class Scene:
    """A case prepared for showing: what stays the same while sliders move."""

    case: intake.LoadedCase
    field: tuple
    windows: dict


@dataclass(frozen=True)
class View:
    """What the sidebar asks for."""

    modality: str
    classes: np.ndarray | None
    shown: tuple[int, ...]
    opacity: float


def choose_view(scene, result, scheme):
    """The sidebar's controls; returns the `View` they ask for."""
    case, state = scene.case, st.session_state
    overlays = {"Prediction": result.classes if result else None, "Truth": case.truth}
    overlays = {name: classes for name, classes in overlays.items() if classes is not None}
    shown = (case.digest, result is not None)
    if state.get("shown") != shown or "slice_axial" not in state:
        state.shown = shown
        state.overlay = "Prediction" if result else "None"
        centre_slices(scene, *overlays.values())
    modalities = case.raw.modalities
    if state.get("modality") not in modalities:
        state.modality = "flair" if "flair" in modalities else modalities[0]
    modality = st.segmented_control("Image", modalities, required=True, width="stretch",
                                    key="modality", format_func=str.upper)
    overlay = st.segmented_control("Overlay", [*overlays, "None"], required=True, width="stretch",
                                   key="overlay")
    opacity = st.slider("Opacity of the overlay (%)", 0, 100, 50, 5, key="opacity")
    st.markdown(":small[Classes (file value)]")
    ticked = tuple(class_id for class_id in range(1, scheme.classes)
                   if class_toggle(class_id, scheme.values[class_id]))
    return View(modality, overlays.get(overlay), ticked, opacity / 100)


def class_toggle(class_id, file_value):
    """A check box with the class's colour, name, title and value in files."""
    swatch = render.png_data_url(np.full((12, 12, 3), render.rgb_of(spec.CLASS_COLOURS[class_id]),
                                         np.uint8))
    name, title = spec.CLASS_NAMES[class_id], spec.CLASS_TITLES[class_id]
    return st.checkbox(f"![{name}]({swatch}) **{name}** {title} ({file_value})", True,
                       key=f"class_{class_id}")


def centre_slices(scene, *label_maps):
    """Moves the crosshair to the first tumour in `label_maps`, else to the brain's middle."""
    centres = (render.centre_of(classes) for classes in label_maps)
    shape = scene.case.raw.volumes.shape[:3]
    position = next(filter(None, centres), None) or render.middle_of(scene.field, shape)
    for plane, laid in render.PLANES.items():
        st.session_state[f"slice_{plane}"] = position[laid.axis]


@st.fragment
def show_planes(scene, view):
    """Three linked planes with their sliders; a slider redraws only this part of the page."""
    with messages.one_line_errors():
        raw = scene.case.raw
        by_axis = {laid.axis: st.session_state[f"slice_{plane}"]
                   for plane, laid in render.PLANES.items()}
        position = tuple(by_axis[axis] for axis in range(3))
        volume = raw.volumes[..., raw.modalities.index(view.modality)]
        # All drawn before any is sent, so that the planes change together.
        pictures = [render.png_data_url(render.render_plane(
            volume, plane, position, window=scene.windows[view.modality], field=scene.field,
            classes=view.classes, shown=view.shown, opacity=view.opacity))
            for plane in render.PLANES]
        for column, picture, (plane, laid) in zip(st.columns(3), pictures, render.PLANES.items()):
            with column:
                st.image(picture, width="stretch")
                st.slider(f"{plane.capitalize()} slice ({laid.towards})", 0,
                          volume.shape[laid.axis] - 1, key=f"slice_{plane}")
        x, y, z = (float(mm) for mm in (raw.geometry.lps_affine @ (*position, 1))[:3])
        st.caption(f"{messages.plain(raw.case_id)}, crosshair: voxel {position} in LPS order, "
                   f"RAS ({x:.1f}, {y:.1f}, {z:.1f}) mm, "
                   f"{view.modality.upper()} {volume[position]:.0f}")


def show_numbers(case, result, segmenter):
    """Volumes, Dice, times, and the download."""
    label_maps = {"Prediction": result.classes} if result else {}
    if case.truth is not None:
        label_maps["Truth"] = case.truth
    if not label_maps:
        st.info("Press **Segment** in the sidebar to run the network on this case.")
        return
    voxel_ml = float(np.prod(case.raw.geometry.spacing_mm)) / 1000
    volumes = {title: np.bincount(classes.ravel(), minlength=len(spec.CLASS_NAMES)) * voxel_ml
               for title, classes in label_maps.items()}
    classes, regions, rest = st.columns((1, 1.15, 0.85))
    with classes:
        st.html(table(("Class (mL)", *volumes), [
            (titled(spec.CLASS_COLOURS[class_id], spec.CLASS_NAMES[class_id]),
             *(f"{of_class[class_id]:.1f}" for of_class in volumes.values()))
            for class_id in range(1, segmenter.scheme.classes)]))
    with regions:
        dice = result.metrics if result else None
        st.html(table(("Region (mL)", *volumes, *(["Dice"] if dice else [])), [
            (titled(None, f"{region} {spec.REGION_TITLES[region]}"),
             *(f"{of_class[list(ids)].sum():.1f}" for of_class in volumes.values()),
             *([f"{dice[region]['dice']:.3f}"] if dice else []))
            for region, ids in spec.REGIONS.items()]))
    with rest:
        if result:
            st.download_button("Download NIfTI (.nii.gz)", result.nifti, key="download",
                               file_name=download_name(case.raw.case_id), width="stretch",
                               mime="application/gzip", on_click="ignore")
            stages = " · ".join(f"{name} {spent:.1f} s" for name, spent in result.seconds.items())
            st.caption(f"{stages}  \n{USES[segmenter.card.use_of(case.raw.case_id)]}")


def download_name(case_id):
    """A harmless file name; not `…_seg`, which names the truth."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", case_id).lstrip(".") + "_prediction.nii.gz"


def titled(colour, title):
    """A table cell: a swatch of `colour`, unless it is None, and the title."""
    swatch = f'<span class="swatch" style="background:{colour}"></span>' if colour else ""
    return swatch + html.escape(title)


def table(head, rows):
    """An HTML table of cells that are HTML already."""
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="numbers"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'
