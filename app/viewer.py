"""Segments brain tumours in the browser and shows them over the images.

Usage:
    streamlit run app/viewer.py -- --model=build/demo/model/saved_model \
        --cases_dir=build/demo/cohort

`--help` shows the flags on the page. The server is reachable from this machine only
(`app/.streamlit/config.toml`).
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import streamlit as st

# Streamlit adds the folder of this file to the path, not the one that contains the package `app`.
ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from app import canvas_layers, choose, cohort_page, downloads, messages, plain_view, readings
from app.batch import Batch
from app.canvas import TRUTH, View, canvas
from app.jobs import Job, Queue, Result
from app.scene import Scene
from brats_tfrecord import files, spec
from brats_tfrecord.cohort import layouts
from brats_tfrecord.errors import InputError
from brats_tfrecord.quiet_import import quiet_import
from brats_tfrecord.wording import plural

if TYPE_CHECKING:  # imports TensorFlow, which takes seconds
    from brats_tfrecord.serving.predict import Segmenter

USAGE = "streamlit run app/viewer.py -- --model=…/saved_model [--cases_dir=…]"
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


def main() -> None:
    """Draws the page; Streamlit calls it after every change."""
    st.set_page_config("Brain tumour segmentation", layout="wide", initial_sidebar_state=350)
    st.html(STYLE)
    if {"--help", "-h"} & set(sys.argv[1:]):
        st.code(command_line().format_help(), language=None)
        print_once(command_line().format_help())
        return
    with messages.one_line_errors():
        segmenter, queue, batch = start_up(sys.argv[1:])
        # Emptied before a case is read, because a click on the table would then be lost.
        start = st.empty()
        with st.sidebar:
            st.markdown("##### Brain tumour segmentation")
            scene = choose.choose_case(batch, segmenter)
        if scene is None:
            with start.container():
                show_start(batch, segmenter)
            return
        case_id = choose.folder_case()
        follow = partial(batch.follow, case_id, scene.warnings) if batch and case_id else None
        with st.sidebar:
            result = segmentation_of(scene, queue, follow)
            show_sidebar(scene, result, segmenter)
        if batch and case_id and result:
            batch.enter(case_id, scene.warnings, result)
        show_case(scene, result, segmenter.scheme)


def start_up(arguments: Sequence[str]) -> tuple[Segmenter, Queue, Batch | None]:
    """Loads what the command line names, once for all sessions.

    Returns:
        The model, its queue, and the cases of --cases_dir or None.

    Raises:
        InputError: the command line is wrong; the message is also printed in the terminal.
    """
    try:
        options = command_line().parse_args(arguments)
        check_address(options.allow_network)
        if options.output_dir and not options.cases_dir:
            raise InputError(
                f"--output_dir={options.output_dir}: takes the label maps of a folder's cases; "
                "expected --cases_dir too"
            )
        # The folders are checked before the model, which takes longer to load.
        batch = (
            load_batch(options.cases_dir, options.label_scheme, options.model, options.output_dir)
            if options.cases_dir
            else None
        )
        return load_segmenter(options.model), queue_of(options.model), batch
    except InputError as error:
        print_once(f"viewer.py: {error}")
        raise


@st.cache_resource(show_spinner=False)
def print_once(text: str) -> None:
    """Prints a message in the server's terminal, once for all sessions."""
    print(text, file=sys.stderr, flush=True)


def show_start(batch: Batch | None, segmenter: Segmenter) -> None:
    """Shows the page without a case."""
    st.caption(DISCLAIMER)
    if batch and st.session_state.source == choose.FOLDER:
        cohort_page.show(batch)
    else:
        needed = ", ".join(canvas_layers.MODALITY_TITLES[name] for name in segmenter.modalities)
        st.info(
            f"This model reads {needed}. Drop the files of one case into the sidebar, or look "
            "at the phantom."
        )


def show_case(scene: Scene, result: Result | None, scheme: spec.LabelScheme) -> None:
    """Shows the volumes of a case and, below, the tables of its connected tumours."""
    classes = max(
        scheme.classes, spec.LABEL_SCHEMES[scene.label_scheme].classes if scene.truth_ml else 0
    )
    # Filled last, because it depends on the row selected in the tables below it.
    view = st.container()
    goal = choose_goal(scene, result)
    with view:
        if st.session_state.get("webgl") is False:
            plain_view.show(scene, result, classes, goal)
        else:
            show_canvas(scene, result, classes, goal)


