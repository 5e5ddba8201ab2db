"""Declares the fields of the options dataclasses, from which the tools make their flags."""

import dataclasses
from collections.abc import Sequence
from typing import Any


def option(
    default: Any,
    help_text: str,
    choices: Sequence[str] | None = None,
    *,
    may_change: bool = False,
    is_flag: bool = True,
) -> Any:
    """Declares a field of an options dataclass.

    Args:
        default: value of the flag if it is not given; `dataclasses.MISSING` for a required flag.
        help_text: explanation that `--help` shows.
        choices: the values that are accepted; None accepts any value of the field's type.
        may_change: whether a rerun in the same folder may give another value.
        is_flag: whether the tools have a flag for it.

    Returns:
        the dataclass field; its metadata holds "help", "may_change", "is_flag" and, if given,
        "choices".
    """
    metadata: dict[str, Any] = {"help": help_text, "may_change": may_change, "is_flag": is_flag}
    if choices is not None:
        metadata["choices"] = tuple(choices)
    return dataclasses.field(default=default, metadata=metadata)
