"""The promotion ledger: `ledger/<model>/000001.json`, 000002, ... each created only if absent.

A record names the digest of the one before it, so a gap, a fork or an altered record cannot hide. Where ADAPTORY_TRUSTED_KEY
names a public key, a record without its signature is refused.
"""

import json
from typing import Literal

from adaptory import fingerprint
from adaptory.errors import AlreadyExists, IntegrityError, NotFound
from adaptory.frozen import Frozen, Name
from adaptory.registry import signing
from adaptory.storage import ObjectStore

Kind = Literal["promote", "rollback", "bootstrap", "override", "retire"]
_LATER = ("dvc", "expires", "about", "signature")  # fields that records had not always: left out where they say nothing


class Record(Frozen):
    """What one decision made of a model: who is champion from here on, with the digests of everything it rests on."""

    schema_version: str = "ledger/v1"
    model: Name
    number: int
    previous: str | None  # digest of record number - 1
    kind: Kind
    version: int  # of the model that is champion from here on
    candidate: str
    release: str
    evidence: str
    verdict: str
    outcome: str  # of the verdict: PASS, or what an override overrode
    key: str
    data: str
    dvc: str | None = None  # digest of the sections of dvc.lock that made the data
    base: str
    recipe: str
    git_commit: str | None
    flow_run: str | None
    approved_by: str
    reason: str
    time: str  # for people; the order is that of the numbers
    expires: str | None = None  # an override's: until when it may stand (ISO date)
    about: int | None = None  # retire: the version that nobody goes back to
    signature: str | None = None  # of everything else, by the key that ADAPTORY_SIGNING_KEY named

    @property
    def digest(self) -> str:
        return fingerprint.of_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        told = self.model_dump(mode="json")
        kept = {name: value for name, value in told.items() if value is not None or name not in _LATER}
        return json.dumps(kept, indent=1, ensure_ascii=False).encode() + b"\n"

    @property
    def unsigned(self) -> bytes:
        """What the signature is of."""
        return self.model_copy(update={"signature": None}).to_bytes()


def head(store: ObjectStore, model: str) -> Record | None:
    """The newest record, or None before the first promotion."""
    keys = store.keys(_prefix(model))
    return _read(store, keys[-1])[0] if keys else None


def history(store: ObjectStore, model: str) -> list[Record]:
    """All records, oldest first. Raises IntegrityError when the chain does not hold."""
    records: list[Record] = []
    previous: str | None = None
    for number, key in enumerate(store.keys(_prefix(model)), start=1):
        record, data = _read(store, key)
        if (record.number, record.previous) != (number, previous):
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


def _read(store: ObjectStore, key: str) -> tuple[Record, bytes]:
    data = store.get(key)
    try:
        record = Record.model_validate_json(data)
    except ValueError as fault:
        raise IntegrityError(f"{store.url}/{key} is no record of this version of adaptory: {fault}") from None
    signing.check(record.unsigned, record.signature, f"{store.url}/{key}")
    if key != _key(record.model, record.number):
        raise IntegrityError(
            f"{store.url}/{key} holds record {record.number} of {record.model!r}; the ledger was altered. "
            "Restore it from a backup."
        )
    return record, data


def origin(records: list[Record], candidate: str) -> Record:
    """The decision that a candidate is champion by: the last one that was a gate's or a person's, and no way back."""
    return next(r for r in reversed(records) if r.candidate == candidate and r.kind in ("promote", "override", "bootstrap"))


def by_hand(records: list[Record]) -> str | None:
    """A sentence where the champion is one by a person's decision and not the gate's."""
    made = origin(records, records[-1].candidate)
    if made.kind == "promote":
        return None
    return f"v{made.version} is champion by {made.kind} of {made.outcome} until {made.expires}: {made.reason}"


def retired(records: list[Record]) -> set[int]:
    """The versions that nobody goes back to."""
    return {record.about for record in records if record.kind == "retire" and record.about is not None}


def _prefix(model: str) -> str:
    return f"ledger/{model}/"


def _key(model: str, number: int) -> str:
    return f"{_prefix(model)}{number:06d}.json"
