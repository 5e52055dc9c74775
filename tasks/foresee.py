"""Foresee: what the evaluation could show, said before anything is trained."""

from prefect import get_run_logger, task

from adaptory import progress
from adaptory.errors import IntegrityError
from adaptory.evaluation.foresight import foresee as foreseen
from adaptory.run import Run
from adaptory.storage import open_store
from tasks.common import RETRIED


@task(**RETRIED)
def foresee(run: Run) -> None:
    """Tells the smallest gain that the test rows can show, and warns where the recipe asks for less."""
    log, show = get_run_logger(), progress.for_terminal()
    try:
        told = foreseen(run, open_store(run.workspace.store))
    except IntegrityError as fault:  # advice stops nothing
        log.warning("what the test rows can show is not known: %s", fault)
        return
    for one in told:
        (log.info if one.enough else log.warning)(one.said)
        show({"event": "stage", "what": one.said})
