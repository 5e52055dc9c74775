"""Promotion: the release is stored, then one ledger record makes it champion. Nothing else decides."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

from adaptory.errors import IntegrityError
from adaptory.gate import Evidence, Verdict
from adaptory.profile import history as history_of_data
from adaptory.registry.ledger import Record, append, head, history
from adaptory.release.build import build_release, store_release
from adaptory.run import Run
from adaptory.storage import ObjectStore
from adaptory.training.candidate import Candidate


def promote(
    run: Run,
    store: ObjectStore,
    candidate: Candidate,
    evidence: Evidence,
    verdict: Verdict,
    *,
    flow_run: str | None = None,
    approved_by: str = "gate",
) -> Record | None:
    """Makes the candidate champion and returns its record; None if the champion changed meanwhile.

    Safe to repeat after any crash: a candidate that is champion already gets its existing record. Raises
    IntegrityError when the verdict is no PASS for exactly this candidate and evidence.
    """
    if verdict.outcome != "PASS" or (verdict.candidate, verdict.evidence) != (candidate.digest, evidence.digest):
        raise IntegrityError(
            f"verdict {verdict.outcome} on {verdict.candidate} with evidence {verdict.evidence} does not allow "
            f"the promotion of {candidate.digest} with evidence {evidence.digest}; run the gate again"
        )
    model = run.recipe.name
    champion = head(store, model)
    if champion and champion.candidate == candidate.digest:
        return champion
    if (champion.candidate if champion else None) != evidence.champion:
        return None
    history_of_data.keep(store, model, run.dataset, run.workspace.data(model) / "profile")
    release = store_release(store, model, build_release(run, candidate, evidence, verdict))
    records = history(store, model)
    record = Record(
        model=model,
        number=len(records) + 1,
        previous=records[-1].digest if records else None,
        kind="promote",
        version=max((record.version for record in records), default=0) + 1,
        candidate=candidate.digest,
        release=release,
        evidence=evidence.digest,
        verdict=verdict.digest,
        outcome="PASS",
        key=run.key,
        data=candidate.data_digest,
        base=candidate.base_digest,
        recipe=run.recipe.digest,
        git_commit=git_commit(run.workspace.root),
        flow_run=flow_run,
        approved_by=approved_by,
        reason=verdict.reason,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if (records[-1].candidate if records else None) != evidence.champion:
        return None
    return record if append(store, record) else None


def git_commit(root: Path) -> str | None:
    """The commit that is checked out, marked `+changes` if the tree differs from it; None outside git."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and git("status", "--porcelain") else commit
