"""Limits what a session uploads, and frees files that it no longer shows."""

from collections.abc import Sequence
from typing import Any

import streamlit as st
from streamlit.runtime import scriptrunner

from brats_tfrecord.errors import InputError

MAX_FILES = 12
MAX_BYTES = 500 << 20
"""Bytes of all files of a session: five BraTS volumes as uncompressed float64 take 360 MB."""


def file_uploader(label: str) -> list[Any]:
    """Shows the uploader of a session; returns its files.

    Files above `MAX_FILES` or `MAX_BYTES` are removed from the server's memory, and the uploader is
    empty in the next run.

    Raises:
        InputError: there were too many files.
    """
    state = st.session_state
    number = state.setdefault("uploader", 0)
    uploads = st.file_uploader(
        label, type=["nii", "gz"], accept_multiple_files=True, key=f"uploads_{number}"
    )
    keep_only(uploads)
    total = sum(upload.size for upload in uploads)
    if len(uploads) <= MAX_FILES and total <= MAX_BYTES:
        return uploads
    keep_only(())
    state.uploader += 1
    raise InputError(
        f"{len(uploads)} files of {total / 1e6:.0f} MB were uploaded and have been removed; "
        f"expected the files of one case, at most {MAX_FILES} of {MAX_BYTES / 1e6:.0f} MB together"
    )


def keep_only(uploads: Sequence[Any]) -> None:
    """Removes all earlier uploads of this session but `uploads` from the server's memory.

    Streamlit would keep them until the session ends.
    """
    state = st.session_state
    kept = {upload.file_id for upload in uploads}
    context: Any = scriptrunner.get_script_run_ctx()
    for file_id in state.get("upload_ids", set()) - kept:
        context.uploaded_file_mgr.remove_file(context.session_id, file_id)
    state.upload_ids = kept
