"""Atomic replacement of files and folders, and the lock that one process at a time holds."""

import errno
import os
import subprocess
import sys

import hypothesis
import pytest
from hypothesis import strategies

from brats_tfrecord import files

HOLD = """
import sys
from brats_tfrecord import files
with files.locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "second"):
        with files.replacing(path) as temporary:
            temporary.write_text(text)
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "model"
    for name in ("first", "second"):
        with files.replacing_folder(path) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
        assert os.listdir(path) == [name]
    assert os.listdir(path.parent) == ["model"]


@pytest.mark.parametrize("replacing", [files.replacing, files.replacing_folder])
def test_an_error_leaves_the_old_content_and_no_temporary_file(tmp_path, replacing):
    path = tmp_path / "a"
    path.mkdir() if replacing is files.replacing_folder else path.touch()
    with pytest.raises(KeyError):
        with replacing(path) as temporary:
            temporary.mkdir() if path.is_dir() else temporary.touch()
            raise KeyError
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("deep", [True, False])
def test_orphans_of_killed_writers_are_removed(tmp_path, deep):
    orphan = ".a.29809-8ce1caa4.tmp"
    for folder in (tmp_path, tmp_path / "below"):
        folder.mkdir(exist_ok=True)
        (folder / orphan).touch()
        (folder / ".model.29809-8ce1caa4.tmp" / "variables").mkdir(parents=True)
        (folder / ".notes.tmp").touch()  # not ours
    files.remove_orphans(tmp_path, deep)
    assert sorted(os.listdir(tmp_path)) == [".notes.tmp", "below"]
    assert (tmp_path / "below" / orphan).exists() == (not deep)
    assert (tmp_path / "below" / ".notes.tmp").exists()


def test_an_old_folder_is_restored_if_its_writer_was_killed_before_replacing_it(tmp_path):
    for name in ("model", ".kept.29809-8ce1caa4.old", ".model.29809-8ce1caa4.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    files.remove_orphans(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["kept", "model"]
    assert (tmp_path / "model" / "content").read_text() == "model"
    assert (tmp_path / "kept" / "content").read_text() == ".kept.29809-8ce1caa4.old"


def test_a_failed_rename_restores_the_old_folder(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(FileNotFoundError), files.replacing_folder(tmp_path / "model"):
        pass  # the new folder was never written
    assert os.listdir(tmp_path) == ["model"]


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


def test_the_error_names_the_process_that_holds_the_lock(tmp_path, holder):
    with pytest.raises(files.Locked, match=f"process {holder.pid} on "):
        with files.locked(tmp_path / "lock"):
            pass
    holder.communicate("")
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    holder.kill()
    holder.wait()
    with files.locked(tmp_path / "lock"):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_used_unlocked_with_one_line(
    tmp_path, monkeypatch, capsys, number
):
    monkeypatch.setattr(files.fcntl, "flock", raising(number))
    for holder, more in (
        ("", ""),
        ("process 7 on node3", " It was last used by process 7 on node3, which may still be"),
    ):
        (tmp_path / "lock").write_text(holder)
        with files.locked(tmp_path / "lock"):
            assert str(os.getpid()) in (tmp_path / "lock").read_text()
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(
            f"{tmp_path}: this file system has no locks ({os.strerror(number)}); continuing "
            f"without: make sure that nothing else writes to this folder.{more}"
        )


def test_another_error_of_the_lock_is_not_taken_for_a_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(files.fcntl, "flock", raising(errno.EIO))
    with pytest.raises(OSError, match="Input/output error.*lock"):
        with files.locked(tmp_path / "lock"):
            pass


def raising(number):
    """A flock that fails with an error number."""

    def flock(stream, operation):
        raise OSError(number, os.strerror(number))

    return flock


def test_a_temporary_folder_is_removed_and_so_is_that_of_a_killed_process(tmp_path):
    with files.temporary_folder(tmp_path / "state") as folder:
        (folder / "part").touch()
        assert folder.parent == tmp_path and folder.name.startswith(".state.")
    assert not list(tmp_path.iterdir())
    folder.mkdir()
    files.remove_orphans(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_flushed_is_left_alone_but_a_file_is_an_error(
    tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    files.flush_to_disk(tmp_path)
    monkeypatch.setattr(files.os, "fsync", lambda number: raising(errno.EINVAL)(number, 0))
    files.flush_to_disk(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        files.flush_to_disk(tmp_path / "file")


def test_a_lock_file_removed_before_it_is_locked_is_created_again(tmp_path, monkeypatch):
    """The previous holder may finish at that moment."""
    flock, calls = files.fcntl.flock, []

    def flock_late(stream, operation):
        if not calls:
            (tmp_path / "lock").unlink()
        calls.append(operation)
        flock(stream, operation)

    monkeypatch.setattr(files.fcntl, "flock", flock_late)
    with files.locked(tmp_path / "lock"):
        assert (tmp_path / "lock").exists() and len(calls) == 2


@pytest.mark.parametrize(
    "case_id, name",
    [
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("Пациент 1", "Пациент 1"),
        ("病例1", "病例1"),
        ("../../etc/x%2F", "%2E.%2F..%2Fetc%2Fx%252F"),
        ("--flag", "%2D-flag"),
        ("a:b?<i>", "a%3Ab%3F%3Ci%3E"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}gz", "%E2%80%AEgz"),
        ("a\nb\0", "a%0Ab%00"),
    ],
)
def test_file_names_of_cases_keep_letters_of_every_script(case_id, name):
    assert files.safe_file_name(case_id) == name


@hypothesis.given(strategies.lists(strategies.text("a%./\0Я病~ ", max_size=90), min_size=2))
def test_file_names_of_cases_differ_and_fit_into_a_folder(case_ids):
    names = {case_id: files.safe_file_name(case_id) for case_id in case_ids}
    assert len(set(names.values())) == len(names)
    for name in names.values():
        assert len(name.encode()) <= 180 and not set("/\0") & set(name)
        assert not name.startswith(".")
