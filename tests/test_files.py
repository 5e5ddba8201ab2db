"""The lock that keeps two processes out of one folder."""

import os
import subprocess
import sys

import pytest

from brats_tfrecord import files

HOLD = """
import sys
from brats_tfrecord import files
with files.locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock `tmp_path / "lock"` until its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_of_another_process_names_it(tmp_path, holder):
    with pytest.raises(files.Locked, match=f"process {holder.pid} on "):
        with files.locked(tmp_path / "lock"):
            pass
    holder.communicate("")
    assert not list(tmp_path.iterdir())


def test_a_killed_holder_holds_nobody_up(tmp_path, holder):
    holder.kill()
    holder.wait()
    with files.locked(tmp_path / "lock"):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()
    assert not (tmp_path / "lock").exists()


def test_a_lock_removed_between_opening_and_locking_is_taken_anew(tmp_path, monkeypatch):
    """As when its holder leaves at that very moment."""
    flock, calls = files.fcntl.flock, []

    def late(stream, how):
        if not calls:
            (tmp_path / "lock").unlink()
        calls.append(how)
        flock(stream, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with files.locked(tmp_path / "lock"):
        assert (tmp_path / "lock").exists() and len(calls) == 2
