"""Late: after a downtime many scheduled runs are due; only the newest of them works."""

from datetime import UTC, datetime

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort

from adaptory import workspace
from adaptory.registry import head
from adaptory.run import Outcome
from adaptory.storage import open_store

_AT_IT = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.COMPLETED]


@task(cache_policy=NO_CACHE)
def superseded(recipe: str) -> Outcome | None:
    """Returns that a later scheduled run of the same deployment does the work, or did it; None otherwise."""
    deployment = runtime.deployment.id
    if deployment is None:
        return None
    with get_client(sync_client=True) as client:
        mine = due_at(client.read_flow_run(runtime.flow_run.id))
        if mine is None:
            return None
        waiting = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_AT_IT))
            ),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,  # the server tells 200 at a time
        )
    later = [when for one in waiting if (when := due_at(one)) and mine < when <= datetime.now(UTC)]
    if not later:
        return None
    champion = head(open_store(workspace.find().store), recipe)
    said = f"the run of {max(later):%Y-%m-%d %H:%M} UTC is due as well or over, and does the work"
    return Outcome(recipe=recipe, outcome="SUPERSEDED", reason=said, version=champion.version if champion else None, folder="")


def due_at(run: FlowRun) -> datetime | None:
    """When the scheduler wanted a run to start; None for one that it did not make. A run that has to wait for another gets a new
    start time, so the time is read from the key that keeps the scheduler from making a run twice."""
    words = (run.idempotency_key or "").split(" ")
    try:
        return datetime.fromisoformat(" ".join(words[-2:])) if run.auto_scheduled else None
    except ValueError:
        return None
