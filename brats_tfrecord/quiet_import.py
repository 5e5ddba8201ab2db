"""Imports TensorFlow without its notices."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_NOTICE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} \S+ +\d+ \S+\]"
)
"""Lines that TensorFlow 2.21 prints while it is imported, whatever TF_CPP_MIN_LOG_LEVEL is."""


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Context in which to import TensorFlow, or modules that do.

    Notices and warnings that TensorFlow prints on import are dropped if TF_CPP_MIN_LOG_LEVEL is 2
    or 3. Everything else that is written to stderr appears when the block ends.
    """
    if "tensorflow" in sys.modules or os.environ.get("TF_CPP_MIN_LOG_LEVEL") not in ("2", "3"):
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            kept = b"".join(line for line in written if not _NOTICE.match(line))
            os.write(2, kept)
