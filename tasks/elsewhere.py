"""Elsewhere: a stage on a worker of the pool that ADAPTORY_GPU_POOL names, or here if it names none."""

import os
import re
from collections.abc import Callable
from typing import Any

from prefect import runtime
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from adaptory import errors, parcel
from adaptory.errors import ServerError
from adaptory.process import run_stage
from adaptory.run import Run
from adaptory.storage import open_store

Follow = Callable[[dict[str, Any]], None]


def pool() -> str | None:
    """The work pool whose workers have the GPUs; None: everything is done here."""
    return os.environ.get("ADAPTORY_GPU_POOL") or None


def stage(run: Run, name: str, follow: Follow, words: tuple[str, ...] = (), **how: Any) -> None:
    """Does a stage of the run, and returns when what it leaves is in the run's folders. Raises the stage's own error."""
    there = pool()
    if there is None:
        run_stage(run, name, follow, words=words, **how)
        return
    store = open_store(run.workspace.store)
    order = parcel.pack(run, store, name, words, str(runtime.flow_run.id))
    follow({"event": "stage", "what": f"{name} on the work pool {there}"})
    try:
        done = run_deployment(f"stage/{there}", parameters={"order": order.model_dump(mode="json")}, poll_interval=2)
    except (ObjectNotFound, ValueError) as missing:
        raise ServerError(f"there is no deployment stage/{there} to work on ({missing}); run: make deploy") from None
    assert isinstance(done, FlowRun)
    _raise_what_it_said(done)
    parcel.take(run, store, str(done.id))


def _raise_what_it_said(done: FlowRun) -> None:
    """A worker that died is worth another try; what the stage itself says is raised as if it had run here."""
    state = done.state
    assert state is not None
    if state.is_completed():
        return
    said = re.search(r"exception: (?:\w+\.)*(\w+): (.*)", state.message or "", re.DOTALL)
    kind = getattr(errors, said[1], None) if said else None
    if said and isinstance(kind, type) and issubclass(kind, errors.UserError):
        raise kind(said[2])
    if state.is_cancelled():  # a person's word; another try would take it back
        raise errors.StageError(f"the flow run {done.name} was cancelled: {state.message or 'nobody said why'}")
    raise ServerError(f"the flow run {done.name} ended as {state.name}: {state.message or 'it said nothing'}")
