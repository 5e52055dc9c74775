"""Promote: a candidate that waits -> a person's word -> ledger, MLflow."""

from prefect import flow

from adaptory import workspace
from adaptory.run import Outcome
from flows.parameters import Hours, RecipeName
from tasks.approve import ask, carry_out, proposed
from tasks.events import announce


@flow(flow_run_name="promote-{recipe}", persist_result=True)
def promote(recipe: RecipeName = "sentiment", wait_hours: Hours = 72.0) -> Outcome:
    """Asks a person to approve or reject the candidate that waits, and does what they say.

    The run is suspended until somebody answers: press Resume and fill the form, or `adaptory promote NAME`, or `adaptory
    reject NAME --reason ...`. No process runs and no GPU is held meanwhile. Run it again to ask again.

    Args:
        recipe: A name under `recipes:` in params.yaml.
        wait_hours: After so many hours without a word the question is closed; the candidate still waits.
    """
    workspace.find().activate()
    proposal = proposed(recipe)
    if isinstance(proposal, Outcome):
        return proposal
    said = ask(proposal, wait_hours)
    return announce(carry_out(proposal, said))
