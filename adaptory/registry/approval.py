"""What a person's approve or reject leads to: the record, MLflow, the note that it is done. Each step may be repeated."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

from adaptory.gate import Verdict
from adaptory.registry import projection, tracking
from adaptory.registry.judged import Judged, write_judged
from adaptory.registry.ledger import Record, head, history
from adaptory.registry.proposals import Decision, Proposal, promote_approved, proposals
from adaptory.release import fetch_release
from adaptory.run import Outcome, Run
from adaptory.storage import ObjectStore
from adaptory.workspace import Workspace

REJECTED, AWAITING = "REJECTED", "AWAITING_APPROVAL"


def carry_out(place: Workspace, store: ObjectStore, proposal: Proposal, said: Decision, folder: Path | None = None) -> Outcome:
    """Returns how the candidate ended: champion (PASS), REJECTED, or STALE because another one became champion meanwhile."""
    draft = proposal.draft
    outcome, reason = REJECTED, f"{said.by} rejected it: {said.reason}"
    if said.word == "approve":
        made = promote_approved(store, proposal, said)
        outcome = "PASS" if made else "STALE"
        reason = f"approved by {said.by}" if made else "the champion changed meanwhile; run again to compare with it"
    mirrored = projection.project(place, store, draft.model)
    tracking.tag_run(
        place, draft.model, draft.key, {"adaptory.approval": f"{said.word} by {said.by}", "adaptory.verdict": outcome}
    )
    champion = head(store, draft.model)
    version = champion.version if champion else None
    if outcome != "STALE":
        write_judged(store, Judged(
            model=draft.model, key=draft.key, outcome=outcome, reason=reason, candidate=draft.candidate,
            champion_version=version, evidence=draft.evidence, time=datetime.now(UTC).isoformat(timespec="seconds"),
        ))  # fmt: skip
    return Outcome(
        recipe=draft.model, outcome=outcome, reason=reason, version=version, folder=str(folder or ""),
        registry_version=mirrored.champion,
    )  # fmt: skip


def found(run: Run, store: ObjectStore) -> tuple[Proposal, Decision | None] | None:
    """The proposal that exactly these inputs led to, with what was said of it; None when there is none that still counts."""
    records = history(store, run.recipe.name)
    now = records[-1].candidate if records else None
    for one, said in reversed(proposals(store, run.recipe.name)):
        # Approved too late is no answer: it must be compared with the champion of now.
        done = said and (said.word == "reject" or any(record.release == one.draft.release for record in records))
        if one.draft.key == run.key and (done or one.champion == now):
            return one, said
    return None


def awaiting(run: Run, store: ObjectStore, proposal: Proposal) -> Outcome:
    """The outcome while a candidate waits; its evidence and verdict lie in the run's folder."""
    restore(run, store, proposal.draft)
    verdict = Verdict.model_validate_json((run.folder / "verdict.json").read_bytes())
    champion = head(store, run.recipe.name)
    return Outcome(
        recipe=run.recipe.name, outcome=AWAITING, reason=f"{verdict.reason}; a person must approve it",
        version=champion.version if champion else None, folder=str(run.folder),
    )  # fmt: skip


def restore(run: Run, store: ObjectStore, record: Record) -> None:
    """Evidence and verdict of a release in the run's folder: the run may have been on another machine."""
    names = ("evidence.json", "verdict.json")
    if all((run.folder / name).is_file() for name in names):
        return
    release = fetch_release(store, record, run.workspace.cache)
    run.folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(release / name, run.folder / name)
