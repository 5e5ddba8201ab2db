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
from functools import partial
from pathlib import Path

import streamlit as st

# Streamlit puts this file's own folder on the path, not the one that holds the package `app`.
ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from app import canvas_layers, choose, cohort_page, downloads, flat, messages, readings
from app.batch import Batch
from app.canvas import View, canvas
from app.jobs import Queue
from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts
from brats_tfrecord.errors import InputError

DISCLAIMER = "Research software, not a medical device: not for diagnosis or treatment."
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
    st.set_page_config("Brain tumour segmentation", layout="wide", initial_sidebar_state=350)
    st.html(STYLE)
    if {"--help", "-h"} & set(sys.argv[1:]):
        st.code(__doc__.strip(), language=None)
        return
    with messages.one_line_errors():
        segmenter, queue, batch = start_up(sys.argv[1:])
        # Cleared at once: a click on the table while a case is being read would be lost.
        start = st.empty()
        with st.sidebar:
            st.markdown("##### Brain tumour segmentation")
            scene = choose.choose_case(batch, segmenter)
        if scene is None:
            with start.container():
                show_start(batch, segmenter)
            return
        case_id = choose.folder_case()
        with st.sidebar:
            result = segmentation_of(
                scene, queue, partial(batch.follow, case_id) if case_id else None
            )
            show_sidebar(scene, result, segmenter)
        if case_id and result:
            batch.enter(case_id, result)
        show_case(scene, result, segmenter.scheme)


def start_up(arguments):
    """(`Segmenter`, its `Queue`, `Batch` or None) of the command line, made once for all sessions.

    Raises:
        InputError: what is wrong with it, which the server's terminal is told too.
    """
    try:
        options = parse_arguments(arguments)
        refuse_open_network()
        # The folder is looked at before the model, which takes longer.
        batch = (
            load_batch(options.cases_dir, options.label_scheme, options.model)
            if options.cases_dir
            else None
        )
        return load_segmenter(options.model), queue_of(options.model), batch
    except InputError as error:
        say_once(f"viewer.py: {error}")
        raise


@st.cache_resource(show_spinner=False)
def say_once(text):
    """Says in the server's terminal what every session's page says."""
    print(text, file=sys.stderr, flush=True)


def show_start(batch, segmenter):
    """The page as long as no case is open."""
    st.caption(DISCLAIMER)
    if batch and st.session_state.source == choose.FOLDER:
        cohort_page.show(batch)
    else:
        needed = ", ".join(canvas_layers.MODALITY_TITLES[name] for name in segmenter.modalities)
        st.info(
            f"This model reads {needed}. Drop the files of one case into the sidebar, or look "
            "at the phantom."
        )


def show_case(scene, result, scheme):
    """The view of a case, and below it its connected tumours."""
    classes = max(
        scheme.classes, spec.LABEL_SCHEMES[scene.label_scheme].classes if scene.truth_ml else 0
    )
    # Filled at the end, for it needs the row that is chosen further down.
    place = st.container()
    goal = choose_goal(scene, result)
    with place:
        if st.session_state.get("webgl") is False:
            flat.show(scene, result, classes, goal)
        else:
            show_canvas(scene, result, classes, goal)


def choose_goal(scene, result):
    """Tables of connected tumours; returns the voxel to look at: the latest click's, at first the
    centre of the largest tumour, or None."""
    state, found = (
        st.session_state,
        {"Prediction": result.extents if result else (), "Truth": scene.truth_extents},
    )
    found = {title: parts for title, parts in found.items() if parts}
    shown = (scene.digest, result is not None)
    if state.get("goal_of") != shown:
        state.goal_of, state.clicked = shown, {}
        state.goal = next((parts[0].centre for parts in found.values()), None)
        state.goal_count = state.get("goal_count", 0) + 1
    for column, (title, parts) in zip(st.columns(max(len(found), 1)), found.items()):
        with column:
            st.markdown(
                f"**{title}: {len(parts)} connected tumour{'s' * (len(parts) != 1)} above "
                "50 mm³** :small[(click a row's box to go there)]"
            )
            row = readings.choose_lesion(f"{title}_{scene.digest[:8]}", parts)
            if row is not None and row != state.clicked.get(title):
                state.goal = parts[row].centre
                state.goal_count += 1
            state.clicked[title] = row
    return state.goal


