"""What can go wrong, told to the person who can mend it.

Every message says what was wrong, the value, the limit and the remedy. A `UserError` is shown
without a traceback and ends the command with exit code 2.
"""


class UserError(ValueError):
    """A fault that the user can mend."""

    exit_code = 2


class RecipeError(UserError):
    """The recipe cannot be read or asks for something impossible."""


class DataError(UserError):
    """The data does not keep the recipe's promises."""


class BaseModelError(UserError):
    """The base model cannot be had, or is not the one that was pinned."""


class IntegrityError(UserError):
    """Bytes do not have the digest they were promised to have."""


class ReleaseError(UserError):
    """A release cannot be found, pulled or loaded."""


class StageError(UserError):
    """A stage ended before it was done."""


class TrainingError(StageError):
    """A training cannot go on with these settings: its numbers are not finite, or its memory does not suffice."""


class DiedError(StageError):
    """The process of a stage was killed, or hung and was killed: the same command may do."""


class PlanError(UserError):
    """A training would not keep its deadline or its memory."""


class Preempted(UserError):  # noqa: N818 - nothing went wrong
    """A stage was told to stop (SIGTERM) and can go on later; exit code 75, `EX_TEMPFAIL`."""

    exit_code = 75


class ServerError(UserError):
    """A configured server does not answer."""


class BusyError(UserError):
    """Another run of the same recipe is under way."""


class AlreadyExists(Exception):  # noqa: N818 - the name is the protocol's word
    """An object was to be created, and somebody else had created it before."""


class NotFound(Exception):  # noqa: N818
    """No object has this key."""
