"""Sidebar controls to choose a case from a folder, an upload, or a phantom."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import streamlit as st

from app import intake, memory, messages, readings, uploads
from app import scene as scenes
from app.batch import Batch
from brats_tfrecord import spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.phantom import generate

if TYPE_CHECKING:  # imports TensorFlow, which takes seconds
    from brats_tfrecord.serving.predict import Segmenter

FOLDER, UPLOAD, PHANTOM = "Folder", "Upload", "Phantom"
LEFT_OUT = "left out"
PHANTOM_SEED, PHANTOM_INDEX = 2027, 0
_PHANTOM_BYTES = 600 << 20
"""Peak bytes of making the phantom."""


def choose_case(batch: Batch | None, segmenter: Segmenter) -> scenes.Scene | None:
    """Shows the controls; returns the chosen case, or None if none is chosen.

    Args:
        batch: the cases of --cases_dir, or None.
        segmenter: the model; decides which modalities and spacings a case needs.
    """
    sources = [FOLDER, UPLOAD, PHANTOM] if batch else [UPLOAD, PHANTOM]
    # A default, not a value in the session's state: Streamlit would send that value after a click
    # that is made while the page is still being drawn, and undo the click.
    source = st.segmented_control(
        "Case", sources, default=sources[0], required=True, width="stretch", key="source"
    )
    any_spacing = segmenter.recipe.any_spacing
    if source != UPLOAD:
        uploads.keep_only(())
    if source == PHANTOM:
        return _scene_of((PHANTOM,), _make_phantom)
    if source == UPLOAD:
        return _choose_uploads(segmenter, any_spacing)
    assert batch is not None  # FOLDER is offered only with a batch
    return _choose_from_folder(batch, any_spacing)


def _choose_from_folder(batch, any_spacing):
    if st.session_state.get("kept_case") and "case" not in st.session_state:
        st.session_state.case = st.session_state.kept_case  # back from another source
    case_id = st.selectbox(
        "Case from the folder",
        list(batch.cases),
        index=None,
        key="case",
        placeholder=f"Search {len(batch.cases)} cases",
        label_visibility="collapsed",
    )
    st.session_state.kept_case = case_id
    if case_id is None:
        return None
    st.button("← All cases", on_click=_close_case, width="stretch", key="close")
    return _scene_of(
        (FOLDER, case_id),
        lambda reserve: intake.load_case(
            batch.cases[case_id], any_spacing=any_spacing, reserve=reserve
        ),
    )


def folder_case() -> str | None:
    """Returns the id of the case that is chosen from the folder, or None."""
    state = st.session_state
    return state.get("case") if state.get("source") == FOLDER else None


def _close_case():
    st.session_state.case = None


def _make_phantom(reserve):
    """Returns a synthetic case of the size of BraTS volumes, with its truth."""
    reserve(_PHANTOM_BYTES)
    phantom = generate.make_case(PHANTOM_SEED, PHANTOM_INDEX)
    return intake.from_arrays("Phantom", phantom.volumes, phantom.mask, generate.geometry())


def _choose_uploads(segmenter, any_spacing):
    """Shows the uploader and the kind of each file; returns the `Scene` if they form a case."""
    needed = segmenter.card.missing.always_there(segmenter.modalities)
    optional = "" if needed else " (some may be missing)"
    try:
        chosen = uploads.file_uploader(
            f"NIfTI files of one case in one drop: {', '.join(segmenter.modalities)}{optional}, "
            "and a segmentation if there is one"
        )
    except InputError as error:
        messages.show(error)
        return None
    if not chosen:
        return None
    problem = st.empty()  # above the boxes, which may fill the screen
    contents = [upload.getvalue() for upload in chosen]
    recognised = intake.recognise([upload.name for upload in chosen], contents)
    try:
        assignment, scheme = _ask(chosen, recognised, needed)
        return _scene_of(
            (UPLOAD, scheme, *sorted(assignment.items()), *(file.file_id for file in chosen)),
            lambda reserve: intake.load_uploads(
                [(file.name, content) for file, content in zip(chosen, contents)],
                assignment,
                needed,
                label_scheme=scheme,
                any_spacing=any_spacing,
                reserve=reserve,
            ),
        )
    except InputError as error:
        with problem:
            messages.show(error)
        return None


def _ask(chosen, recognised, needed):
    """Shows the recognition, to be corrected; returns (kind -> index, label scheme or None).

    The name of a mask may be wrong about its label scheme, so its box is always there.
    """
    kinds = {index: kind for kind, index in recognised.kinds.items()}
    is_open = bool(recognised.conflicts or recognised.ignored) or not (
        set(needed) <= set(recognised.kinds) or intake.FOUR_D in recognised.kinds
    )
    title = f"Recognised: {', '.join(recognised.kinds) or 'nothing'}"
    details = st.expander(title, expanded=is_open)
    with details:
        for conflict in recognised.conflicts:
            st.warning(messages.plain(conflict))
        kind_of = {
            index: st.selectbox(
                messages.plain(file.shown),
                [*intake.KINDS, LEFT_OUT],
                index=[*intake.KINDS, LEFT_OUT].index(kinds.get(index, LEFT_OUT)),
                format_func=lambda kind: intake.KINDS.get(kind, LEFT_OUT),
                # Other files may change what a file is recognised as; a new key shows the new kind.
                key=f"kind_{chosen[index].file_id}_{kinds.get(index, '')}",
            )
            for index, file in enumerate(recognised.files)
        }
    assignment = _assignment(recognised, kind_of)
    if "seg" not in assignment:
        return assignment, None
    mask = assignment["seg"]
    known = recognised.files[mask].label_scheme
    with details if known else contextlib.nullcontext():
        scheme = _choose_label_scheme(known, f"label_scheme_{chosen[mask].file_id}_{known}")
    return assignment, scheme


def _assignment(recognised, kind_of):
    """Returns kind -> index; raises `InputError` if two files have one kind."""
    assignment: dict[str, int] = {}
    for index, kind in kind_of.items():
        if kind in assignment:
            raise InputError(
                f"{recognised.files[index].shown}: is taken as {kind}, as is "
                f"{recognised.files[assignment[kind]].shown}; choose another kind, or "
                f'"{LEFT_OUT}", for one of them'
            )
        if kind != LEFT_OUT:
            assignment[kind] = index
    return assignment


def _choose_label_scheme(known, key):
    """Asks for the label scheme of a mask; `known` is the one from its name, or None.

    The `key` belongs to the mask: a choice for one file must not apply to the next.
    """
    schemes = list(spec.LABEL_SCHEMES)
    return st.selectbox(
        "Label scheme of the segmentation",
        schemes,
        key=key,
        index=schemes.index(known) if known else None,
        format_func=readings.meaning_of,
    )


def _scene_of(choice, load):
    """Returns the `Scene` of `load(reserve)`, called only if `choice` differs from the last."""
    state = st.session_state
    if state.get("chosen") != choice:
        state.pop("scene", None)  # frees the last case before the next is read
        state.chosen = None
        with st.spinner("Reading…"), memory.READING.reader() as reserve:
            state.scene = scenes.prepare(load(reserve))
        state.chosen = choice
    return state.scene
