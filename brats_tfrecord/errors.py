"""Exceptions for errors that a user can cause or fix.

Each message is one line that names the file or flag, the value received, the value expected and
the remedy. The command lines print it and exit with `exit_code`. Any other exception is a bug.
"""


class InputError(ValueError):
    """Input or flags are invalid; nothing was written."""

    exit_code = 2


class CaseError(InputError):
    """One case cannot be used; other cases of the cohort can."""


class TrainingDiverged(RuntimeError):
    """The training loss is not finite."""

    exit_code = 3


class Stopped(RuntimeError):
    """The work was stopped from outside; the same command continues it.

    Attributes:
        exit_code: 75 by default (EX_TEMPFAIL of sysexits.h, on which SLURM scripts requeue).
        is_lost_peer: whether the reason is that another process of the run has ended.
    """

    def __init__(self, message: str, exit_code: int = 75, is_lost_peer: bool = False) -> None:
        super().__init__(message, exit_code)
        self.exit_code = exit_code
        self.is_lost_peer = is_lost_peer

    def __str__(self) -> str:
        return self.args[0]
