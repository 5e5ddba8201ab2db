"""The errors a user can cause, kept apart from our own bugs.

Every message names the file or flag, what came, what was expected and the way out, in one line.
The command lines print it and exit with `InputError.exit_code`; anything else is a bug of ours.
"""


class InputError(ValueError):
    """Bad input or flags; nothing was written."""

    exit_code = 2


class CaseError(InputError):
    """One case cannot be used; the rest of the cohort can."""


class TrainingDiverged(RuntimeError):
    """Training met a loss that is not finite."""

    exit_code = 3
