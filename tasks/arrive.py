"""Arrive: new data of a recipe, told as an event once per digest."""

from prefect import get_run_logger, task

from adaptory import params, workspace
from adaptory.arrivals import notify
from adaptory.errors import ServerError, UserError
from tasks.common import RETRIED


def recipes() -> list[str]:
    """Every recipe there is."""
    return params.names(workspace.find().recipes_file)


@task(**RETRIED)
def look(recipe: str) -> str:
    """Returns what was found; a source that cannot be looked at is told in the log, and hides no other."""
    try:
        digest, told = notify(workspace.find(), recipe)
    except ServerError:  # nothing would arrive any more, and nobody would know
        raise
    except UserError as fault:
        get_run_logger().warning("%s: %s", recipe, fault)
        return f"could not be looked at: {fault}"
    return f"{'new' if told else 'known'}: {digest}"
