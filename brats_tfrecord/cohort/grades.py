"""Tumour grades of patients, from `HGG`/`LGG` folders or from BraTS's name_mapping.csv."""

import csv
import re
from pathlib import Path

_GRADES = ("HGG", "LGG")

_TABLE = re.compile(r"name_mapping\w*\.csv", re.IGNORECASE)


def grade_of_folder(folder: str) -> str | None:
    """Returns "HGG" or "LGG" if a part of the path has that name, otherwise None."""
    return next((part for part in reversed(folder.split("/")) if part in _GRADES), None)


def is_grade_table(name: str) -> bool:
    """Returns whether a file is called name_mapping.csv or name_mapping_….csv."""
    return _TABLE.fullmatch(name) is not None


def read_grade_table(path: Path | str) -> dict[str, str]:
    """Reads a table of BraTS 2018-2020, with a `Grade` column and `…_subject_ID` columns.

    Returns:
        case id -> "HGG" or "LGG", for the ids of every release in the table; empty without a
        `Grade` column, as in name_mapping_validation_data.csv.

    Raises:
        OSError, csv.Error: the file cannot be read.
    """
    grades = {}
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as stream:
        for row in csv.DictReader(stream):
            cells = {
                (column or "").strip().lower(): (cell or "").strip()
                for column, cell in row.items()
                if isinstance(cell, (str, type(None)))  # a row with too many cells has a list
            }
            grade = cells.get("grade", "").upper()
            if grade in _GRADES:
                ids = [cell for column, cell in cells.items() if column.endswith("subject_id")]
                grades.update({case_id: grade for case_id in ids if case_id})
    return grades
