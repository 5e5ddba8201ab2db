"""Settings of glibc's memory allocator that make training on a CPU faster.

Measured on two cores: a step takes 9 % less CPU time with the documented network and patches of
64 voxels, 2 % less with patches of 128 voxels, 4 % less in the demo.
"""

import os
import sys
from collections.abc import Mapping

_TUNABLES = {
    "glibc.malloc.hugetlb": 1,  # huge pages by madvise: a thousandth of the page faults
    "glibc.malloc.mmap_max": 0,  # large blocks come from the heap and return to it,
    "glibc.malloc.trim_threshold": 2**31 - 1,  # and the heap does not shrink
}
_VARIABLE = "GLIBC_TUNABLES"


def tuned(environment: Mapping[str, str]) -> dict[str, str]:
    """Adds the allocator settings to environment variables; the user's own settings are kept."""
    given = [part for part in environment.get(_VARIABLE, "").split(":") if part]
    names = {part.partition("=")[0] for part in given}
    added = [f"{name}={value}" for name, value in _TUNABLES.items() if name not in names]
    return {**environment, _VARIABLE: ":".join(given + added)}


def restart_tuned() -> None:
    """Restarts the running command with `tuned` settings, unless it has them; Linux only.

    glibc reads its settings only when a process starts. Call this first, before TensorFlow is
    imported: everything the process has done so far is repeated.
    """
    environment = tuned(os.environ)
    if sys.platform == "linux" and environment != dict(os.environ):
        os.execve(sys.executable, sys.orig_argv, environment)
