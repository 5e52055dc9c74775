"""Why a model answers as it does: from a version or a pulled folder back to data, code and people, every digest verified."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptory import fingerprint
from adaptory.errors import IntegrityError, NotFound, ReleaseError
from adaptory.gate import Evidence, Verdict
from adaptory.profile import history as data_history
from adaptory.registry import decisions, ledger
from adaptory.registry.signing import TRUSTED
from adaptory.release import manifest, signatures
from adaptory.release.manifest import MANIFEST
from adaptory.release.pull import fetch_release, resolve
from adaptory.storage import ObjectStore


@dataclass(frozen=True)
class Step:
    """One thing that another rests on."""

    what: str
    told: str
    verified: bool | None = True  # None: there is nothing to verify it with


def why(store: ObjectStore, asked: str, cache: Path) -> Iterator[Step]:
    """The steps from a release to what it is made from. Raises ReleaseError where nothing is known of it."""
    record, folder = _found(store, asked, cache)
    listed = manifest.Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    sound = fingerprint.of_file(folder / MANIFEST) == record.release
    yield Step(
        "release", f"{record.model} v{record.version}, {len(listed.files)} files, {fingerprint.short(record.release)}", sound
    )
    yield Step("files", "each has the bytes of its digest", _holds(folder, listed))
    records = ledger.history(store, record.model)
    yield Step("record", f"number {record.number} of {len(records)}, {record.kind} on {record.time}, chain whole")
    yield Step("signature", *_signature(record, folder))
    verdict = Verdict.model_validate_json((folder / "verdict.json").read_bytes())
    yield Step("verdict", f"{verdict.outcome}: {verdict.reason}", verdict.digest == record.verdict)
    evidence = Evidence.model_validate_json((folder / "evidence.json").read_bytes())
    told = f"{evidence.rows:,} test rows, {len(evidence.models)} models, {fingerprint.short(record.evidence)}"
    yield Step("evidence", told, evidence.digest == record.evidence == verdict.evidence)
    yield Step("scores", fingerprint.short(evidence.scores), decisions.has_scores(store, evidence))
    named = {manifest.candidate_of(listed), evidence.candidate, verdict.candidate}
    yield Step("adapter", fingerprint.short(record.candidate), named == {record.candidate})
    yield Step("base", fingerprint.short(record.base), evidence.base == record.base)
    yield Step("recipe", fingerprint.short(record.recipe), evidence.recipe_digest == record.recipe)
    version = data_history.version(store, record.model, record.data, record.dvc)
    if version is None:
        yield Step("data", f"{fingerprint.short(record.data)}, of which nothing was kept", False)
    else:
        card = version.card
        same = fingerprint.of_json(card.model_dump(mode="json")) == record.data == evidence.data
        counts = ", ".join(f"{sum(split.values()):,} {name}" for name, split in card.counts.items())
        yield Step("data", f"{counts}; {fingerprint.short(record.data)}", same)
        for name, digest in sorted(card.files.items()):
            yield Step("  file", f"{name} {fingerprint.short(digest)}", None)
        sections = fingerprint.of_json(version.dvc) == record.dvc if record.dvc else None
        for stage, section in version.dvc.items():
            outs = ", ".join(f"{out['path']} {out['md5']}" for out in section.get("outs", []))
            yield Step("  dvc.lock", f"{stage}: {outs}", sections)
    yield Step("commit", record.git_commit or "outside git", None)
    yield Step("flow run", record.flow_run or "none", None)
    yield Step("approved by", f"{record.approved_by}: {record.reason}", None)


def _found(store: ObjectStore, asked: str, cache: Path) -> tuple[ledger.Record, Path]:
    """The record of a name like `sentiment@v3`, or of what was pulled into a folder."""
    folder = Path(asked)
    folder = folder / "current" if (folder / "current").exists() else folder
    if not (folder / MANIFEST).is_file():
        record = resolve(store, asked)
        return record, fetch_release(store, record, cache)
    try:
        model = manifest.Manifest.model_validate_json((folder / MANIFEST).read_bytes()).model
    except ValueError as fault:
        raise ReleaseError(f"{folder / MANIFEST} is no manifest: {fault}") from None
    release = fingerprint.of_file(folder / MANIFEST)
    record_ = next((one for one in ledger.history(store, model) if one.release == release), None)
    if record_ is None:
        raise ReleaseError(f"{folder} holds a release {fingerprint.short(release)} that the ledger of {store.url} does not know")
    return record_, folder


def _signature(record: ledger.Record, folder: Path) -> tuple[str, bool | None]:
    """What is known of who signed record and release: only a trusted key can tell."""
    if TRUSTED not in os.environ:
        return ("signed" if record.signature else "not signed") + f"; {TRUSTED} names no key to verify it with", None
    try:
        signatures.verify(folder)
    except IntegrityError as fault:
        return str(fault), False
    return "record and release, by the trusted key", True  # a record without it would not have been read


def _holds(folder: Path, listed: manifest.Manifest) -> bool:
    try:
        manifest.verify(folder, listed)
    except (IntegrityError, NotFound):
        return False
    return True
