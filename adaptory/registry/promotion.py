"""Promotion and the way back: the release is stored, then one ledger record decides who is champion. Nothing else does."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

from adaptory import fingerprint
from adaptory.errors import BusyError, IntegrityError, ReleaseError, ServerError
from adaptory.gate import Evidence, Verdict
from adaptory.profile import history as history_of_data
from adaptory.registry import signing
from adaptory.registry.ledger import Record, append, head, history, retired
from adaptory.release.build import build_release, store_release
from adaptory.release.pull import check_stored
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
    check_passed(candidate, evidence, verdict)
    model = run.recipe.name
    champion = head(store, model)
    if champion and champion.candidate == candidate.digest:
        return champion
    if (champion.candidate if champion else None) != evidence.champion:
        return None
    history_of_data.keep(store, model, run.dataset, run.workspace.data(model) / "profile")
    release = store_release(store, model, build_release(run, candidate, evidence, verdict))
    records = history(store, model)
    check_not_retired(records, candidate.digest)
    record = drafted(run, records, candidate, evidence, verdict, release, flow_run=flow_run, approved_by=approved_by)
    if (records[-1].candidate if records else None) != evidence.champion:
        return None
    return _append(store, record)


def check_passed(candidate: Candidate, evidence: Evidence, verdict: Verdict) -> None:
    """Returns only if the verdict is a PASS for exactly this candidate and evidence. Raises IntegrityError."""
    if verdict.outcome != "PASS" or (verdict.candidate, verdict.evidence) != (candidate.digest, evidence.digest):
        raise IntegrityError(
            f"verdict {verdict.outcome} on {verdict.candidate} with evidence {verdict.evidence} does not allow "
            f"the promotion of {candidate.digest} with evidence {evidence.digest}; run the gate again"
        )


def check_not_retired(records: list[Record], candidate: str) -> None:
    """Returns unless a person barred this candidate. Raises ReleaseError."""
    version = next((record.version for record in records if record.candidate == candidate), None)
    if version in retired(records):
        why = next(record.reason for record in records if record.about == version)
        raise ReleaseError(f"this candidate is v{version}, which was retired: {why}; it is never promoted again")


def override(
    run: Run,
    store: ObjectStore,
    candidate: Candidate,
    evidence: Evidence,
    verdict: Verdict,
    *,
    by: str,
    reason: str,
    expires: str,
) -> Record | None:
    """Makes a candidate champion that the gate did not let pass: a person's decision, with a reason and an end.

    Returns None if the champion changed meanwhile. Raises ReleaseError without a reason, or for a verdict on something else.
    """
    if not reason.strip():
        raise ReleaseError("an override needs a reason: why is this better than what the gate found?")
    if (verdict.candidate, verdict.evidence) != (candidate.digest, evidence.digest):
        raise ReleaseError("the verdict is on another candidate or on other evidence; retrain, and look at the new verdict")
    model = run.recipe.name
    history_of_data.keep(store, model, run.dataset, run.workspace.data(model) / "profile")
    release = store_release(store, model, build_release(run, candidate, evidence, verdict))
    records = history(store, model)
    check_not_retired(records, candidate.digest)
    if (records[-1].candidate if records else None) != evidence.champion:
        return None
    record = drafted(run, records, candidate, evidence, verdict, release, flow_run=None, approved_by=by)
    kind = "override" if records else "bootstrap"
    return _append(store, record.model_copy(update={"kind": kind, "reason": reason, "expires": expires}))


def rollback(
    store: ObjectStore, model: str, to: int | None, *, by: str, reason: str, flow_run: str | None = None
) -> Record:
    """Makes an earlier champion champion again, and returns the record of it. If none is named, the one before the present one
    first became champion: going back twice never returns to what was left. A flow that is tried again finds its own record.

    Raises ReleaseError for a version that never was champion, was retired, or whose release is no longer whole; BusyError when
    another record came first.
    """
    records = history(store, model)
    if not records:
        raise ReleaseError(f"{model!r} never had a champion; there is nothing to go back to")
    now, barred = records[-1], retired(records)
    if flow_run and now.kind == "rollback" and now.flow_run == flow_run:
        return now
    known = {record.version: record for record in records if record.kind != "retire"}
    before = records[: next(place for place, record in enumerate(records) if record.candidate == now.candidate)]
    earlier = [record for record in before if record.version not in barred]
    target = known.get(to) if to is not None else (earlier[-1] if earlier else None)
    there = ", ".join(f"v{version}" for version in sorted(known) if version not in barred)
    if target is None or target.version in barred:
        asked = (
            f"v{to} was retired" if to in barred else f"v{to} never was champion" if to else "no other champion stands before it"
        )
        raise ReleaseError(f"{model!r} cannot go back: {asked}; it has {there}, and v{now.version} is champion")
    if target.candidate == now.candidate:
        raise ReleaseError(f"v{target.version} is champion of {model!r} already")
    check_stored(store, target)
    back = _next(records, target, kind="rollback", by=by, reason=reason or f"back from v{now.version}")
    try:
        made = _append(store, back.model_copy(update={"flow_run": flow_run}))
    except ServerError as fault:
        raise ServerError(f"{fault}. The record may stand: look at adaptory history {model} before you go back again") from None
    if made is None:
        raise BusyError(f"another record of {model!r} came first; look at adaptory history {model}, and go back again if need be")
    return made


def retire(store: ObjectStore, model: str, version: int, *, by: str, reason: str) -> Record:
    """Bars a version: nobody goes back to it or pulls it again. Raises ReleaseError for the champion and for unknown ones."""
    records = history(store, model)
    if version not in {record.version for record in records}:
        raise ReleaseError(f"{model!r} has no v{version}; look at adaptory history {model}")
    if version == records[-1].version:
        raise ReleaseError(f"v{version} is champion of {model!r}; go back to another version first")
    if not reason.strip():
        raise ReleaseError("retiring a version needs a reason")
    record = _next(records, records[-1], kind="retire", by=by, reason=reason)
    made = _append(store, record.model_copy(update={"about": version, "version": records[-1].version}))
    if made is None:
        raise BusyError(f"another record of {model!r} came first; try again")
    return made


def append_drafted(store: ObjectStore, records: list[Record], draft: Record, *, by: str, reason: str) -> Record | None:
    """Appends a drafted record behind these; None if another one came first."""
    changes = {
        "number": len(records) + 1, "previous": records[-1].digest if records else None,
        "version": _version(records, draft.candidate), "approved_by": by, "reason": reason, "time": _now(),
    }  # fmt: skip
    return _append(store, draft.model_copy(update=changes))


def _version(records: list[Record], candidate: str) -> int:
    """One version per candidate, however often it comes back."""
    known = {record.candidate: record.version for record in records}
    return known.get(candidate) or max((record.version for record in records), default=0) + 1


def drafted(
    run: Run, records: list[Record], candidate: Candidate, evidence: Evidence, verdict: Verdict, release: str, *,
    flow_run: str | None, approved_by: str = "nobody",
) -> Record:  # fmt: skip
    """The record that would make this candidate champion behind these records."""
    return Record(
        model=run.recipe.name,
        number=len(records) + 1,
        previous=records[-1].digest if records else None,
        kind="promote",
        version=_version(records, candidate.digest),
        candidate=candidate.digest,
        release=release,
        evidence=evidence.digest,
        verdict=verdict.digest,
        outcome=verdict.outcome,
        key=run.key,
        data=candidate.data_digest,
        dvc=fingerprint.of_json(run.dataset.dvc),
        base=candidate.base_digest,
        recipe=run.recipe.digest,
        git_commit=git_commit(run.workspace.root),
        flow_run=flow_run,
        approved_by=approved_by,
        reason=verdict.reason,
        time=_now(),
    )


def _next(records: list[Record], target: Record, *, kind: str, by: str, reason: str) -> Record:
    """The record that makes (or leaves) the target champion."""
    changes = {
        "number": len(records) + 1, "previous": records[-1].digest, "kind": kind, "approved_by": by, "reason": reason,
        "time": _now(), "flow_run": None, "expires": None, "about": None, "signature": None,
    }  # fmt: skip
    return target.model_copy(update=changes)


def _append(store: ObjectStore, record: Record) -> Record | None:
    """The record, signed and appended; None if another one came first."""
    signed = record.model_copy(update={"signature": signing.sign(record.unsigned)})
    return signed if append(store, signed) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
