"""The promotion ledger: `ledger/<model>/000001.json`, 000002, ... each created only if absent.

A record names the digest of the one before it, so a gap, a fork or an altered record cannot hide.
"""

from typing import Literal

from adaptory import fingerprint
from adaptory.errors import AlreadyExists, IntegrityError, NotFound
from adaptory.recipe import Frozen, Name
from adaptory.storage import ObjectStore


class Record(Frozen):
    """One change of champion, with the digests of everything it rests on."""

    schema_version: str = "ledger/v1"
    model: Name
    number: int
    previous: str | None  # digest of record number - 1
    kind: Literal["promote"]
    version: int  # of the model that is champion from here on
    candidate: str
    release: str
    evidence: str
    verdict: str
    outcome: Literal["PASS"]
    key: str
    data: str
    base: str
    recipe: str
    git_commit: str | None
    flow_run: str | None
    approved_by: str
    reason: str
    time: str  # for people; the order is that of the numbers

    @property
    def digest(self) -> str:
        return fingerprint.of_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1).encode() + b"\n"


def head(store: ObjectStore, model: str) -> Record | None:
    """The newest record, or None before the first promotion."""
    keys = store.keys(_prefix(model))
    return Record.model_validate_json(store.get(keys[-1])) if keys else None


def history(store: ObjectStore, model: str) -> list[Record]:
    """All records, oldest first. Raises IntegrityError when the chain does not hold."""
    records: list[Record] = []
    previous: str | None = None
    for number, key in enumerate(store.keys(_prefix(model)), start=1):
        data = store.get(key)
        record = Record.model_validate_json(data)
        if (record.number, record.previous, record.model) != (number, previous, model) or key != _key(model, number):
            raise IntegrityError(
                f"{store.url}/{key}: record {record.number} of {record.model!r} names predecessor {record.previous}, "
                f"where record {number} with predecessor {previous} is due; the ledger was altered. Restore it from a backup."
            )
        previous = fingerprint.of_bytes(data)
        records.append(record)
    return records


def append(store: ObjectStore, record: Record) -> bool:
    """Makes the record the ledger's head; False if another record took its number first.

    A lost reply is no loss: finding exactly this record in its place counts as having written it.
    """
    key = _key(record.model, record.number)
    try:
        store.create(key, record.to_bytes())
    except AlreadyExists:
        try:
            return store.get(key) == record.to_bytes()
        except NotFound:  # S3 answers 409 while another writer is at it, and that one may fail
            return append(store, record)
    return True


def _prefix(model: str) -> str:
    return f"ledger/{model}/"


def _key(model: str, number: int) -> str:
    return f"{_prefix(model)}{number:06d}.json"
