"""Reconcile: the ledger -> MLflow; and everything that does not agree, told."""

from prefect import flow

from adaptory import workspace
from flows.parameters import RecipeName
from tasks.audit import audit
from tasks.back import mirror


@flow(flow_run_name="reconcile-{recipe}")
def reconcile(recipe: RecipeName = "sentiment") -> list[str]:
    """Makes MLflow follow the ledger, then audits: records, releases, artifacts and aliases. Fails when anything is wrong.

    Releases are downloaded and hashed again; an alias that was moved by hand is moved back and told.

    Args:
        recipe: A name under `recipes:` in params.yaml.
    """
    workspace.find().activate()
    changes = mirror(recipe)
    audit(recipe, changes)
    return changes
