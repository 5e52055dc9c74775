"""Running a flow as a script: the user's own faults are told in one line, everything else with its traceback."""

import logging
import sys
from typing import Any

from adaptory.errors import UserError
from adaptory.stage import emit, tell


class _NoTracebackForUserFaults(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        fault = record.exc_info[1] if record.exc_info else None
        return not isinstance(fault, UserError) and "UserError" not in record.getMessage()


def run_as_script(flow: Any, *arguments: str) -> int:
    """Runs the flow and prints its outcome as the last line; returns the exit code."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_NoTracebackForUserFaults())
    try:
        outcome = flow(*arguments)
    except UserError as error:
        tell(error)
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    emit({"event": "outcome", **outcome.model_dump()})
    return 0