def show_canvas(scene, result, classes, goal):
    """NiiVue in the page; where it cannot draw, the next run shows plain pictures."""
    geometry = scene.geometry
    overlay = (
        canvas_layers.PREDICTION if result else canvas_layers.TRUTH if scene.truth_ml else None
    )
    goal_mm = None if goal is None else (geometry.lps_affine @ (*goal, 1))[:3]
    shown = [*scene.layers, *(result.layers if result else ())]
    said = canvas(
        shown,
        classes=classes,
        initial=View(image=shown[0].name, overlay=overlay),
        key="canvas",
        picture_name=downloads.harmless(scene.case_id),
        go_to_mm=goal_mm,
        go_to_count=st.session_state.goal_count,
    )
    if said and said.get("webgl") is False:
        st.session_state.webgl = False
        st.rerun()


def show_sidebar(scene, result, segmenter):
    """Warnings, volumes, downloads, times and what the model knows of the case."""
    for warning in scene.warnings:
        st.warning(messages.plain(warning))
    if result or scene.truth_ml:
        readings.show_volumes(scene, result)
    if result:
        for change in result.changes:
            st.caption(f"Post-processing: {messages.plain(change)}")
        downloads.show_downloads(scene, result, segmenter)
        stages = " · ".join(f"{name} {spent:.1f}\u00a0s" for name, spent in result.seconds.items())
        use = readings.USES[segmenter.card.use_of(scene.case_id)]
        st.caption(f"{stages}  \n{use}")
    st.caption(DISCLAIMER)


def parse_arguments(arguments):
    """The command line after `--`; raises `InputError` where argparse would end the server."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cases_dir")
    parser.add_argument("--label_scheme", default="auto", choices=("auto", *spec.LABEL_SCHEMES))

    def refuse(message):
        raise InputError(
            f"{message}; start the viewer as: streamlit run app/viewer.py -- "
            "--model=…/saved_model [--cases_dir=…]"
        )

    parser.error = refuse
    return parser.parse_args(arguments)


def refuse_open_network():
    """Without our config.toml Streamlit listens on every network card; then nothing is shown."""
    if not st.get_option("server.address"):
        raise InputError(
            "app/.streamlit/config.toml was not read, so this page would be open to "
            "the network; restart it with streamlit run --server.address=127.0.0.1"
        )


@st.cache_resource(show_spinner="Loading the model…")
def load_segmenter(model):
    """Loads the SavedModel once for all sessions."""
    # TensorFlow's greetings look like errors in the server's log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # It takes seconds to import; the page shows the spinner meanwhile.
    from brats_tfrecord.serving.predict import Segmenter

    return Segmenter(model)


@st.cache_resource(show_spinner=False)
def queue_of(model):
    """One queue for all sessions: segmentations wait, rather than fight for the machine."""
    return Queue(load_segmenter(model))


@st.cache_resource(show_spinner="Looking for cases…")
def load_batch(cases_dir, label_scheme, model):
    """The cases of a folder and what is known of them, shared by all sessions."""
    cases = layouts.find_cases(cases_dir, label_scheme=label_scheme)
    return Batch(cases, queue_of(model), load_segmenter(model).recipe.any_spacing)


def segmentation_of(scene, queue, follow=None):
    """The button, and the `jobs.Result` of this case, or None as long as there is none.

    Jobs are found by the content of the case: no click runs the network again. `follow`, if any,
    is told of the `jobs.Job` that the button begins.
    """
    state = st.session_state
    job = queue.find(scene.digest) or state.get("job")
    job = state.job = job if job and job.digest == scene.digest else None
    idle = job is None or job.error is not None
    label = "Segment" if idle else "Segmented" if job.done else "Segmenting…"
    st.button(
        label,
        type="primary",
        width="stretch",
        disabled=not idle,
        key="segment",
        on_click=submit,
        args=(queue, scene, follow),
    )
    if state.get("refused"):
        messages.show(state.pop("refused"))
    if job is None:
        return None
    if job.error is not None:
        messages.show(job.error)
    elif not job.done:
        watch(job, queue)
    return job.result


def submit(queue, scene, follow):
    """Before the page is drawn anew: a run broken off would lose the files of the canvas."""
    try:
        job = st.session_state.job = queue.submit(scene)
        if follow:
            follow(job)
    except InputError as error:
        st.session_state.refused = error


@st.fragment(run_every=0.5)
def watch(job, queue):
    """Shows the stages of a running job; the page is drawn anew once it ends."""
    if job.done:
        st.rerun()
    *past, (stage, seconds) = job.progress()
    lines = [f"✓ {name} {spent:.1f} s" for name, spent in past]
    if past:
        lines.append(f"… {stage} {seconds:.0f} s")
    else:  # read, and not begun
        ahead = queue.ahead_of(job)
        waits = f"waiting for {ahead} other segmentation{'s' * (ahead != 1)}"
        lines = [f"✓ {stage} {seconds:.1f} s", f"… {waits if ahead else 'begins'}"]
    st.caption("  \n".join(lines))


if __name__ == "__main__":
    main()
