"""Files that exist whole or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import socket
import stat
import tempfile
from pathlib import Path

from brats_tfrecord.errors import InputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a disk, or a user's quota on it, that is full."""

_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def replacing(path, durable=True):
    """Yields a temporary path beside `path`, moved onto it when the block ends well.

    The temporary name is unique, so writers never share one; on an error it is removed and
    `path` stays as it was. The bytes reach the disk before the name does, unless `durable` is
    false: then only a power cut can leave a file that is not whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_orphans(folder, deep=True):
    """Removes what writers killed within `replacing` have left in `folder`, and if `deep`, below.

    For whoever knows that nobody else is writing there now.
    """
    for path in list(Path(folder).glob("**/.*.tmp" if deep else ".*.tmp")):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path):
    """Holds the operating system's lock on the file `path`, which dies with its process.

    The file is there while the lock is held, and removed after it; a killed holder's stays, and
    holds nobody up.

    Raises:
        Locked: another process holds it.
    """
    path = Path(path)
    with _own_lock(path) as stream:
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        try:
            yield stream
        finally:
            path.unlink(missing_ok=True)


def _own_lock(path):
    """The file `path`, opened and locked."""
    while True:
        stream = open(path, "a+")  # noqa: SIM115 - the caller closes it
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with stream:
                stream.seek(0)
                raise Locked(stream.read().strip() or "unknown") from error
        # Whoever held it before may have removed it between our opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), os.stat(path)):
                return stream
        stream.close()


class Locked(Exception):
    """A lock that somebody else holds; its text says who."""


def require_writable(flag, folder):
    """Makes `folder` if it is missing, and proves that files can be made in it.

    Raises:
        InputError: naming `flag`, before any work was done for nothing.
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


def require_outside(flag, folder, other_flag, other):
    """Raises `InputError` where `folder`, given by `flag`, is or lies within `other`."""
    inner, outer = Path(folder).resolve(), Path(other).resolve()
    if inner == outer or outer in inner.parents:
        raise InputError(
            f"{flag}={folder}: lies within {other_flag}={other}, which it would "
            "change; expected a folder elsewhere"
        )


def write_bytes(path, data):
    """Writes `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path, text):
    """Writes `text` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path, value):
    """Writes `value` as stable, readable JSON: sorted keys, two spaces, one final newline."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path):
    """The JSON value of a regular file.

    Raises:
        OSError: no such file.
        ValueError: not JSON, or nothing to read from without waiting, such as a pipe.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is not a regular file")
    try:
        return json.loads(Path(path).read_bytes())
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


def sha256(path):
    """Hex SHA-256 of the regular file at `path`, read in pieces; OSError if it is none."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
