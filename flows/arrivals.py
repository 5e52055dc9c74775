"""Arrivals: what the sources of every recipe hold now -> an event for each that was never seen before."""

from prefect import flow

from adaptory import workspace
from tasks.arrive import look, recipes


@flow
def arrivals() -> dict[str, str]:
    """Looks at the sources of every recipe and tells what is new; an automation starts one retrain for each new digest.

    Buckets are listed, not read; local files are hashed only when they changed.
    """
    workspace.find().activate()
    looked = {recipe: look(recipe, return_state=True) for recipe in recipes()}
    return {recipe: found.result() for recipe, found in looked.items()}  # fails for a server that is away
