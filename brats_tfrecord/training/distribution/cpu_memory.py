"""How the process gets its memory: what a training step on a CPU allocates has to be used again."""

import os
import sys

_TUNABLES = {
    "glibc.malloc.hugetlb": 1,  # huge pages by madvise: a thousandth of the page faults
    "glibc.malloc.mmap_max": 0,  # large blocks come from the heap, and go back to it
    "glibc.malloc.trim_threshold": 2**31 - 1,  # which the kernel does not get back
}
_VARIABLE = "GLIBC_TUNABLES"


def tuned(environment):
    """`environment` with glibc's allocator set for training; what it sets already is kept."""
    old = [part for part in environment.get(_VARIABLE, "").split(":") if part]
    named = {part.partition("=")[0] for part in old}
    new = [f"{name}={value}" for name, value in _TUNABLES.items() if name not in named]
    return {**environment, _VARIABLE: ":".join(old + new)}


def restart_tuned():
    """Starts this very command again with `tuned` memory; returns if it is, or off Linux.

    glibc reads its settings when a process starts and never again. Call it first of all, before
    TensorFlow is imported: what the process has done by then is done twice.
    """
    environment = tuned(os.environ)
    if sys.platform == "linux" and environment != dict(os.environ):
        os.execve(sys.executable, sys.orig_argv, environment)
