"""What a task is tried again for."""

from types import SimpleNamespace
from typing import Any

import pytest

from adaptory.errors import DataError, DiedError, Preempted, ServerError, StageError
from tasks.common import RETRIED, worth_retrying


def retried(fault: Exception, runs: int) -> bool:
    """Whether a task that ended with this fault in its run of this number is run again."""

    def result() -> Any:
        raise fault

    return worth_retrying(None, SimpleNamespace(run_count=runs), SimpleNamespace(result=result))


def test_a_server_that_starts_again_is_waited_for_more_than_a_minute() -> None:
    assert [retried(ServerError("away"), runs) for runs in (1, 2, 3)] == [True] * 3
    assert sum(RETRIED["retry_delay_seconds"]) > 60 and RETRIED["retries"] == len(RETRIED["retry_delay_seconds"])


def test_what_nobody_foresaw_is_tried_once_more() -> None:
    assert [retried(OSError("chance"), runs) for runs in (1, 2)] == [True, False]


def test_a_training_that_was_killed_or_told_to_stop_goes_on_without_a_person() -> None:
    for fault in (DiedError("ended with code -9"), Preempted("told to stop")):
        assert [retried(fault, runs) for runs in (1, 2, 3)] == [True] * 3


@pytest.mark.parametrize("fault", [DataError("no rows"), StageError("ended with code 1")])
def test_what_a_person_must_mend_is_told_at_once(fault: Exception) -> None:
    assert not retried(fault, 1)
