"""MLflow as the ledger's mirror: versions, tags and the aliases `champion`, `previous` and `candidate` follow the records.

MLflow's aliases have no compare-and-set and its client repeats creates, so nothing is decided there: every
call here asks what is missing and adds it, and may be repeated after any crash.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptory import fingerprint
from adaptory.registry import ledger, proposals, tracking
from adaptory.release import fetch_release
from adaptory.release.manifest import MANIFEST
from adaptory.storage import ObjectStore
from adaptory.workspace import Workspace

CHAMPION, PREVIOUS, CANDIDATE = "champion", "previous", "candidate"  # the candidate is the one that waits for a person
RUNS = "adaptory.runs"  # tag of a version
_CODE = Path(__file__).with_name("pyfunc_model.py")


@dataclass(frozen=True)
class Projection:
    """MLflow's number for the champion, and what had to be changed."""

    champion: str | None
    changes: list[str]


def project(workspace: Workspace, store: ObjectStore, model: str) -> Projection:
    """Makes MLflow show what the ledger says of the model, and who waits for approval."""
    records, proposed = ledger.history(store, model), proposals.waiting(store, model)
    if not records and proposed is None:
        return Projection(None, [])
    mlflow = tracking.client(workspace)
    changes = []
    if _registered(mlflow, model) is None:
        mlflow.create_registered_model(model, description="Promoted by adaptory; the ledger decides, this page shows.")
        changes.append(f"registered model {model}")
    versions, copies = versions_of(mlflow, model)
    for copy in copies:
        mlflow.delete_model_version(model, str(copy.version))
        changes.append(f"version {copy.version}, a copy of another, is gone")
    for record in [*records, *([proposed.draft] if proposed else [])]:
        if record.candidate not in versions and record.kind != "retire":
            versions[record.candidate] = _create_version(workspace, store, mlflow, record, promoted=record in records)
            changes.append(f"created version {versions[record.candidate].version} for v{record.version}")
    for record in made_by(records).values():
        if _tell_tags(mlflow, versions[record.candidate], record):
            changes.append(f"tagged version {versions[record.candidate].version} as v{record.version}")
    names = {alias: str(versions[candidate].version) for alias, candidate in wanted(records, proposed).items()}
    aliases = _aliases(mlflow, model)
    for alias, version in names.items():
        if aliases.get(alias) != version:
            mlflow.set_registered_model_alias(model, alias, version)
            changes.append(f"alias {alias} now names version {version}")
    for alias in (PREVIOUS, CANDIDATE):
        if alias in aliases and alias not in names:
            mlflow.delete_registered_model_alias(model, alias)
            changes.append(f"alias {alias} is gone")
    return Projection(names.get(CHAMPION), changes)


def versions_of(mlflow: Any, model: str) -> tuple[dict[str | None, Any], list[Any]]:
    """The version of each candidate, and further ones of the same: MLflow's client repeats a create whose answer is lost."""
    found: dict[str | None, Any] = {}
    copies = []
    for version in sorted(mlflow.search_model_versions(f"name = '{model}'"), key=lambda one: int(one.version)):
        candidate = version.tags.get("adaptory.candidate")
        if candidate is not None and candidate in found:
            copies.append(version)
        else:
            found[candidate] = version
    return found, copies


def wanted(records: list[ledger.Record], proposed: proposals.Proposal | None) -> dict[str, str]:
    """Which candidate every alias is to name."""
    made = {CHAMPION: records[-1].candidate} if records else {}
    if records and (before := previous(records)):
        made[PREVIOUS] = before.candidate
    return made | ({CANDIDATE: proposed.draft.candidate} if proposed else {})


def made_by(records: list[ledger.Record]) -> dict[str, ledger.Record]:
    """The record that each candidate's version is tagged with: the last that was a decision on it, and no way back."""
    return {one.candidate: one for one in records if one.kind not in ("retire", "rollback")}


