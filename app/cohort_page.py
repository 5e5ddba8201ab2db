"""The first page: the cases of the folder, their volumes, and a button to segment them all."""

import csv
import io

import streamlit as st

from app import downloads, messages
from app.batch import DONE, FAILED, RUNNING
from brats_tfrecord import spec

_MARKS = {RUNNING: "…", DONE: "✓", FAILED: "✗"}


def show(batch):
    """The table, drawn anew every second while cases are being segmented."""
    st.session_state.batch_busy = batch.busy
    st.fragment(_table, run_every=1.0 if batch.busy else None)(batch)


def _table(batch):
    with messages.one_line_errors():
        state, rows = st.session_state, batch.rows
        if state.pop("open_case", False) or state.batch_busy != batch.busy:
            st.rerun()
        _head(batch, rows)
        event_rows = [_cells(case_id, row) for case_id, row in rows.items()]
        st.dataframe(
            event_rows,
            hide_index=True,
            key="cohort",
            selection_mode="single-row",
            on_select=_open,
            placeholder="–",
            height=min(38 + 35 * len(rows), 620),
            column_config={"Case": st.column_config.TextColumn(width="medium")},
        )
        st.caption(
            "Click a row's box to open the case; the magnifying glass above the table searches it."
        )
        if any(row.status == DONE for row in rows.values()):
            st.download_button(
                "Table as CSV",
                csv_of(rows),
                "cohort.csv",
                "text/csv",
                on_click="ignore",
                key="cohort_csv",
            )


def _open():
    """Opens the case of the row that was clicked; runs before the page is drawn anew."""
    state = st.session_state
    chosen = state.cohort.selection.rows
    if chosen:
        state.case, state.open_case = state.cohort_ids[chosen[0]], True


def _head(batch, rows):
    """What is done, and the button that begins or ends it."""
    st.session_state.cohort_ids = list(rows)
    done = sum(row.status == DONE for row in rows.values())
    failed = sum(row.status == FAILED for row in rows.values())
    left, right = st.columns((4, 1), vertical_alignment="bottom")
    label = f"{done} of {len(rows)} cases segmented" + (f", {failed} failed" if failed else "")
    seconds = [row.seconds for row in rows.values() if row.seconds]
    rest = len(rows) - done - failed
    if batch.running and seconds:
        label += f", about {_span(rest * sum(seconds) / len(seconds))} to go"
    left.progress((done + failed) / max(len(rows), 1), text=label)
    if batch.stopping:
        right.button(
            "Stopping…",
            disabled=True,
            width="stretch",
            key="batch_stopping",
            help="after the case that is being segmented",
        )
    elif batch.running:
        right.button("Stop", on_click=batch.stop, width="stretch", key="batch_stop")
    else:
        right.button(
            "Segment all",
            on_click=batch.start,
            width="stretch",
            key="batch_start",
            type="primary",
            disabled=done == len(rows),
        )
    for case_id, row in list(rows.items()):
        if row.status == FAILED:
            st.caption(f"✗ {messages.plain(case_id)}: {messages.plain(row.reason)}")


def _cells(case_id, row):
    volumes, dice = row.volumes_ml or {}, row.dice or {}
    return {
        "": _MARKS.get(row.status, ""),
        "Case": case_id,
        "Truth": "yes" if row.has_truth else "",
        **{f"{region} mL": _rounded(volumes.get(region), 1) for region in spec.REGIONS},
        **{f"Dice {region}": _rounded(dice.get(region), 3) for region in spec.REGIONS},
        "Seconds": _rounded(row.seconds, 1),
    }


def csv_of(rows):
    """Every volume and Dice of the cases that are done; str."""
    done = {case_id: row for case_id, row in rows.items() if row.status == DONE}
    structures = list(next(iter(done.values())).volumes_ml)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [
            "case_id",
            *(f"{name}_ml" for name in structures),
            *(f"{region}_dice" for region in spec.REGIONS),
            "seconds",
        ]
    )
    for case_id, row in done.items():
        dice = row.dice or {}
        writer.writerow(
            [
                downloads.harmless(case_id),
                *(f"{row.volumes_ml[name]:.3f}" for name in structures),
                *(dice.get(region, "") for region in spec.REGIONS),
                f"{row.seconds:.2f}",
            ]
        )
    return stream.getvalue()


def _rounded(value, decimals):
    return None if value is None else round(value, decimals)


def _span(seconds):
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
