"""Walks the folders of a cohort and counts the files that are left out."""

import os
from collections.abc import Iterator
from pathlib import Path

from brats_tfrecord.cohort import naming

_SHOWN = 3


class Leftovers:
    """Counts the paths that are left out for each reason, and keeps the first few of them."""

    def __init__(self) -> None:
        self._paths: dict[str, tuple[int, list[str]]] = {}

    def add(self, reason: str, path: str) -> None:
        """Counts `path` under `reason` (a plural, such as "masks without any image")."""
        count, paths = self._paths.get(reason, (0, []))
        self._paths[reason] = count + 1, paths if len(paths) == _SHOWN else [*paths, path]

    def lines(self) -> tuple[str, ...]:
        """Formats one line for each reason, with its count and the first paths, escaped."""
        return tuple(
            f"{reason} ({count:,}): {', '.join(map(_shown, paths))}"
            f"{' …' if count > len(paths) else ''}: left out"
            for reason, (count, paths) in self._paths.items()
        )


def folders(root: Path | str, leftovers: Leftovers) -> Iterator[tuple[str, list[str]]]:
    """Yields (folder, its sorted file names) for `root` and every folder below it, sorted.

    Links are followed, but no folder is visited twice. Hidden names are skipped. Names that
    cannot be shown in one line and folders that cannot be listed are added to `leftovers`. A
    folder with the name of an image is yielded as a file, so that reading refuses it by name.
    """
    seen = set()
    waiting = [os.fspath(root)]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                names, below = _sorted_entries(folder, entries, leftovers)
        except OSError:
            leftovers.add("folders that cannot be listed", folder)
            continue
        waiting.extend(reversed(below))
        yield folder, names


def _sorted_entries(folder, entries, leftovers):
    names, below = [], []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if naming.is_unsafe(entry.name):
            leftovers.add("names with control characters or not in UTF-8", entry.path)
        elif _is_folder(entry) and not naming.parse_file(entry.name):
            below.append(entry.path)
        else:
            names.append(entry.name)
    return sorted(names), sorted(below)


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _shown(name):
    """Returns the name, escaped if it cannot be shown in one line."""
    return ascii(name) if naming.is_unsafe(name) else name
