"""Left: what a flow run that failed, crashed or was cancelled leaves open in MLflow."""

from typing import Any

from prefect.client.schemas.objects import FlowRun, State

from adaptory import workspace
from adaptory.registry import tracking


def close(flow: Any, flow_run: FlowRun, state: State) -> None:
    """Ends the MLflow runs of the recipe: killed if the flow run was cancelled, else failed. For flows that are alone."""
    place = workspace.find()
    place.activate()
    tracking.close_left(place, flow_run.parameters["recipe"], "KILLED" if state.is_cancelling() else "FAILED")
