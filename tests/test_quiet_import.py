import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from brats_tfrecord.quiet_import import quiet_import
with quiet_import():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written\\n")
    os.write(2, b"I0000 00:00:1795735199.653380   17136 stub.cc:31] Could not find drivers\\n")
    os.write(2, b"a library of the system is broken\\n")
    print("a warning of Python", file=sys.stderr)
os.write(2, b"I0000 00:00:1795735199.653380   17136 later.cc:1] after the import\\n")
"""


@pytest.mark.parametrize("level, notices", [("3", 0), ("0", 2)])
def test_only_notices_are_dropped(monkeypatch, level, notices):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    assert lines[notices:] == [
        "a library of the system is broken",
        "a warning of Python",
        "I0000 00:00:1795735199.653380   17136 later.cc:1] after the import",
    ]
    assert len(lines[:notices]) == notices


def test_an_error_within_the_import_is_kept(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    script = SCRIPT.split("    print")[0] + "    raise SystemExit('no such library')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.splitlines() == ["a library of the system is broken", "no such library"]
