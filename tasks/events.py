"""Events: what happened, told to Prefect's automations, which notify people and start other flows."""

import os

from prefect import get_run_logger, runtime
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound

from adaptory import workspace
from adaptory.registry import head
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
        start("promote/ask", {"recipe": outcome.recipe}, key=f"ask-{runtime.flow_run.id}")
    return outcome


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


def start(deployment: str, parameters: dict[str, object], key: str) -> None:
    """Starts a deployment once per key, and does not wait for it; a server without it is told of, and stops nothing."""
    try:
        run_deployment(deployment, parameters=parameters, timeout=0, idempotency_key=key, as_subflow=False)
    except (ObjectNotFound, ValueError) as missing:
        get_run_logger().warning("%s could not be started (%s); run: make deploy", deployment, missing)


def on_a_server() -> bool:
    """Whether a Prefect server outlives this run: then its deployments can go on."""
    return bool(os.environ.get("PREFECT_API_URL")) and runtime.flow_run.id is not None