def choose_goal(scene: Scene, result: Result | None) -> tuple[int, int, int] | None:
    """Shows the tables of connected tumours; returns the voxel to move the crosshair to.

    This is the centre of the tumour that was selected last, at first of the largest one; None
    without a tumour.
    """
    state = st.session_state
    tables = {"Prediction": result.extents if result else (), "Truth": scene.truth_extents}
    tables = {title: parts for title, parts in tables.items() if parts}
    shown = (scene.digest, result is not None)
    if state.get("goal_of") != shown:
        state.goal_of, state.clicked = shown, {}
        state.goal = next((parts[0].centre for parts in tables.values()), None)
        state.goal_count = state.get("goal_count", 0) + 1
    for column, (title, parts) in zip(st.columns(max(len(tables), 1)), tables.items()):
        with column:
            st.markdown(
                f"**{title}: {plural(len(parts), 'connected tumour')} above "
                "50 mm³** :small[(click a row's box to go there)]"
            )
            row = readings.choose_lesion(f"{title}_{scene.digest[:8]}", parts)
            if row is not None and row != state.clicked.get(title):
                state.goal = parts[row].centre
                state.goal_count += 1
            state.clicked[title] = row
    return state.goal


def show_canvas(
    scene: Scene, result: Result | None, classes: int, goal: tuple[int, int, int] | None
) -> None:
    """Shows the canvas; if the browser has no WebGL 2, the next run shows plain pictures."""
    overlay = canvas_layers.PREDICTION if result else TRUTH if scene.truth_ml else None
    goal_mm = None if goal is None else (scene.geometry.lps_affine @ (*goal, 1))[:3].tolist()
    layers = [*scene.layers, *(result.layers if result else ())]
    report = canvas(
        layers,
        classes=classes,
        initial=View(image=layers[0].name, overlay=overlay),
        key="canvas",
        picture_name=files.safe_file_name(scene.case_id),
        go_to_mm=goal_mm,
        go_to_count=st.session_state.goal_count,
    )
    if report and report.get("webgl") is False:
        st.session_state.webgl = False
        st.rerun()


def show_sidebar(scene: Scene, result: Result | None, segmenter: Segmenter) -> None:
    """Shows warnings, volumes, downloads, durations, and whether training used the case."""
    warnings = readings.warnings_of(scene, result)
    if warnings:
        bullet = "• " if len(warnings) > 1 else ""
        st.warning("  \n".join(bullet + messages.plain(warning) for warning in warnings))
    if result or scene.truth_ml:
        readings.show_volumes(scene, result)
    if result:
        for change in result.changes:
            st.caption(f"Post-processing: {messages.plain(change)}")
        downloads.show_downloads(scene, result, segmenter.card)
        stages = " · ".join(
            f"{name} {seconds:.1f}\u00a0s" for name, seconds in result.seconds.items()
        )
        use = readings.use_of(scene, segmenter.card)
        missing = f"Missing modalities: this model was {segmenter.card.missing.text()}."
        st.caption(f"{stages}  \n{missing}  \n{use}")
    for note in scene.notes:
        st.caption(f"Note: {messages.plain(note)}")
    st.caption(DISCLAIMER)


class CommandLine(argparse.ArgumentParser):
    """The flags of the viewer. Errors are raised as `InputError` and do not end the server."""

    def error(self, message: str) -> NoReturn:
        """Raises `InputError` with the way out."""
        raise InputError(f"{message}; start the viewer as: {USAGE}")


def command_line() -> CommandLine:
    """Returns the parser of the flags after `--`; its help is the page of `--help`."""
    parser = CommandLine(
        usage=USAGE,
        description="Segments brain tumours in the browser and shows them over the images.",
        add_help=False,
        allow_abbrev=False,
        formatter_class=partial(argparse.HelpFormatter, width=100, max_help_position=22),
    )
    parser.add_argument(
        "--model",
        metavar="FOLDER",
        required=True,
        help="an exported SavedModel (required; a SavedModel is code: load only what you trust)",
    )
    parser.add_argument(
        "--cases_dir",
        metavar="FOLDER",
        help="cases in a BraTS or MSD layout to choose from; without it, upload files",
    )
    parser.add_argument(
        "--label_scheme",
        metavar="NAME",
        default="auto",
        choices=("auto", *spec.LABEL_SCHEMES),
        help="label scheme of the masks of --cases_dir, if their names do not decide it: "
        + ", ".join(spec.LABEL_SCHEMES),
    )
    parser.add_argument(
        "--output_dir",
        metavar="FOLDER",
        help="folder on this machine to write the label maps of finished cases to, as "
        "CASE_prediction.nii.gz; without it, download them as a ZIP file",
    )
    parser.add_argument(
        "--allow_network",
        action="store_true",
        help="let --server.address be other than this machine's own: whoever reaches it sees the "
        "images, and there is no log-in",
    )
    return parser


