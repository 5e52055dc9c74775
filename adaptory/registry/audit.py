"""The audit: does everything that can be looked up say what the ledger says?"""

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adaptory import fingerprint
from adaptory.errors import IntegrityError, ReleaseError, UserError
from adaptory.registry import ledger, proposals, tracking
from adaptory.registry.projection import RUNS, made_by, running, unlike, versions_of, wanted
from adaptory.release import manifest
from adaptory.release.manifest import MANIFEST
from adaptory.release.pull import fetch_release
from adaptory.storage import ObjectStore
from adaptory.workspace import Workspace


def audit(workspace: Workspace, store: ObjectStore, model: str) -> Iterator[str]:
    """A sentence for everything that is wrong with a model: records, releases in the store, versions and aliases in MLflow.

    Every release is downloaded and hashed again. Nothing is changed; `adaptory reconcile` mends MLflow.
    """
    try:
        records = ledger.history(store, model)
    except IntegrityError as fault:
        yield str(fault)
        return
    if not records:
        yield f"{model!r} has no record in the ledger of {store.url}"
        return
    yield from _promises(records)
    whole = {}
    with tempfile.TemporaryDirectory() as fresh:
        for record in {one.release: one for one in records}.values():
            try:
                whole[record.release] = fetch_release(store, record, Path(fresh))
            except (IntegrityError, ReleaseError) as fault:
                yield f"the release of v{record.version}: {fault}"
        yield from _verdicts(records, whole)
        released = {record.candidate: whole[record.release] for record in records if record.release in whole}
        yield from _mirror(workspace, store, records, released)


def _promises(records: list[ledger.Record]) -> Iterator[str]:
    for record in records:
        if record.kind == "promote" and record.outcome != "PASS":
            yield f"record {record.number} promotes v{record.version} with verdict {record.outcome}"
    now, today = records[-1], datetime.now(UTC).date().isoformat()
    origin = ledger.origin(records, now.candidate)
    if origin.expires and origin.expires < today:
        yield f"v{now.version} is champion by an override that ended on {origin.expires}: {origin.reason}"


def _verdicts(records: list[ledger.Record], whole: dict[str, Path]) -> Iterator[str]:
    """S1: what made a champion is a verdict on exactly this candidate and evidence."""
    from adaptory.gate import Evidence, Verdict

    for record in records:
        folder = whole.get(record.release)
        if record.kind not in ("promote", "override", "bootstrap") or folder is None:
            continue
        try:
            evidence = Evidence.model_validate_json((folder / "evidence.json").read_bytes())
            verdict = Verdict.model_validate_json((folder / "verdict.json").read_bytes())
        except ValueError:
            yield f"record {record.number}: evidence or verdict is of another version of adaptory and cannot be checked"
            continue
        found = (evidence.digest, verdict.digest, verdict.evidence, verdict.candidate)
        if found != (record.evidence, record.verdict, record.evidence, record.candidate):
            yield f"record {record.number}: its release holds another evidence or verdict than it names"
        listed = manifest.Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        if manifest.candidate_of(listed) != record.candidate:
            yield f"record {record.number}: its release holds another adapter than the one that was judged"


def _mirror(workspace: Workspace, store: ObjectStore, records: list[ledger.Record], released: dict[str, Path]) -> Iterator[str]:
    model = records[-1].model
    proposed = proposals.waiting(store, model)
    mlflow = tracking.client(workspace)
    registered = next(iter(mlflow.search_registered_models(f"name = '{model}'")), None)
    if registered is None:
        yield f"MLflow has no registered model {model!r}"
        return
    versions, copies = versions_of(mlflow, model)
    for copy in copies:
        yield f"version {copy.version} in MLflow is a second one of the same candidate"
    due = wanted(records, proposed)
    for alias, candidate in due.items():
        ours, theirs = versions.get(candidate), registered.aliases.get(alias)
        if ours is None:
            yield f"MLflow has no version of the {alias} {fingerprint.short(candidate)}"
        elif str(theirs) != str(ours.version):
            yield f"alias {alias} of {model!r} in MLflow names version {theirs}, and by the ledger it is version {ours.version}"
    for alias in sorted(set(registered.aliases) - set(due)):
        yield f"alias {alias} of {model!r} in MLflow was set by hand"
    for candidate, record in made_by(records).items():
        if candidate in versions and (names := sorted(unlike(versions[candidate], record))):
            told = f"version {versions[candidate].version} in MLflow is tagged otherwise than record {record.number} says"
            yield f"{told}: {', '.join(names[:3])}"
    known = {record.candidate for record in records} | {one.draft.candidate for one, _ in proposals.proposals(store, model)}
    for made, version in versions.items():
        if made is None or made not in known:
            yield f"version {version.version} in MLflow is of no candidate in the ledger"
        elif made in released:
            yield from _artifacts(mlflow, version, released[made])


def _artifacts(mlflow: Any, version: Any, release: Path) -> Iterator[str]:
    """Whether MLflow keeps the very files of the release."""
    from mlflow.artifacts import download_artifacts

    listed = manifest.Manifest.model_validate_json((release / MANIFEST).read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = Path(download_artifacts(artifact_uri=version.source, dst_path=scratch, tracking_uri=mlflow.tracking_uri))
            folders = sorted(path.parent for path in found.rglob(MANIFEST))
            if len(folders) != 1:
                yield f"the artifacts of version {version.version} in MLflow hold {len(folders) or 'no'} releases"
                return
            manifest.verify(folders[0], listed)
            if version.tags.get(RUNS) not in (None, running(found)):
                yield (
                    f"what MLflow would run of version {version.version} is not what was stored: "
                    "delete that version, and run: adaptory reconcile"
                )
        except (OSError, UserError) as fault:
            yield f"the artifacts of version {version.version} in MLflow: {fault}"
        except Exception as fault:  # whatever an artifact store answers
            yield f"the artifacts of version {version.version} in MLflow cannot be had: {fault}"
