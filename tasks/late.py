"""Late: after a downtime many scheduled runs are due; only the newest of them works."""

from datetime import UTC, datetime

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType

from adaptory import workspace
from adaptory.registry import head
from adaptory.run import Outcome
from adaptory.storage import open_store


@task(cache_policy=NO_CACHE)
def superseded(recipe: str) -> Outcome | None:
    """Returns that a later scheduled run of the same deployment is due as well, which does the work; None otherwise."""
    deployment, mine = runtime.deployment.id, runtime.flow_run.scheduled_start_time
    if deployment is None:
        return None
    with get_client(sync_client=True) as client:
        this = client.read_flow_run(runtime.flow_run.id)
        if not this.auto_scheduled:
            return None
        due = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                expected_start_time=FlowRunFilterExpectedStartTime(after_=mine, before_=datetime.now(UTC)),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING])),
            ),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        )
    later = [one for one in due if one.auto_scheduled and one.expected_start_time and one.expected_start_time > mine]
    if not later:
        return None
    champion = head(open_store(workspace.find().store), recipe)
    said = f"the run of {max(one.expected_start_time for one in later):%Y-%m-%d %H:%M} UTC is due as well, and does the work"  # type: ignore[type-var]
    return Outcome(recipe=recipe, outcome="SUPERSEDED", reason=said, version=champion.version if champion else None, folder="")
