"""Roll back: an earlier champion -> champion again."""

from prefect import flow

from adaptory import workspace
from adaptory.run import Outcome
from flows.parameters import Person, Reason, RecipeName, Version
from tasks.back import go_back
from tasks.events import announce


@flow(flow_run_name="rollback-{recipe}")
def rollback(recipe: RecipeName = "sentiment", to_version: Version = 0, reason: Reason = "", who: Person = "prefect") -> Outcome:
    """Makes an earlier champion champion again, in seconds: one more record in the ledger, and MLflow follows.

    Refused for a version that never was champion, was retired, or whose release is no longer whole.

    Args:
        recipe: A name under `recipes:` in params.yaml.
        to_version: E.g. 7 for v7; 0 is the champion before this one.
        reason: Why; it stands in the ledger.
        who: Your name; it stands in the ledger, and nobody checks it here.
    """
    workspace.find().activate()
    return announce(go_back(recipe, to_version or None, reason, who))
