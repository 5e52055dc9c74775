"""Why a model answers as it does: from a version or a pulled folder back to data, code and people, every digest verified."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptory import fingerprint, prefect_api
from adaptory.errors import IntegrityError, NotFound, ReleaseError, ServerError
from adaptory.gate import Evidence, Verdict
from adaptory.profile import history as data_history
from adaptory.registry import decisions, ledger
from adaptory.registry.signing import TRUSTED
from adaptory.release import manifest, signatures
from adaptory.release.manifest import MANIFEST
from adaptory.release.pull import fetch_release, resolve
from adaptory.storage import ObjectStore
from adaptory.workspace import Workspace


@dataclass(frozen=True)
class Step:
    """One thing that another rests on."""

    what: str
    told: str
    verified: bool | None = True  # None: there is nothing to verify it with


def why(place: Workspace, store: ObjectStore, asked: str) -> Iterator[Step]:
    """The steps from a release to what it is made from. Raises ReleaseError where nothing is known of it.

    Rows, commit and flow run are looked up where this machine has them: checkout and DVC cache, the clone, the Prefect server.
    """
    record, folder = _found(store, asked, place.cache)
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
        yield from _rows(place, version.dvc, card.files)
        sections = fingerprint.of_json(version.dvc) == record.dvc if record.dvc else None
        for stage, section in version.dvc.items():
            outs = ", ".join(f"{out['path']} {out['md5']}" for out in section.get("outs", []))
            yield Step("  dvc.lock", f"{stage}: {outs}", sections)
    yield Step("commit", *_commit(place, record))
    yield Step("flow run", *_flow_run(place, record))
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


def _rows(place: Workspace, dvc: dict[str, Any], files: dict[str, str]) -> Iterator[Step]:
    """Whether the bytes that DVC keeps under the md5s of dvc.lock are those of the data card."""
    kept = place.root / ".dvc" / "cache" / "files" / "md5"
    cached: dict[str, str] = {}
    for md5 in [out["md5"] for section in dvc.values() for out in section.get("outs", [])]:
        listing = kept / md5[:2] / md5[2:]
        if md5.endswith(".dir") and listing.is_file():
            found = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_bytes())}
            cached = found if set(files) <= set(found) else cached  # other stages have files of these names, too
    for name, digest in sorted(files.items()):
        file = kept / cached[name][:2] / cached[name][2:] if name in cached else kept
        told = f"{name} {fingerprint.short(digest)}"
        if file.is_file():
            yield Step("  file", told, fingerprint.of_file(file) == digest)
        else:
            yield Step("  file", f"{told}, not in the DVC cache of this machine", None)


def _commit(place: Workspace, record: ledger.Record) -> tuple[str, bool | None]:
    if record.git_commit is None:
        return "outside git", None
    command = ["git", "cat-file", "-e", f"{record.git_commit[:40]}^{{commit}}"]
    try:
        known = subprocess.run(command, cwd=place.root, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return f"{record.git_commit}; there is no git here to look it up", None
    if not known:
        return f"{record.git_commit}, which is not in this clone", None
    if record.git_commit.endswith("+changes"):
        return f"{record.git_commit[:40]}, with changes that no commit holds", None
    return record.git_commit, True


def _flow_run(place: Workspace, record: ledger.Record) -> tuple[str, bool | None]:
    """Whether the server knows the run, and as one of this model."""
    if record.flow_run is None:
        return "none", None
    if not prefect_api.configured(place):
        return record.flow_run, None
    try:
        found = prefect_api.get(place, f"/flow_runs/{record.flow_run}")
    except ServerError as fault:
        return f"{record.flow_run}; {fault}", None
    return f"{record.flow_run}, {found['name']}: {found['state_name']}", record.model in found["parameters"].values()


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
