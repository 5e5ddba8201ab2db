"""Recognises uploaded files by their names, and by their dimensions if the names are ambiguous.

Names are untrusted: they are cleaned first, displayed, and never used as paths. Ambiguities are
returned as questions that the user answers on the page.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from brats_tfrecord import spec
from brats_tfrecord.cohort import msd, naming
from brats_tfrecord.cohort.content import MemoryFile, open_content
from brats_tfrecord.cohort.header import parse_header
from brats_tfrecord.errors import InputError

FOUR_D = "4d"
"""Kind of the 4-D file of MSD, which holds all four modalities."""

KINDS = {
    "t1": "T1",
    "t1ce": "T1 with contrast (T1ce, T1Gd)",
    "t2": "T2",
    "flair": "FLAIR",
    FOUR_D: "all four in one 4-D file (FLAIR, T1w, T1gd, T2w)",
    "seg": "segmentation (truth)",
}
"""Kind of a file -> its title on the page."""

_MAX_NAME = 4096
_MAX_SHOWN = 80
_COPY_MARK = re.compile(
    r"(?:\s?\(\d{1,3}\)|(?:\s-)?\scopy(?:\s\d{1,3})?)+(?=\.nii(?:\.gz)?$|\.gz$)", re.IGNORECASE
)
"""Marks of browsers and file managers before an extension: " (1)", " - Copy", " copy 2"."""
_MSD_ID = re.compile(r"BRATS_\d{3}", re.IGNORECASE)


@dataclass(frozen=True)
class UploadName:
    """The parsed name of one uploaded file.

    Attributes:
        shown: the name in one line of at most 80 characters, without folders.
        folder: the folders before the name, if a whole folder was uploaded; for display only.
        case_id: the part before the suffix; without a suffix, the name without its extension.
        kind: one of `KINDS`, or None if unknown.
        layout: one of `naming.LAYOUTS`, or "".
    """

    shown: str
    folder: str
    case_id: str
    kind: str | None
    layout: str

    @property
    def label_scheme(self) -> str | None:
        """Name of the label scheme of a mask with this name; None if the name does not decide."""
        if not self.layout:
            return None
        try:
            return naming.scheme_of(self.layout, self.case_id, self.folder)[0]
        except InputError:  # the names do not decide, or contradict each other
            return None


@dataclass(frozen=True)
class Recognised:
    """The result of `recognise`.

    Attributes:
        case_id: case id of the first recognised file, "" without one.
        files: the parsed names, in the order of the upload.
        kinds: kind -> index of the file, for kinds of exactly one file, in the order of `KINDS`; a
            first assignment for `intake.load_uploads`.
        ignored: displayed names of the files of unknown kind.
        conflicts: one line for each question to the user.
        label_scheme: name of the label scheme of the mask in `kinds`, or None.
    """

    case_id: str
    files: tuple[UploadName, ...]
    kinds: Mapping[str, int]
    ignored: tuple[str, ...]
    conflicts: tuple[str, ...]
    label_scheme: str | None

    @property
    def asks_label_scheme(self) -> bool:
        """Whether the files include a mask whose name does not decide its label scheme."""
        return "seg" in self.kinds and self.label_scheme is None


def recognise(names: Sequence[str], contents: Sequence[bytes] | None = None) -> Recognised:
    """Recognises the kind of each file; the order of the files has no influence.

    Knows the names of BraTS 2018-2021, BraTS 2023-2024 and MSD Task01, in upper or lower case, with
    the marks that browsers add to a second download. MSD gives an image and its labels the same
    name: they are distinguished by their folders, else by the number of axes in the header, else
    by the user. Never raises for a name or a content.

    Args:
        names: file names as the browser sent them, with or without folders.
        contents: bytes-like contents of the files in the same order, or None. At most 1 MiB is
            decompressed, of files whose names have no BraTS suffix.
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


def shorten(text: str) -> str:
    """Replaces the middle of a text longer than 80 characters by an ellipsis."""
    half = _MAX_SHOWN // 2
    return text if len(text) <= _MAX_SHOWN else f"{text[: half - 1]}…{text[-half:]}"


def _read_name(name):
    """The `UploadName`, from this name alone."""
    *folders, base = re.split(r"[/\\]", _clean(name))
    base = base[-_MAX_NAME:].strip() or "unnamed"
    plain = _COPY_MARK.sub("", base)
    layout, case_id, kind = naming.parse_file(plain) or ("", "", None)
    if not kind and (parsed := msd.parse_image(plain)):
        case_id = parsed[0]
    return UploadName(shorten(base), "/".join(folders), case_id, kind, layout)


def _clean(name):
    """Removes invisible marks (of direction, for instance) and replaces control characters.

    Both could make a line of the page look like another line, or like two.
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
    """Returns `files` with the 4-D images and labels of MSD recognised among the unknown files."""
    unknown = [index for index, file in enumerate(files) if not file.kind and file.case_id]
    kinds = {}
    for index in unknown:
        file = files[index]
        folder = file.folder.rsplit("/", 1)[-1]
        axes = _axes(file, contents[index]) if contents is not None else None
        if folder in msd.IMAGE_FOLDERS or axes == 4:
            kinds[index] = FOUR_D
        elif folder == msd.LABEL_FOLDER:
            kinds[index] = "seg"
        elif axes is None and _MSD_ID.fullmatch(file.case_id):
            kinds[index] = FOUR_D  # if two files have this id, the user decides
    images = {files[index].case_id.casefold() for index, kind in kinds.items() if kind == FOUR_D}
    for index in unknown:
        if index not in kinds and files[index].case_id.casefold() in images:
            kinds[index] = "seg"
    return [
        replace(file, kind=kinds[index], layout="msd") if index in kinds else file
        for index, file in enumerate(files)
    ]


def _axes(file, data):
    """The number of axes in the header, 4 or 3; None if the header cannot be read."""
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
    """Recognises BraTS 2020's one irregular mask name, W39_1998.09.19_Segm.nii, in place.

    Only if no other file is a mask.
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
    """Yields one line for each question that the names leave open."""
    for kind, indices in claims.items():
        if len(indices) > 1:
            first, second = (files[index].shown for index in indices[:2])
            count = "two" if len(indices) == 2 else str(len(indices))
            yield (
                f"{count} {kind} files, {first} and {second}; expected one, remove the other or "
                "choose which is which"
            )
    by_case: dict[str, str] = {}
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