def check_address(allow_network: bool) -> None:
    """Checks the address that Streamlit listens on.

    Raises:
        InputError: there is none, because our config.toml was not read: Streamlit would listen on
            every network card; or other machines can reach it, and `allow_network` is not set.
    """
    address = st.get_option("server.address")
    if not address:
        raise InputError(
            "app/.streamlit/config.toml was not read, so this page would be open to "
            "the network; restart it with streamlit run --server.address=127.0.0.1"
        )
    if not (allow_network or is_local(address)):
        raise InputError(
            f"--server.address={address}: this page would be open to the network, without a "
            "log-in; restart it with --server.address=127.0.0.1 behind a proxy or an SSH tunnel "
            "(docs/viewer.md), or give --allow_network after the two hyphens"
        )


def is_local(address: str) -> bool:
    """Returns whether only this machine can reach an address: loopback, or a Unix socket."""
    if address == "localhost" or address.startswith("unix://"):
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


@st.cache_resource(show_spinner="Loading the model…")
def load_segmenter(model: str) -> Segmenter:
    """Loads the SavedModel once for all sessions."""
    # TensorFlow's messages at import look like errors in the server's log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Imported here, because it takes seconds, during which the page shows the spinner.
    with quiet_import():
        from brats_tfrecord.serving.predict import Segmenter

    return Segmenter(model)


@st.cache_resource(show_spinner=False)
def queue_of(model: str) -> Queue:
    """Makes the queue, one for all sessions, so that segmentations run one at a time."""
    return Queue(load_segmenter(model))


@st.cache_resource(show_spinner="Looking for cases…")
def load_batch(cases_dir: str, label_scheme: str, model: str, output_dir: str | None) -> Batch:
    """Finds the cases of a folder, once for all sessions."""
    cases = layouts.find_cases(cases_dir, label_scheme=label_scheme)
    if output_dir:
        files.require_outside("--output_dir", output_dir, "--cases_dir", cases_dir)
        files.require_writable("--output_dir", output_dir)
    return Batch(
        cases,
        queue_of(model),
        load_segmenter(model).recipe.any_spacing,
        Path(output_dir) if output_dir else None,
    )


def segmentation_of(
    scene: Scene, queue: Queue, follow: Callable[[Job], object] | None = None
) -> Result | None:
    """Shows the button and the progress; returns the result, or None if there is none yet.

    Jobs are found by the content of the case, so that no case is segmented twice.

    Args:
        scene: the case.
        queue: runs the segmentation.
        follow: called with the job that the button starts, or None.
    """
    state = st.session_state
    job: Job | None = queue.find(scene.digest) or state.get("job")
    if job and job.digest != scene.digest:
        job = None
    state.job = job
    idle = job is None or job.error is not None
    label = "Segmented" if job and job.done else "Segmenting…"
    st.button(
        "Segment" if idle else label,
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


def submit(queue: Queue, scene: Scene, follow: Callable[[Job], object] | None) -> None:
    """Submits the case as a callback of the button.

    Callbacks run before the page is redrawn; calling `st.rerun` during a run would lose the files
    of the canvas.
    """
    try:
        job = st.session_state.job = queue.submit(scene)
        if follow:
            follow(job)
    except InputError as error:
        st.session_state.refused = error


@st.fragment(run_every=0.5)
def watch(job: Job, queue: Queue) -> None:
    """Shows the stages of a running job; redraws the page when it has ended."""
    if job.done:
        st.rerun()
    *finished, (stage, seconds) = job.progress()
    lines = [f"✓ {name} {duration:.1f} s" for name, duration in finished]
    if finished:
        lines.append(f"… {stage} {seconds:.0f} s")
    else:  # the case has been read, and the segmentation has not started
        ahead = queue.ahead_of(job)
        waiting = f"waiting for {plural(ahead, 'other segmentation')}"
        lines = [f"✓ {stage} {seconds:.1f} s", f"… {waiting if ahead else 'starting'}"]
    st.caption("  \n".join(lines))


if __name__ == "__main__":
    main()
