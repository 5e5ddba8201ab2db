"""Segments brain tumours in the browser and shows them over the images.

Usage:
    streamlit run app/viewer.py -- --model=build/demo/model/saved_model \
        --cases_dir=build/demo/cohort

Flags:
    --model      folder of an exported SavedModel (required; a SavedModel is code: load only
                 what you trust).
    --cases_dir  folder of cases in a BraTS or MSD layout to choose from; without it, upload files.
    --label_scheme  what the masks of --cases_dir hold, where names do not tell: brats2020,
                 brats2023, brats2024 or msd.

The server listens on this machine alone (`app/.streamlit/config.toml`).
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import intake
import jobs
import messages
import panels
import render
import streamlit as st

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts
from brats_tfrecord.errors import InputError

# Segmentations that a session remembers, some 10 MB each.
KEPT_RESULTS = 8

STYLE = """<style>
.stMainBlockContainer {padding: 1.6rem 2rem 1rem}
[data-testid="stSidebarHeader"] {height: 2.2rem; margin-bottom: 0}
[data-testid="stSidebarUserContent"] {padding-bottom: 1rem}
[data-testid="stSidebarUserContent"] [data-testid="stVerticalBlock"] {gap: .7rem}
.numbers {border-collapse: collapse; font-size: .88rem; width: 100%}
.numbers th {text-align: right; font-weight: 600; opacity: .75}
.numbers th, .numbers td {padding: .15rem .5rem; border-bottom: 1px solid #30363d}
.numbers td {text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap}
.numbers th:first-child, .numbers td:first-child {text-align: left; padding-left: 0}
[data-testid="stFileUploaderDropzone"] {padding: .4rem}
[data-testid="stFileChips"] > div {gap: 0}
[data-testid="stFileChip"] {padding: .1rem .3rem}
[data-testid="stFileChip"] > div:first-child {display: none}
.swatch {display: inline-block; width: .8em; height: .8em; margin-right: .5em}
</style>"""


def main():
    """Draws the page; Streamlit calls it anew after every change."""
    st.set_page_config("Brain tumour segmentation", layout="wide")
    st.html(STYLE)
    with messages.one_line_errors():
        options = parse_arguments(sys.argv[1:])
        refuse_open_network()
        segmenter = load_segmenter(options.model)
        st.markdown("##### Brain tumour segmentation")
        st.caption("Research software, not a medical device: not for diagnosis or treatment. "
                   "Radiological convention: the patient's right is on the left of the picture.")
        with st.sidebar:
            scene = choose_case(options, segmenter)
        if scene is None:
            st.session_state.pop("shown", None)
            st.info("Choose a case in the sidebar to see its images, then press **Segment**. "
                    f"This model reads {', '.join(segmenter.modalities).upper()}.")
            return
        with st.sidebar:
            job = segmentation_of(scene.case, segmenter)
            result = job.result if job else None
            view = panels.choose_view(scene, result, segmenter.scheme)
        panels.show_planes(scene, view)
        panels.show_numbers(scene.case, result, segmenter)


def parse_arguments(arguments):
    """The command line after `--`; raises `InputError` where argparse would end the server."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cases_dir")
    parser.add_argument("--label_scheme", default="auto", choices=("auto", *spec.LABEL_SCHEMES))

    def refuse(message):
        raise InputError(f"{message}; start the viewer as: streamlit run app/viewer.py -- "
                         "--model=…/saved_model [--cases_dir=…]")

    parser.error = refuse
    return parser.parse_args(arguments)


def refuse_open_network():
    """Without our config.toml Streamlit listens on every network card; then nothing is shown."""
    if not st.get_option("server.address"):
        raise InputError("app/.streamlit/config.toml was not read, so this page would be open to "
                         "the network; restart it with streamlit run --server.address=127.0.0.1")


@st.cache_resource(show_spinner="Loading the model…")
def load_segmenter(model):
    """Loads the SavedModel once for all sessions."""
    # TensorFlow's greetings look like errors in the server's log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # It takes seconds to import; the page shows the spinner meanwhile.
    from brats_tfrecord.serving.predict import Segmenter

    return Segmenter(model)


@st.cache_resource(show_spinner=False)
def pool():
    """One thread for all sessions: segmentations queue, rather than fight for the machine."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="segment")


@st.cache_data(show_spinner=False, ttl=60)
def list_cases(cases_dir, label_scheme):
    """The cohort's cases; looked for again after a minute."""
    return layouts.find_cases(cases_dir, label_scheme=label_scheme)


