"""Stage: an order -> data by DVC, files by digest -> one stage, on this machine -> what it left, by digest."""

from prefect import flow

from adaptory import workspace
from adaptory.parcel import Order
from tasks.order import fulfil


@flow(flow_run_name="{order.recipe}-{order.stage}")
def stage(order: Order) -> None:
    """Does one stage of a run that is orchestrated elsewhere; started by it, not by people.

    Killed at any moment, the next attempt on this machine goes on from the last checkpoint.

    Args:
        order: What to do, and on which data: made by the run that asks.
    """
    workspace.find().activate()
    fulfil(order)
