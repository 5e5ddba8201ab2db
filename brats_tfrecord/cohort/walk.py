"""Walks a cohort's folders, and counts what is left out on the way."""

import os

from brats_tfrecord.cohort import naming

_SHOWN = 3


class Leftovers:
    """What is left out, by reason: a count and the first few names, however many there are."""

    def __init__(self):
        self._found = {}

    def add(self, reason, name):
        """Counts `name` under `reason` (a plural, such as "masks without any image")."""
        entry = self._found.setdefault(reason, [0, []])
        entry[0] += 1
        if len(entry[1]) < _SHOWN:
            entry[1].append(name)

    def lines(self):
        """One line a reason: its count, the first names (escaped), and that they are left out."""
        return tuple(
            f"{reason} ({count:,}): {', '.join(map(_shown, names))}"
            f"{' …' if count > len(names) else ''}: left out"
            for reason, (count, names) in self._found.items()
        )


def folders(root, leftovers):
    """Yields (folder, its file names) of `root` and every folder below it, in order of names.

    Links are followed, but no folder is entered twice. Hidden names are skipped. Names that
    cannot be shown in one line, and folders that cannot be listed, go to `leftovers`. A folder
    named as an image counts as a file: reading will refuse it, by name.

    Args:
        root: where to start.
        leftovers: a `Leftovers`.
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
    """The name as it is, or escaped where it could not be shown in one line."""
    return ascii(name) if naming.is_unsafe(name) else name
