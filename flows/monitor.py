"""Monitor: the data that arrived -> the champion's answers -> steady, or an alarm, or a retrain."""

from typing import Literal

from prefect import flow

from adaptory import workspace
from flows.parameters import RecipeName
from tasks.alone import alone
from tasks.prepare import keep, prepare
from tasks.watch import react, watch

When = Literal["never", "worse", "worse or drifted"]


@flow(flow_run_name="monitor-{recipe}")
def monitor(recipe: RecipeName = "sentiment", retrain_when: When = "worse") -> str:
    """Scores the champion on the test rows that arrived since it was promoted, and compares the data with its own.

    Worse: the whole interval on the new rows lies below the one it was promoted with. Drifted: what `data.drift` calls so.
    Nothing is trained here and no look at the test split is spent.

    Args:
        recipe: A name under `recipes:` in params.yaml.
        retrain_when: What starts a retrain at once; everything else is told as an event.
    """
    workspace.find().activate()
    with alone(recipe):  # a retrain works on the data that lie here
        run = prepare(recipe)
        keep(run)
        health = watch(run)
    return react(health, retrain_when)
