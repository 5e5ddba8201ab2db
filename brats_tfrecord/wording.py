"""Formats counts, durations and untrusted text for people. Imports nothing of the project."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make a spreadsheet evaluate a text cell (OWASP, CSV injection)."""


def plural(count: int, noun: str) -> str:
    """Formats a count with its noun: (1, "case") -> "1 case", (2000, "case") -> "2,000 cases"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Formats seconds as hours, minutes and seconds: 3725 -> "1:02:05"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def csv_cell(text: str | None) -> str | None:
    """Makes untrusted text safe as a CSV cell.

    Text that a spreadsheet would evaluate is prefixed with an apostrophe. A carriage return, which
    some readers take for the end of a line, becomes a space. None and "" are returned unchanged.
    """
    if not text:
        return text
    apostrophe = "'" if text.lstrip(" ").startswith(_FORMULA_STARTS) else ""
    return apostrophe + text.replace("\r", " ")
