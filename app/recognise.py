"""Tells which uploaded file is which, by names, and by dimensions where names leave it open.

Names come from strangers: they are cleaned before anything else, shown, and never used as paths.
What names do not tell is returned as an open question, for a person to answer on the page.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace

from brats_tfrecord import spec
from brats_tfrecord.cohort import msd, naming
from brats_tfrecord.cohort.content import MemoryFile, open_content
from brats_tfrecord.cohort.header import parse_header
from brats_tfrecord.errors import InputError

FOUR_D = "4d"
"""The kind of MSD's one file of four modalities."""

KINDS = {
    "t1": "T1",
    "t1ce": "T1 with contrast (T1ce, T1Gd)",
    "t2": "T2",
    "flair": "FLAIR",
    FOUR_D: "all four in one 4-D file (FLAIR, T1w, T1gd, T2w)",
    "seg": "segmentation (truth)",
}
"""Kind of a file -> what to call it on the page."""

_LONGEST_NAME = 4096
_LONGEST_SHOWN = 80
_COPY_MARK = re.compile(
    r"(?:\s?\(\d{1,3}\)|(?:\s-)?\scopy(?:\s\d{1,3})?)+(?=\.nii(?:\.gz)?$|\.gz$)", re.IGNORECASE
)
"""As browsers and file managers put it before either ending: " (1)", " - Copy", " copy 2"."""
_MSD_ID = re.compile(r"BRATS_\d{3}", re.IGNORECASE)


@dataclass(frozen=True)
class UploadName:
    """What the name of one uploaded file says.

    Attributes:
        shown: the name in one line of at most 80 characters, without folders.
        folder: the folders before the name, where a whole folder was uploaded; for reading only.
        case_id: what stands before the suffix; without a suffix, all but the ending.
        kind: one of `KINDS`, or None where the name does not tell.
        layout: one of `naming.LAYOUTS`, or "".
    """

    shown: str
    folder: str
    case_id: str
    kind: str | None
    layout: str

    @property
    def label_scheme(self):
        """Name of the label scheme that a mask of this name holds, or None: ask for it."""
        if not self.layout:
            return None
        try:
            return naming.scheme_of(self.layout, self.case_id, self.folder)[0]
        except InputError:  # unknown, or contradictory
            return None


@dataclass(frozen=True)
class Recognised:
    """What the names of uploaded files say.

    Attributes:
        case_id: of the files that were recognised, "" if none was.
        files: an `UploadName` for each file, in the order of the upload.
        kinds: kind -> index of the file, for the kinds that exactly one file claims, in the order
            of `KINDS`: a first assignment for `intake.load_uploads`.
        ignored: shown names of the files of no known kind.
        conflicts: what a person must decide, one line each; empty if nothing is open.
        label_scheme: name of the scheme of the mask in `kinds`, or None.
    """

    case_id: str
    files: tuple[UploadName, ...]
    kinds: Mapping[str, int]
    ignored: tuple[str, ...]
    conflicts: tuple[str, ...]
    label_scheme: str | None

    @property
    def asks_label_scheme(self):
        """Whether there is a mask whose name does not tell what its values mean."""
        return "seg" in self.kinds and self.label_scheme is None


def recognise(names, contents=None):
    """Tells which of the files `names` is which; their order means nothing.

    Known are the names of BraTS 2018-2021, BraTS 2023-2024 and MSD Task01, in upper or lower case,
    with the marks that browsers put behind a second download. MSD gives an image and its labels one
    name: the folder tells them apart, else the number of axes in the header, else a person.

    Args:
        names: file names as the browser sent them, folders before them or not.
        contents: the files' bytes-like contents in the same order, or None. At most 1 MiB of those
            whose name has no BraTS suffix is inflated.

    Returns:
        a `Recognised`; never raises for a name or a content.
    """
    files = [_read_name(name) for name in names]
    files = _with_msd(files, contents)
    _take_stray_mask(files)
    claims = {
        kind: [index for index, file in enumerate(files) if file.kind == kind] for kind in KINDS
    }
    kinds = {kind: indices[0] for kind, indices in claims.items() if len(indices) == 1}
    known = [file for file in files if file.kind]
    return Recognised(
        shorten(known[0].case_id) if known else "",
        tuple(files),
        kinds,
        tuple(file.shown for file in files if not file.kind),
        tuple(_conflicts(files, claims)),
        files[kinds["seg"]].label_scheme if "seg" in kinds else None,
    )


