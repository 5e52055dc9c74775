"""Whoever accepted a dataset version that drifted: kept in the store, so that a schedule knows it too."""

from datetime import UTC, datetime

from adaptory import fingerprint
from adaptory.errors import NotFound
from adaptory.recipe import Frozen
from adaptory.storage import ObjectStore


class Approval(Frozen):
    """One dataset version that may be trained on although it drifted."""

    schema_version: str = "approval/v1"
    model: str
    data: str
    champion_data: str
    by: str
    time: str


def accept(store: ObjectStore, model: str, data: str, champion_data: str, by: str) -> None:
    """Allows training on this dataset version beside this champion."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = Approval(model=model, data=data, champion_data=champion_data, by=by, time=now)
    store.put(_place(model, data, champion_data), made.model_dump_json(indent=1).encode() + b"\n")


def accepted(store: ObjectStore, model: str, data: str, champion_data: str) -> Approval | None:
    """Who accepted it, or None."""
    try:
        return Approval.model_validate_json(store.get(_place(model, data, champion_data)))
    except NotFound:
        return None


def _place(model: str, data: str, champion_data: str) -> str:
    return f"approvals/{model}/{fingerprint.hex_of(data)}-{fingerprint.short(champion_data)}.json"
