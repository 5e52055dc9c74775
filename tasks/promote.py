"""Promote: the ledger record, or the question to a person; then MLflow as the mirror, then the note that this run is done."""

from datetime import UTC, datetime

from prefect import runtime, task
from prefect.artifacts import create_link_artifact

from adaptory.errors import ReleaseError
from adaptory.evaluation import read as read_evidence
from adaptory.gate import Evidence, Verdict, settles
from adaptory.registry import (
    Judged,
    approval,
    decisions,
    head,
    history,
    projection,
    proposals,
    read_judged,
    tracking,
    write_judged,
)
from adaptory.registry.promotion import check_not_retired
from adaptory.registry.promotion import promote as promote_in_ledger
from adaptory.run import Outcome, Run
from adaptory.storage import open_store
from adaptory.training import Candidate
from tasks.common import RETRIED, key


@task(**RETRIED)
def settled(run: Run) -> Outcome | None:
    """Returns how exactly these inputs ended before, or that they wait for a person; None if they are new.

    A promotion that was cut off after its ledger record, or after its approval, stands: what was still missing is done now.
    """
    store = open_store(run.workspace.store)
    if judged := read_judged(store, run.recipe.name, run.key):
        return Outcome.nothing_new(run, judged)
    if found := approval.found(run, store):
        return _asked(run, *found)
    record = next((one for one in history(store, run.recipe.name) if one.key == run.key and one.kind == "promote"), None)
    if record is None:
        return None
    approval.restore(run, store, record)
    return _conclude(run, Verdict.model_validate_json((run.folder / "verdict.json").read_bytes()))


@task(**RETRIED)
def promote(run: Run, candidate: Candidate, evidence: Evidence, verdict: Verdict) -> Outcome:
    """Returns how the run ended. Only a PASS changes the champion; a crash anywhere here is mended by running again."""
    store = open_store(run.workspace.store)
    try:
        check_not_retired(history(store, run.recipe.name), candidate.digest)
    except ReleaseError as barred:
        verdict = verdict.model_copy(update={"outcome": "FAIL", "reason": str(barred)})
    if verdict.outcome == "PASS" and run.recipe.gate.approval == "required":
        proposal = proposals.propose(run, store, candidate, evidence, verdict, flow_run=runtime.flow_run.id)
        return _asked(run, proposal, proposals.decision(store, proposal))
    if verdict.outcome == "PASS" and not promote_in_ledger(
        run, store, candidate, evidence, verdict, flow_run=runtime.flow_run.id
    ):
        lost = {"outcome": "STALE", "reason": "another candidate was promoted meanwhile; run again to compare with it"}
        verdict = verdict.model_copy(update=lost)
    return _conclude(run, verdict)


def _asked(run: Run, proposal: proposals.Proposal, said: proposals.Decision | None) -> Outcome:
    """What a person said, carried out; or that nobody said anything yet, with the candidate to be seen in MLflow."""
    store = open_store(run.workspace.store)
    if said is not None:
        return approval.carry_out(run.workspace, store, proposal, said, run.folder)
    outcome = approval.awaiting(run, store, proposal)
    verdict = Verdict.model_validate_json((run.folder / "verdict.json").read_bytes())
    _tell(run, verdict)
    return outcome


def _conclude(run: Run, verdict: Verdict) -> Outcome:
    """Everything after the decision; each step may be repeated, and the note that all is done comes last."""
    name, store = run.recipe.name, open_store(run.workspace.store)
    mirrored = _tell(run, verdict)
    champion = head(store, name)
    version = champion.version if champion else None
    if settles(verdict, run.recipe.gate):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        evidence = read_evidence(run.folder)
        assert evidence is not None
        write_judged(store, Judged(
            model=name, key=run.key, outcome=verdict.outcome, reason=verdict.reason, candidate=verdict.candidate,
            champion_version=version, evidence=evidence.digest, time=now,
        ))  # fmt: skip
    return Outcome(
        recipe=name, outcome=verdict.outcome, reason=verdict.reason, version=version, folder=str(run.folder),
        registry_version=mirrored.champion,
    )  # fmt: skip


def _tell(run: Run, verdict: Verdict) -> projection.Projection:
    """Shows in MLflow what became of the run, and keeps what the verdict rests on."""
    store, evidence = open_store(run.workspace.store), read_evidence(run.folder)
    mirrored = projection.project(run.workspace, store, run.recipe.name)
    mlflow_run = tracking.open_run(run, runtime.flow_run.id)
    tracking.close_run(run.workspace, mlflow_run, verdict, run.folder / "report")
    if page := tracking.page(run.workspace, run.recipe.name, mlflow_run):
        create_link_artifact(page, "the run in MLflow", key=key(run.recipe.name, "mlflow"), description=verdict.outcome)
    if mirrored.champion and (page := tracking.version_page(run.workspace, run.recipe.name, mirrored.champion)):
        create_link_artifact(page, "the champion in MLflow", key=key(run.recipe.name, "champion"), description=verdict.outcome)
    if evidence is not None and settles(verdict, run.recipe.gate):
        decisions.keep(store, run.folder, evidence)
    return mirrored
