"""Back: the ledger record that makes an earlier champion champion again, and MLflow as its mirror."""

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE

from adaptory import workspace
from adaptory.registry import projection, promotion
from adaptory.run import Outcome
from adaptory.storage import open_store
from tasks.common import RETRIED


@task(cache_policy=NO_CACHE)
def go_back(recipe: str, to: int | None, reason: str, who: str) -> Outcome:
    """Returns the champion of now. Not retried: the record may be there although the answer was lost; `history` tells."""
    place = workspace.find()
    store = open_store(place.store)
    made = promotion.rollback(store, recipe, to, by=who, reason=reason, flow_run=runtime.flow_run.id)
    said = f"v{made.version} is champion again: {made.reason}"
    try:
        mirror(recipe)
    except Exception as fault:  # the record stands, and a failed flow would be tried again
        said += f"; MLflow was not told ({fault}), so run the flow reconcile later"
    return Outcome(recipe=recipe, outcome="ROLLED_BACK", reason=said, version=made.version, folder="")


@task(**RETRIED)
def mirror(recipe: str) -> list[str]:
    """Makes MLflow's versions and aliases follow the ledger; returns what was changed."""
    place = workspace.find()
    return projection.project(place, open_store(place.store), recipe).changes
