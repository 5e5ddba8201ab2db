"""First page: a table of the folder's cases with their volumes, and a button to segment all."""

import csv
import io
from collections.abc import Mapping

import streamlit as st

from app import messages
from app.batch import DONE, FAILED, RUNNING, Batch, Row
from brats_tfrecord import spec
from brats_tfrecord.wording import csv_cell

_MARKS = {RUNNING: "…", DONE: "✓", FAILED: "✗"}


def show(batch: Batch) -> None:
    """Shows the table, redrawn every second while cases are being segmented."""
    st.session_state.batch_busy = batch.busy
    st.fragment(_show_table, run_every=1.0 if batch.busy else None)(batch)


def _show_table(batch):
    with messages.one_line_errors():
        state, rows = st.session_state, batch.rows
        if state.pop("open_case", False) or state.batch_busy != batch.busy:
            st.rerun()
        _show_progress(batch, rows)
        st.dataframe(
            [_cells(case_id, row) for case_id, row in rows.items()],
            hide_index=True,
            key="cohort",
            selection_mode="single-row",
            on_select=_open_selected,
            placeholder="–",
            height=min(38 + 35 * len(rows), 620),
            column_config={"Case": st.column_config.TextColumn(width="medium")},
        )
        st.caption(
            "Click a row's box to open the case; the magnifying glass above the table searches it."
        )
        if any(row.status == DONE for row in rows.values()):
            _show_downloads(batch, rows)


def _show_downloads(batch, rows):
    saved = len(batch.saved_label_maps())
    table, archive, text = st.columns((1, 1, 3), vertical_alignment="center")
    table.download_button(
        "Table as CSV",
        csv_of(rows),
        "cohort.csv",
        "text/csv",
        on_click="ignore",
        key="cohort_csv",
        width="stretch",
    )
    archive.download_button(
        f"{saved} label map{'' if saved == 1 else 's'} as ZIP",
        batch.archive,
        "label_maps.zip",
        "application/zip",
        on_click="ignore",
        key="cohort_zip",
        width="stretch",
        disabled=not saved,
        help="NIfTI files in the geometry and label values of the cases",
    )
    done = sum(row.status == DONE for row in rows.values())
    if batch.output_dir is not None:
        text.caption(f"Label maps are also written to {messages.plain(batch.output_dir)}")
    elif saved < done:
        text.caption(
            f"The ZIP holds the last {saved} of {done} label maps; start the viewer with "
            "`--output_dir=FOLDER` to have all written to the server's disk."
        )


def _open_selected():
    """Opens the case of the selected row; runs before the page is redrawn."""
    state = st.session_state
    selected = state.cohort.selection.rows
    if selected:
        state.case, state.open_case = state.cohort_ids[selected[0]], True


def _show_progress(batch, rows):
    """Shows how many cases are done, and the button that starts or stops the segmentation."""
    st.session_state.cohort_ids = list(rows)
    done = sum(row.status == DONE for row in rows.values())
    failed = sum(row.status == FAILED for row in rows.values())
    left, right = st.columns((4, 1), vertical_alignment="bottom")
    label = f"{done} of {len(rows)} cases segmented" + (f", {failed} failed" if failed else "")
    seconds = [row.seconds for row in rows.values() if row.seconds]
    remaining = len(rows) - done - failed
    if batch.running and seconds:
        label += f", about {_duration(remaining * sum(seconds) / len(seconds))} left"
    left.progress((done + failed) / max(len(rows), 1), text=label)
    with right:
        _show_batch_button(batch, all_done=done == len(rows))
    for case_id, row in rows.items():
        if row.status == FAILED:
            st.caption(f"✗ {messages.plain(case_id)}: {messages.plain(row.reason)}")


def _show_batch_button(batch, all_done):
    if batch.stopping:
        st.button(
            "Stopping…",
            disabled=True,
            width="stretch",
            key="batch_stopping",
            help="after the current case",
        )
    elif batch.running:
        st.button("Stop", on_click=batch.stop, width="stretch", key="batch_stop")
    else:
        st.button(
            "Segment all",
            on_click=batch.start,
            width="stretch",
            key="batch_start",
            type="primary",
            disabled=all_done,
        )


def _cells(case_id, row):
    volumes, dice = row.volumes_ml or {}, row.dice or {}
    return {
        "": _MARKS.get(row.status, ""),
        "Case": case_id,
        "Truth": "yes" if row.has_truth else "",
        **{f"{region} mL": _rounded(volumes.get(region), 1) for region in spec.REGIONS},
        **{f"Dice {region}": _rounded(dice.get(region), 3) for region in spec.REGIONS},
        "Seconds": _rounded(row.seconds, 1),
        **({"Warnings": "; ".join(row.warnings)} if row.warnings else {}),
    }


def csv_of(rows: Mapping[str, Row]) -> str:
    """Writes the volumes and Dice of the finished cases, at least one, as CSV."""
    done = {case_id: row for case_id, row in rows.items() if row.status == DONE}
    structures = list(next(iter(done.values())).volumes_ml or {})
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [
            "case_id",
            *(f"{name}_ml" for name in structures),
            *(f"{region}_dice" for region in spec.REGIONS),
            "seconds",
            "warnings",
        ]
    )
    for case_id, row in done.items():
        volumes, dice = row.volumes_ml or {}, row.dice or {}
        writer.writerow(
            [
                csv_cell(case_id),
                *(f"{volumes[name]:.3f}" for name in structures),
                *(dice.get(region, "") for region in spec.REGIONS),
                f"{row.seconds:.2f}",
                csv_cell("; ".join(row.warnings)),
            ]
        )
    return stream.getvalue()


def _rounded(value, decimals):
    return None if value is None else round(value, decimals)


def _duration(seconds):
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
