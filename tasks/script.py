"""Running a flow as a script: the user's own faults are told in one line, everything else with its traceback."""

import logging
from typing import Any

from adaptory.errors import UserError
from adaptory.garbage import collect_seldom
from adaptory.process import emit, tell


class _UserFaultsAreToldOnce(logging.Filter):
    """Drops Prefect's own telling of a user's fault, with its traceback: the run's state holds the message."""

    def __init__(self) -> None:
        super().__init__()
        self.names = tuple(f"{name}{mark}" for name in _names(UserError) for mark in "(:")

    def filter(self, record: logging.LogRecord) -> bool:
        fault = record.exc_info[1] if record.exc_info else None
        message = record.getMessage()
        return not isinstance(fault, UserError) and not any(name in message for name in self.names)


def _names(kind: type[Exception]) -> list[str]:
    """The names of this kind of fault and of all that are a special case of it."""
    return [kind.__name__, *(name for below in kind.__subclasses__() for name in _names(below))]


def run_as_script(flow: Any, *arguments: str | bool) -> int:
    """Runs the flow and prints its outcome as the last line; returns the exit code."""
    collect_seldom()
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_UserFaultsAreToldOnce())
    try:
        outcome = flow(*arguments)
    except UserError as error:
        return tell(error)
    except KeyboardInterrupt:
        return 130
    emit({"event": "outcome", **outcome.model_dump()})
    return 0