def unlike(version: Any, record: ledger.Record) -> dict[str, str]:
    """The tags that a version lacks, or has otherwise than its record says."""
    return {name: value for name, value in _tags(record).items() if version.tags.get(name) != value}


def previous(records: list[ledger.Record]) -> ledger.Record | None:
    """The champion before this one."""
    return next((record for record in reversed(records) if record.candidate != records[-1].candidate), None)


def _registered(mlflow: Any, model: str) -> Any:
    return next(iter(mlflow.search_registered_models(f"name = '{model}'")), None)


def _aliases(mlflow: Any, model: str) -> dict[str, str]:
    return {name: str(version) for name, version in _registered(mlflow, model).aliases.items()}


def _create_version(workspace: Workspace, store: ObjectStore, mlflow: Any, record: ledger.Record, *, promoted: bool) -> Any:
    folder = fetch_release(store, record, workspace.cache)
    run_id = _run_of(mlflow, record)
    experiment = tracking.experiment_id(mlflow, workspace, record.model)
    logged = mlflow.create_logged_model(experiment, name="adapter", source_run_id=run_id)
    with tempfile.TemporaryDirectory() as scratch:
        _save_model(record, folder, Path(scratch) / "model")
        mlflow.log_model_artifacts(logged.model_id, str(Path(scratch) / "model"))
        runs = running(Path(scratch) / "model")
    mlflow.finalize_logged_model(logged.model_id, "READY")
    card = (folder / "README.md").read_text(encoding="utf-8")
    tags = {RUNS: runs, "adaptory.candidate": record.candidate} | (_tags(record) if promoted else {})  # else they follow
    return mlflow.create_model_version(
        record.model, source=logged.artifact_location, run_id=run_id, tags=tags, description=card, model_id=logged.model_id
    )


def running(model: Path) -> str:
    """The digest of what MLflow runs of a stored model: everything but the release inside, which has a manifest of its own."""
    release = next(model.rglob(MANIFEST)).parent.relative_to(model).as_posix()
    return fingerprint.of_files(model, [name for name in fingerprint.files_below(model) if not name.startswith(f"{release}/")])


def _tell_tags(mlflow: Any, version: Any, record: ledger.Record) -> bool:
    """Tags the version with its record; whether there was anything to tell."""
    missing = unlike(version, record)
    for name, value in missing.items():
        mlflow.set_model_version_tag(record.model, str(version.version), name, value)
    return bool(missing)


def _tags(record: ledger.Record) -> dict[str, str]:
    kept = record.model_dump(mode="json", exclude={"schema_version", "model"}, exclude_none=True)
    return {f"adaptory.{name}": str(value) for name, value in kept.items()} | {"adaptory.ledger": record.digest}


def _run_of(mlflow: Any, record: ledger.Record) -> str | None:
    """The MLflow run that made this record, if this MLflow has it (a rebuilt one has not)."""
    experiment = mlflow.get_experiment_by_name(record.model)
    if experiment is None:
        return None
    found = mlflow.search_runs([experiment.experiment_id], f"tags.`adaptory.key` = '{record.key}'", max_results=1)
    return found[0].info.run_id if found else None


def _save_model(record: ledger.Record, folder: Path, target: Path) -> None:
    """The release as an MLflow model: code that loads it, the adapter's files, and no pickle.

    `mlflow.pyfunc.log_model` would load torch and the base into this process to try the example.
    """
    import mlflow
    import pandas
    from mlflow.models import infer_signature

    example = json.loads((folder / "example.json").read_bytes())
    given = pandas.DataFrame([row["asked"] for row in example])
    answered = pandas.DataFrame([row["told"] | row["told"].pop("chances", {}) for row in example])
    mlflow.pyfunc.save_model(
        str(target),
        python_model=str(_CODE),
        artifacts={"release": str(folder)},
        signature=infer_signature(given, answered),
        input_example=given,
        pip_requirements=["adaptory[predict]"],
        metadata={"release": record.release, "base": record.base},
    )
