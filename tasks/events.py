"""Events: what happened, told to Prefect's automations, which notify people and start other flows."""

import os
from uuid import UUID

from prefect import get_run_logger, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound

from adaptory import workspace
from adaptory.registry import head, proposals
from adaptory.registry.approval import AWAITING
from adaptory.run import Outcome
from adaptory.storage import open_store


def announce(outcome: Outcome) -> Outcome:
    """Emits `adaptory.<outcome>` about the model, and asks for approval where a candidate waits for it; returns the outcome."""
    kind = "promoted" if outcome.outcome == "PASS" else outcome.outcome.lower().replace("_", "-")
    emit_event(
        event=f"adaptory.{kind}",
        resource={"prefect.resource.id": f"adaptory.model.{outcome.recipe}", "prefect.resource.name": outcome.recipe},
        payload=outcome.model_dump(),
    )
    if kind == "promoted":
        lineage(outcome.recipe)
    if outcome.outcome == AWAITING and on_a_server():
        ask_a_person(outcome.recipe)
    return outcome


def ask_a_person(recipe: str) -> None:
    """Starts the run that asks about the candidate that waits, unless one asks already: however often a retrain ends so, there is
    one question."""
    store = open_store(workspace.find().store)
    proposal = proposals.waiting(store, recipe)
    if proposal is None:  # decided just now
        return
    last = proposals.asking(store, proposal)
    if last is not None and not _is_over(last):
        return
    release = proposal.draft.release[-32:]
    made = start("promote/ask", {"recipe": recipe}, key=f"ask-{release}-{last}")
    while made is not None and made.state is not None and made.state.is_final():  # it died before it could say that it asks
        made = start("promote/ask", {"recipe": recipe}, key=f"ask-{release}-{made.id}")


def _is_over(flow_run: str) -> bool:
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(flow_run)).state
        except (ObjectNotFound, ValueError):
            return True
    return state is None or state.is_final()


def lineage(recipe: str) -> None:
    """Emits the champion as an asset made of a dataset version and a base, in the words that Prefect uses for assets."""
    store = open_store(workspace.find().store)
    record = head(store, recipe)
    assert record is not None, "it was just promoted"
    made_of = (f"adaptory://{recipe}/data/{record.data}", f"adaptory://{recipe}/base/{record.base}")
    emit_event(
        event="prefect.asset.materialization.succeeded",
        resource={
            "prefect.resource.id": f"adaptory://{recipe}/release/{record.release}",
            "prefect.resource.name": f"{recipe} v{record.version}",
            "prefect.asset.description": f"ledger record {record.number}: {record.reason}",
        },
        related=[{"prefect.resource.id": asset, "prefect.resource.role": "asset"} for asset in made_of],
        payload={"record": record.digest, "evidence": record.evidence, "git_commit": record.git_commit},
    )


def start(deployment: str, parameters: dict[str, object], key: str) -> FlowRun | None:
    """Starts a deployment once per key, and does not wait for it; a server without it is told of, and stops nothing."""
    try:
        made = run_deployment(deployment, parameters=parameters, timeout=0, idempotency_key=key, as_subflow=False)
        assert isinstance(made, FlowRun)
        return made
    except (ObjectNotFound, ValueError) as missing:
        get_run_logger().warning("%s could not be started (%s); run: make deploy", deployment, missing)
        return None


def on_a_server() -> bool:
    """Whether a Prefect server outlives this run: then its deployments can go on."""
    return bool(os.environ.get("PREFECT_API_URL")) and runtime.flow_run.id is not None
