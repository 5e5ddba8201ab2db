"""What goes wrong, said in one line on the page."""

import contextlib
import logging
import re

import streamlit as st

from brats_tfrecord.errors import InputError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def one_line_errors():
    """Shows what goes wrong as one line on the page; the session lives on."""
    try:
        yield
    except InputError as error:
        show(error)
    except Exception as error:
        _log.exception("unexpected error on the page")
        show(error)


def show(error):
    """One line on the page: the message of an `InputError`, or that there is a bug of ours."""
    if isinstance(error, InputError):
        st.error(plain(error))
    else:
        st.error(
            f"Unexpected error in the viewer ({type(error).__name__}); the server's log has "
            "the details. Other cases can still be opened."
        )


def plain(text):
    """Escapes `text`, which may hold users' file names, for Markdown.

    A lone `--`, which would become a dash, is set as code, so that commands can be copied.
    """
    escaped = re.sub(r"([\\`*_{}\[\]()<>#$:~|!-])", r"\\\1", str(text))
    return escaped.replace(r" \-\- ", " `--` ")