def shorten(text):
    """`text` with its middle left out where it is longer than a line of the page can hold."""
    half = _LONGEST_SHOWN // 2
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: half - 1]}…{text[-half:]}"


def _read_name(name):
    """The `UploadName` as far as this name alone tells."""
    *folders, base = re.split(r"[/\\]", _clean(name))
    base = base[-_LONGEST_NAME:].strip() or "unnamed"
    plain = _COPY_MARK.sub("", base)
    layout, case_id, kind = naming.parse_file(plain) or ("", "", None)
    if not kind and (parsed := msd.parse_image(plain)):
        case_id = parsed[0]
    return UploadName(shorten(base), "/".join(folders), case_id, kind, layout)


def _clean(name):
    """`name` without invisible marks (of direction, for instance) and without control characters.

    Both could make one line look like another, or like two.
    """
    kept = []
    for character in unicodedata.normalize("NFC", str(name)):
        category = unicodedata.category(character)
        if category == "Cf":
            continue
        unsafe = category[0] == "C" or category in ("Zl", "Zp")
        kept.append("\N{REPLACEMENT CHARACTER}" if unsafe else character)
    return "".join(kept)


def _with_msd(files, contents):
    """`files`, with the 4-D images of MSD among the unknown ones, and their labels."""
    open_ones = [index for index, file in enumerate(files) if not file.kind and file.case_id]
    kinds = {}
    for index in open_ones:
        file = files[index]
        place = file.folder.rsplit("/", 1)[-1]
        axes = _axes(file, contents[index]) if contents is not None else None
        if place in msd.IMAGE_FOLDERS or axes == 4:
            kinds[index] = FOUR_D
        elif place == msd.LABEL_FOLDER:
            kinds[index] = "seg"
        elif axes is None and _MSD_ID.fullmatch(file.case_id):
            kinds[index] = FOUR_D  # if two claim it, a person decides
    images = {files[index].case_id.casefold() for index, kind in kinds.items() if kind == FOUR_D}
    for index in open_ones:
        if index not in kinds and files[index].case_id.casefold() in images:
            kinds[index] = "seg"
    return [
        replace(file, kind=kinds[index], layout="msd") if index in kinds else file
        for index, file in enumerate(files)
    ]


def _axes(file, data):
    """4 or 3 as the header says, None if it is no header that can be read."""
    try:
        with open_content(MemoryFile(file.shown, data)) as content:
            for axes in (4, 3):
                try:
                    parse_header(file.shown, content.head, four_d=axes == 4)
                    return axes
                except InputError:
                    continue
    except InputError:
        pass
    return None


def _take_stray_mask(files):
    """Takes BraTS 2020's one mask of another name (W39_1998.09.19_Segm.nii) where none ends in seg.

    Changes `files` in place.
    """
    stray = [
        index
        for index, file in enumerate(files)
        if not file.kind and naming.is_stray_mask(file.shown)
    ]
    known = {(file.layout, file.case_id) for file in files if file.kind}
    if len(stray) == len(known) == 1 and not any(file.kind == "seg" for file in files):
        [(layout, case_id)] = known
        if layout == naming.LAYOUTS[0]:
            files[stray[0]] = replace(files[stray[0]], kind="seg", layout=layout, case_id=case_id)


def _conflicts(files, claims):
    """Yields a line for each question that names leave open."""
    for kind, indices in claims.items():
        if len(indices) > 1:
            first, second = (files[index].shown for index in indices[:2])
            count = "two" if len(indices) == 2 else str(len(indices))
            yield (
                f"{count} {kind} files, {first} and {second}; expected one, remove the other or "
                "choose which is which"
            )
    by_case = {}
    for file in files:
        if file.kind:
            by_case.setdefault(file.case_id.casefold(), file.shown)
    if len(by_case) > 1:
        first, second, *_ = by_case.values()
        yield f"{first} and {second} are files of two cases; upload one case at a time"
    single = [kind for kind in spec.MODALITIES if claims[kind]]
    if claims[FOUR_D] and single:
        yield (
            f"{files[claims[FOUR_D][0]].shown} holds all four modalities, and "
            f"{files[claims[single[0]][0]].shown} is {single[0]} too; remove one of them"
        )
