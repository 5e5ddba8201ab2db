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


class Stopped(RuntimeError):
    """Work that was stopped from outside and can go on: run the same command again.

    Attributes:
        exit_code: 75 by default (EX_TEMPFAIL of sysexits.h, which SLURM scripts requeue on).
    """

    def __init__(self, message, exit_code=75):
        super().__init__(message, exit_code)
        self.exit_code = exit_code

    def __str__(self):
        return self.args[0]
