"""Alone: one run at a time per model; and a run that crashed again and again is not resubmitted for ever."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists

from adaptory.errors import StageError

_ATTEMPTS = 4


@contextmanager
def alone(recipe: str) -> Iterator[None]:
    """Waits until no other run works on this model. Raises StageError for a run that crashed too often.

    Two runs side by side would waste hours, and harm nothing: the ledger lets one of them promote. So a lease that could not be
    renewed ends no work. The slot of a holder that died is free again after a minute.
    """
    if runtime.flow_run.run_count > _ATTEMPTS:
        raise StageError(f"this run crashed {_ATTEMPTS} times; look at its worker's log, and start a new one when that is mended")
    name = limit_of(recipe)
    # A limit that does not exist guards nothing; another run may be as fast in making it.
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with concurrency(name, occupy=1, strict=True, lease_duration=60, raise_on_lease_renewal_failure=False):
        yield


def limit_of(recipe: str) -> str:
    """The name of the limit that a model's runs share."""
    return f"promote-{recipe}"
