"""The sidebar's way to a case: a folder, an upload, or a phantom."""

import streamlit as st

from app import intake, messages
from app import scene as scenes
from brats_tfrecord import spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.phantom import generate

FOLDER, UPLOAD, PHANTOM = "Folder", "Upload", "Phantom"
LEFT_OUT = "left out"
PHANTOM_SEED, PHANTOM_INDEX = 2027, 0


def choose_case(batch, segmenter):
    """Asks for a case; returns its `scene.Scene`, or None as long as there is none.

    Args:
        batch: the `batch.Batch` of --cases_dir, or None.
        segmenter: the `Segmenter`.
    """
    sources = [FOLDER, UPLOAD, PHANTOM] if batch else [UPLOAD, PHANTOM]
    # A default, not a value set in the session's state: that would be sent after a click made
    # while the page is still being drawn, and take the click back.
    source = st.segmented_control(
        "Case", sources, default=sources[0], required=True, width="stretch", key="source"
    )
    any_spacing = segmenter.recipe.any_spacing
    if source == PHANTOM:
        return _prepared((PHANTOM,), _phantom)
    if source == UPLOAD:
        return _uploaded(segmenter.modalities, any_spacing)
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
    st.button("← All cases", on_click=_close, width="stretch", key="close")
    return _prepared(
        (FOLDER, case_id), lambda: intake.load_case(batch.cases[case_id], any_spacing=any_spacing)
    )


def folder_case():
    """The id of the case that was chosen from the folder, or None."""
    state = st.session_state
    return state.get("case") if state.get("source") == FOLDER else None


def _close():
    st.session_state.case = None


def _phantom():
    """A patient that never was, of the size of BraTS volumes, with its truth."""
    made = generate.make_case(PHANTOM_SEED, PHANTOM_INDEX)
    return intake.from_arrays("Phantom", made.volumes, made.mask, generate.geometry())


def _uploaded(needed, any_spacing):
    """Takes files, shows what each was recognised as, returns the `scene.Scene` once that fits."""
    uploads = st.file_uploader(
        f"NIfTI files of one case in one drop: {', '.join(needed)}, and a segmentation if there "
        "is one",
        type=["nii", "gz"],
        accept_multiple_files=True,
        key="uploads",
    )
    if not uploads:
        return None
    problem = st.empty()  # above the boxes, which may fill the screen
    contents = [upload.getvalue() for upload in uploads]
    recognised = intake.recognise([upload.name for upload in uploads], contents)
    try:
        assignment = _assigned(uploads, recognised, needed)
        scheme = recognised.label_scheme
        if "seg" in assignment and (scheme is None or assignment != dict(recognised.kinds)):
            scheme = _label_scheme(recognised.files[assignment["seg"]].label_scheme)
        return _prepared(
            (UPLOAD, scheme, *sorted(assignment.items()), *(file.file_id for file in uploads)),
            lambda: intake.load_uploads(
                [(file.name, content) for file, content in zip(uploads, contents)],
                assignment,
                needed,
                label_scheme=scheme,
                any_spacing=any_spacing,
            ),
        )
    except InputError as error:
        with problem:
            messages.show(error)
        return None


def _assigned(uploads, recognised, needed):
    """kind -> index of the file: what the names say, or what a person chose."""
    kinds = {index: kind for kind, index in recognised.kinds.items()}
    is_open = bool(recognised.conflicts or recognised.ignored) or not (
        set(needed) <= set(recognised.kinds) or intake.FOUR_D in recognised.kinds
    )
    title = f"Recognised: {', '.join(recognised.kinds) or 'nothing'}"
    with st.expander(title, expanded=is_open):
        for conflict in recognised.conflicts:
            st.warning(messages.plain(conflict))
        chosen = {
            index: st.selectbox(
                messages.plain(file.shown),
                [*intake.KINDS, LEFT_OUT],
                index=[*intake.KINDS, LEFT_OUT].index(kinds.get(index, LEFT_OUT)),
                format_func=lambda kind: intake.KINDS.get(kind, LEFT_OUT),
                # What was recognised may change with the files beside it; a new box then says so.
                key=f"kind_{uploads[index].file_id}_{kinds.get(index, '')}",
            )
            for index, file in enumerate(recognised.files)
        }
    assignment = {}
    for index, kind in chosen.items():
        if kind in assignment:
            raise InputError(
                f"{recognised.files[index].shown}: is taken as {kind}, as is "
                f"{recognised.files[assignment[kind]].shown}; choose another kind, or "
                f'"{LEFT_OUT}", for one of them'
            )
        if kind != LEFT_OUT:
            assignment[kind] = index
    return assignment


def _label_scheme(known):
    """Asks what the values of a mask mean, where its name does not tell."""
    schemes = list(spec.LABEL_SCHEMES)
    return st.selectbox(
        "Label scheme of the segmentation",
        schemes,
        key="label_scheme",
        index=schemes.index(known) if known else None,
        format_func=lambda name: f"{name} ({_meaning(name)})",
    )


def _meaning(scheme):
    values = spec.LABEL_SCHEMES[scheme].values
    return ", ".join(f"{value} {name}" for value, name in list(zip(values, spec.CLASS_NAMES))[1:])


def _prepared(chosen, load):
    """The `scene.Scene` of the choice `chosen`; read anew only when the choice has changed."""
    state = st.session_state
    if state.get("chosen") != chosen:
        state.pop("scene", None)  # two cases at once would take twice the memory
        state.chosen = None
        with st.spinner("Reading…"):
            state.scene = scenes.prepare(load())
        state.chosen = chosen
    return state.scene
