"""What was already judged: one record per (data, recipe, base, code), so that nothing new means nothing done."""

from adaptory import fingerprint
from adaptory.errors import NotFound
from adaptory.frozen import Frozen
from adaptory.storage import ObjectStore


class Judged(Frozen):
    """The outcome for one key. Written last, when everything it tells of is done."""

    schema_version: str = "judged/v1"
    model: str
    key: str
    outcome: str
    reason: str
    candidate: str
    champion_version: int | None  # who was champion when this was done
    evidence: str | None = None  # digest
    time: str


def read_judged(store: ObjectStore, model: str, key: str) -> Judged | None:
    """The outcome for this key, or None if it was never judged to the end."""
    try:
        return Judged.model_validate_json(store.get(_place(model, key)))
    except NotFound:
        return None


def write_judged(store: ObjectStore, judged: Judged) -> None:
    """Records the outcome; judging the same inputs again replaces it."""
    store.put(_place(judged.model, judged.key), judged.model_dump_json(indent=1).encode() + b"\n")


def _place(model: str, key: str) -> str:
    return f"judged/{model}/{fingerprint.hex_of(key)}.json"
