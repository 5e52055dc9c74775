"""Watch: the champion's health on new rows, and what follows from it."""

from typing import Any

from prefect import runtime, task
from prefect.artifacts import create_table_artifact
from prefect.events import emit_event

from adaptory.evaluation.monitor import Health, read
from adaptory.registry import history
from adaptory.registry.ledger import by_hand
from adaptory.run import Run
from adaptory.storage import open_store
from tasks.common import RETRIED, key
from tasks.elsewhere import stage
from tasks.events import on_a_server, start


@task(**RETRIED)
def watch(run: Run) -> Health | None:
    """Returns how the champion does on the test rows that arrived since it was promoted; None while there is none."""
    records = history(open_store(run.workspace.store), run.recipe.name)
    if not records:
        return None
    if read(run.folder, records[-1].version) is None:
        stage(run, "monitor", lambda event: None)
    found = read(run.folder, records[-1].version)
    assert found is not None
    shown: dict[str, Any] = found.model_dump(include={"version", "rows", "metric", "drift", "word", "reason"})
    create_table_artifact(
        key=key(run.recipe.name, "health"),
        table=[shown | {when: one.value for when, one in (("then", found.then), ("now", found.now)) if one}],
        description="; ".join(filter(None, [f"{found.word}: {found.reason}", by_hand(records)])),
    )
    return found


def react(health: Health | None, retrain_when: str) -> str:
    """Emits `adaptory.monitor.<word>`, and starts a retrain where that was asked for; returns the word with its reason."""
    if health is None:
        return "nothing was promoted yet"
    emit_event(
        event=f"adaptory.monitor.{health.word.replace(' ', '-')}",
        resource={"prefect.resource.id": f"adaptory.model.{health.recipe}", "prefect.resource.name": health.recipe},
        payload=health.model_dump(),
    )
    if health.word in retrain_when.split(" or ") and on_a_server():
        # Who asked for a retrain on data that drifted has said yes to them.
        asked = {"recipe": health.recipe, "accept_drift": health.word == "drifted"}
        start("retrain/on-demand", asked, key=f"monitor-{runtime.flow_run.id}")
    return f"{health.word}: {health.reason}"
