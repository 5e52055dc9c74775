"""New data, told once: an event with the digest of what a recipe's sources hold, for Prefect to start a retrain on."""

import uuid
from datetime import UTC, datetime

from adaptory import fingerprint, params, prefect_api
from adaptory.data.fetching import looked_at
from adaptory.errors import AlreadyExists, RecipeError
from adaptory.storage import open_store
from adaptory.workspace import Workspace

EVENT = "adaptory.data.arrived"


def notify(place: Workspace, name: str) -> tuple[str, bool]:
    """The digest of what the sources hold now, and whether it was told just now: a digest is told once.

    It is told first and noted then, so that a crash between the two tells it again rather than never; a retrain on known data
    ends in seconds. Raises RecipeError without a Prefect server to tell, ServerError when it does not answer.
    """
    if not prefect_api.configured(place):
        raise RecipeError("no Prefect server to tell: set PREFECT_API_URL, or retrain here: adaptory retrain " + name)
    recipe = params.load(place.recipes_file, name)
    store = open_store(place.store)
    digest = fingerprint.of_json(looked_at(place, recipe))
    note = f"arrivals/{name}/{fingerprint.hex_of(digest)}"
    if store.keys(note):
        return digest, False
    event = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{digest}")),
        "occurred": datetime.now(UTC).isoformat(),
        "event": EVENT,
        "resource": {"prefect.resource.id": f"adaptory.recipe.{name}", "prefect.resource.name": name},
        "payload": {"digest": digest},
    }
    prefect_api.post(place, "/events", [event])
    try:
        store.create(note, event["occurred"].encode())  # type: ignore[attr-defined]
    except AlreadyExists:  # told by two at once: one id, one event
        return digest, False
    return digest, True
