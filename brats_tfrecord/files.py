"""Writes files and folders atomically, locks folders and checks output paths."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from brats_tfrecord.errors import InputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk and of an exceeded disk quota."""

_RESERVED = frozenset('/\\%:*?"<>|')
"""Characters that some operating system refuses in a file name, and the mark of an encoded byte."""

_MAX_NAME_BYTES = 180
"""Length of a `safe_file_name`: systems allow 255 bytes, and callers add an ending."""

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Error numbers of a file system that cannot do what was asked, such as Lustre without flock."""

_TEMPORARY = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}\.(tmp|old)")
"""The names that `_temporary` makes: the target's name, and whether it is a new or an old state."""


@contextlib.contextmanager
def replacing(path: Path | str, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary file name beside `path`, which replaces `path` when the block ends.

    After an error the temporary file is removed and `path` is unchanged. The name is unique, so
    that concurrent writers never share a file.

    Args:
        path: the file to replace or create; missing parent folders are created.
        durable: whether to wait until the bytes are on the disk. Without it, a power failure can
            leave an incomplete file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        if durable:
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path | str) -> Iterator[Path]:
    """Yields a temporary folder name beside `path`, which replaces `path` when the block ends.

    After an error the temporary folder is removed and `path` is unchanged. If the process is killed
    between the two renames, `remove_orphans` restores the old folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, previous = _temporary(path), _temporary(path, "old")
    try:
        yield temporary
        if path.exists():  # a rename cannot replace a folder that is not empty
            path.rename(previous)
        temporary.rename(path)
    finally:
        _restore_or_remove(previous, path)
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder(path: Path | str) -> Iterator[Path]:
    """Yields a new, hidden folder beside `path`, which is removed when the block ends.

    After a kill `remove_orphans` removes it.
    """
    temporary = _temporary(Path(path))
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def flush_to_disk(path: Path | str) -> None:
    """Waits until a file's bytes, or the names in a folder, are on the disk (fsync).

    File systems that cannot do it for folders are left to their own order of writing.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
    finally:
        os.close(descriptor)


def remove_orphans(folder: Path | str, deep: bool = True) -> None:
    """Removes temporary files and folders of killed writers; restores folders not yet replaced.

    Call it only while no other process writes to `folder`.

    Args:
        folder: where to search.
        deep: whether to search the folders below as well.
    """
    for path in list(Path(folder).glob("**/.*" if deep else ".*")):
        name = _TEMPORARY.fullmatch(path.name)
        if not name:
            continue
        if name[2] == "old":
            _restore_or_remove(path, path.with_name(name[1]))
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Holds an operating-system lock on the file `path`, which is removed afterwards.

    The lock ends with its process. The file of a killed process remains, but does not block.

    On a file system without locks the block runs unlocked, after a line on stderr: refusing would
    shut out everyone whose cluster mounts its disks so, and a lock file alone would have to be
    removed by hand after every kill.

    Raises:
        Locked: another process holds the lock.
        OSError: the file cannot be created or locked for another reason.
    """
    path = Path(path)
    with _lock(path) as stream:
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(path):
    """Opens and locks the file `path`."""
    while True:
        stream = open(path, "a+")  # noqa: SIM115 - the caller closes it
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:  # EWOULDBLOCK, and nothing else, means that it is held
            with stream:
                raise Locked(_holder(stream) or "unknown") from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                stream.close()
                raise OSError(error.errno, error.strerror, str(path)) from error
            _warn_unlocked(path, _holder(stream), error)
        # The previous holder may have removed the file after it was opened here.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), os.stat(path)):
                return stream
        stream.close()


def _holder(stream):
    stream.seek(0)
    return stream.read().strip()


def _warn_unlocked(path, holder, error):
    used = f" It was last used by {holder}, which may still be at work." if holder else ""
    print(
        f"{path.parent}: this file system has no locks ({error.strerror}); continuing without: "
        f"make sure that nothing else writes to this folder.{used}",
        file=sys.stderr,
        flush=True,
    )


class Locked(Exception):
    """Another process holds the lock; the message names it."""


def require_writable(flag: str, folder: Path | str) -> None:
    """Creates `folder` if it is missing and checks that files can be created in it.

    Raises:
        InputError: it cannot be written to; names `flag`.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{flag}={folder}: cannot be written to ({error.strerror}); expected a folder of yours"
        ) from error


def require_outside(
    flag: str, folder: Path | str, other_flag: str, other_folder: Path | str
) -> None:
    """Raises `InputError` if `folder`, given by `flag`, is `other_folder` or lies within it."""
    inner, outer = Path(folder).resolve(), Path(other_folder).resolve()
    if inner.is_relative_to(outer):
        raise InputError(
            f"{flag}={folder}: lies within {other_flag}={other_folder}, which it would "
            "change; expected a folder elsewhere"
        )


def safe_file_name(case_id: str) -> str:
    """Returns a case id as the beginning of a file name; different ids give different names.

    Letters of every script are kept. Percent-encoded as UTF-8 bytes are the characters that an
    operating system reserves, invisible ones (control characters, marks of direction), and a dot
    or a hyphen at the beginning, which would hide the file or look like an option. A result above
    180 bytes is cut and ends in a digest of the id.

    >>> safe_file_name("../Пациент 1"), safe_file_name("50%")
    ('%2E.%2FПациент 1', '50%25')
    """
    name = "".join(
        _percent(letter) if _is_unsafe(letter) or (letter in ".-" and not index) else letter
        for index, letter in enumerate(case_id)
    )
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name.encode()[: _MAX_NAME_BYTES - 17].decode(errors='ignore')}~{digest}"


def _is_unsafe(letter):
    category = unicodedata.category(letter)
    return letter in _RESERVED or category[0] == "C" or (category[0] == "Z" and letter != " ")


def _percent(letter):
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))


def write_bytes(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Writes `text` as UTF-8 to `path` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` as JSON with sorted keys, an indent of two spaces and a final newline."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Reads the JSON value of a regular file.

    Raises:
        OSError: no such file.
        ValueError: not JSON, or not a regular file (a pipe is refused, not waited for).
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is not a regular file")
    try:
        return json.loads(Path(path).read_bytes())
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


def sha256(path: Path | str) -> str:
    """Computes the hex SHA-256 of a regular file, 1 MiB at a time.

    Raises:
        OSError: no such file, or not a regular file (a pipe is refused, not waited for).
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _temporary(path, state="tmp"):
    """Returns a unique, hidden name beside `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.{state}")


def _restore_or_remove(previous, path):
    """Removes the old folder `previous`, or moves it back to `path` if nothing replaced it."""
    if previous.exists() and not path.exists():
        previous.rename(path)
    shutil.rmtree(previous, ignore_errors=True)