def choose_case(options, segmenter):
    """Asks for a case; returns its `panels.Scene`, or None as long as there is none."""
    source = "Upload"
    if options.cases_dir:
        source = st.segmented_control("Case", ["Folder", "Upload"], default="Folder",
                                      required=True, width="stretch", key="source")
    if source == "Folder":
        cases = {case.case_id: case for case in list_cases(
            options.cases_dir, options.label_scheme)}
        case_id = st.selectbox("Case from the folder", list(cases), index=None, key="case",
                               placeholder=f"Choose one of {len(cases)}",
                               label_visibility="collapsed")
        if case_id is None:
            return None
        return prepared(("folder", case_id), lambda: intake.load_case(
            cases[case_id], any_spacing=segmenter.recipe.any_spacing))
    return uploaded_case(segmenter.modalities, segmenter.recipe.any_spacing)


def uploaded_case(needed, any_spacing):
    """Takes files, says what was recognised, returns the `panels.Scene` once nothing is missing."""
    uploads = st.file_uploader(
        f"Files ending in {', '.join('_' + name for name in needed)} (.nii or .nii.gz); "
        "_seg adds the truth", type=["nii", "gz"], accept_multiple_files=True, key="uploads")
    if not uploads:
        return None
    contents = [upload.getvalue() for upload in uploads]
    recognised = intake.recognise([upload.name for upload in uploads], contents)
    if recognised.conflicts:
        raise InputError(recognised.conflicts[0])
    found = f"Recognised in {recognised.case_id or 'no file'}: {', '.join(recognised.kinds)}"
    ignored = [f"Not recognised: {name}" for name in recognised.ignored]
    st.caption("  \n".join(messages.plain(line) for line in (found, *ignored)))
    scheme = recognised.label_scheme
    if recognised.asks_label_scheme:
        scheme = st.selectbox("Label scheme of the truth", list(spec.LABEL_SCHEMES), index=None,
                              key="label_scheme")
    return prepared(
        ("upload", scheme, *(upload.file_id for upload in uploads)),
        lambda: intake.load_uploads(
            [(file.name, content) for file, content in zip(uploads, contents)], recognised.kinds,
            needed, label_scheme=scheme, any_spacing=any_spacing),
    )


def prepared(chosen, load):
    """The `panels.Scene` of the choice `chosen`; read anew only when the choice has changed."""
    if st.session_state.get("chosen") != chosen:
        st.session_state.pop("scene", None)  # two cases at once would take twice the memory
        st.session_state.chosen = None
        with st.spinner("Reading…"):
            case = load()
            raw = case.raw
            st.session_state.scene = panels.Scene(
                case,
                render.field_of_view(raw.volumes, raw.geometry.spacing_mm),
                {name: render.window_of(raw.volumes[..., channel])
                 for channel, name in enumerate(raw.modalities)},
            )
        st.session_state.chosen = chosen
    return st.session_state.scene


def segmentation_of(case, segmenter):
    """The button, and the `Job` it started for this case in this session, or None.

    Jobs are kept by the content of the case: no slider runs the network again.
    """
    kept = st.session_state.setdefault("jobs", {})
    job = kept.get(case.digest)
    idle = job is None or job.error is not None
    label = "Segment" if idle else "Segmented" if job.done else "Segmenting…"
    st.button(label, type="primary", width="stretch", disabled=not idle, key="segment",
              on_click=start, args=(kept, case, segmenter))
    if job is None:
        return None
    if job.error is not None:
        messages.show(job.error)
    elif not job.done:
        watch(job)
    return job


def start(kept, case, segmenter):
    """Queues the segmentation of `case`, and forgets the oldest one beyond `KEPT_RESULTS`."""
    kept.pop(case.digest, None)
    kept[case.digest] = jobs.Job(pool(), segmenter, case)
    while len(kept) > KEPT_RESULTS:
        kept.pop(next(iter(kept)))


@st.fragment(run_every=0.5)
def watch(job):
    """Shows the stages of a running job; the page is drawn anew once it ends."""
    if job.done:
        st.rerun()
    *past, (stage, seconds) = job.progress()
    if past:
        lines = [f"✓ {name} {spent:.1f} s" for name, spent in past]
        lines.append(f"… {stage} {seconds:.0f} s")
    else:  # read, and not begun
        lines = [f"✓ {stage} {seconds:.1f} s", "… waiting for another segmentation"]
    st.caption("  \n".join(lines))


if __name__ == "__main__":
    main()
