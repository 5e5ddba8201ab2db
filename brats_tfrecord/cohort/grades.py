"""Tumour grades of patients: from `HGG`/`LGG` folders, or from BraTS's name_mapping.csv."""

import csv
import re

GRADES = ("HGG", "LGG")

_TABLE = re.compile(r"name_mapping\w*\.csv", re.IGNORECASE)


def grade_of_folder(folder):
    """ "HGG" or "LGG" where a part of the path is called so, otherwise None."""
    return next((part for part in reversed(folder.split("/")) if part in GRADES), None)


def is_grade_table(name):
    """Whether a file name is that of name_mapping.csv or its like for the validation set."""
    return _TABLE.fullmatch(name) is not None


def read_grade_table(path):
    """Reads a table of BraTS 2018-2020: a `Grade` column beside columns `…_subject_ID`.

    Returns:
        dict case id -> "HGG" or "LGG", for the ids of every release in it; empty without a `Grade`
        column, as in name_mapping_validation_data.csv.

    Raises:
        OSError, csv.Error: the file cannot be read.
    """
    grades = {}
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as stream:
        for row in csv.DictReader(stream):
            cells = {
                (name or "").strip().lower(): (cell or "").strip()
                for name, cell in row.items()
                if isinstance(cell, (str, type(None)))
            }
            grade = cells.get("grade", "").upper()
            if grade in GRADES:
                grades.update(
                    {
                        cell: grade
                        for name, cell in cells.items()
                        if name.endswith("subject_id") and cell
                    }
                )
    return grades
