"""Audit: everything that does not agree with the ledger, as a table; a finding fails the run."""

from prefect import task
from prefect.artifacts import create_table_artifact

from adaptory import workspace
from adaptory.errors import IntegrityError
from adaptory.registry import head
from adaptory.registry.audit import audit as audited
from adaptory.storage import open_store
from tasks.common import RETRIED, key


@task(**RETRIED)
def audit(recipe: str, changes: list[str]) -> None:
    """Returns if all agrees. Raises IntegrityError with what does not; what was mended on the way is in the table."""
    place = workspace.find()
    if head(open_store(place.store), recipe) is None:  # nothing was promoted yet: that is for people to wait for
        return
    found = list(audited(place, open_store(place.store), recipe))
    create_table_artifact(
        key=key(recipe, "audit"),
        table=[{"what": "mended in MLflow", "told": one} for one in changes] + [{"what": "found", "told": one} for one in found],
        description=f"{len(found)} found, {len(changes)} mended.",
    )
    if found:
        raise IntegrityError(f"{recipe}: " + "; ".join(found))
