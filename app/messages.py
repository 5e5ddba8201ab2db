"""Shows errors as one line on the page."""

import contextlib
import logging
import re
from collections.abc import Iterator

import streamlit as st

from brats_tfrecord.errors import InputError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Shows an exception as one line on the page and ends it, so that the session goes on."""
    try:
        yield
    except InputError as error:
        show(error)
    except Exception as error:
        _log.exception("unexpected error on the page")
        show(error)


def show(error: Exception) -> None:
    """Shows the message of an `InputError`; for any other exception, that the viewer has a bug."""
    if isinstance(error, InputError):
        st.error(plain(error))
    else:
        st.error(
            f"Unexpected error in the viewer ({type(error).__name__}); the server's log has "
            "the details. Other cases can still be opened."
        )


def plain(text: object) -> str:
    """Escapes text, which may contain file names of users, for Markdown.

    A lone `--`, which Markdown would turn into a dash, is set as code, so that commands can be
    copied.
    """
    escaped = re.sub(r"([\\`*_{}\[\]()<>#$:~|!-])", r"\\\1", str(text))
    return escaped.replace(r" \-\- ", " `--` ")
