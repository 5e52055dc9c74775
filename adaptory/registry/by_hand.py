"""What a person does to the ledger from the command line; MLflow follows at once, or says why it could not."""

import getpass

from adaptory import params, prefect_api, reach, run, workspace
from adaptory.errors import BusyError, DataError, ReleaseError, ServerError
from adaptory.gate import Verdict
from adaptory.registry import approval, projection, promotion, proposals
from adaptory.registry.judged import Judged, write_judged
from adaptory.registry.ledger import Record
from adaptory.storage import ObjectStore, open_store
from adaptory.workspace import Workspace


def override(name: str, reason: str, expires: str) -> str:
    """Makes the candidate of the last run champion although its verdict was no PASS; says what it did."""
    from adaptory.evaluation import read
    from adaptory.training.candidate import finished

    place = workspace.find()
    place.activate()
    now = run.current(place, params.load(place.recipes_file, name).name)
    evidence, path = read(now.folder), now.folder / "verdict.json"
    if evidence is None or not path.is_file():
        raise DataError(
            f"the candidate of {name!r} on this data was not judged on this machine; run this where it was (the worker that "
            f"orchestrates), or judge it here: adaptory retrain {name}"
        )
    verdict = Verdict.model_validate_json(path.read_bytes())
    if verdict.outcome == "PASS":
        raise ReleaseError("the gate let this candidate pass; there is nothing to override")
    store = open_store(place.store)
    made = promotion.override(now, store, finished(now), evidence, verdict, by=getpass.getuser(), reason=reason, expires=expires)
    if made is None:
        raise BusyError("the champion changed after the comparison; retrain, and look at the new verdict")
    write_judged(store, Judged(
        model=name, key=now.key, outcome=verdict.outcome, reason=f"overridden by {made.approved_by}: {reason}",
        candidate=made.candidate, champion_version=made.version, evidence=evidence.digest, time=made.time,
    ))  # fmt: skip
    return _told(place, made, f"by override of {verdict.outcome}, until {expires}")


def decide(name: str, word: proposals.Word, reason: str) -> str:
    """Approves or rejects the candidate that waits, and wakes the flow that asks; says what came of it."""
    place = workspace.find()
    place.activate()
    store = open_store(place.store)
    proposal = proposals.waiting(store, name)
    if proposal is None:
        raise ReleaseError(f"no candidate of {name!r} waits for approval; look at adaptory history {name}")
    reach.check_tracking(place)
    said = proposals.decide(store, proposal, word, by=getpass.getuser(), reason=reason)
    outcome = approval.carry_out(place, store, proposal, said)
    waking = _wake(place, store, proposal, said)
    version = f"v{outcome.version} is champion" if outcome.version else "there is no champion"
    return f"{name}: {outcome.reason}; {version}{waking}"


def _wake(place: Workspace, store: ObjectStore, proposal: proposals.Proposal, said: proposals.Decision) -> str:
    """Lets the flow run that asks go on, so that it ends; a word about it when it could not be reached."""
    asking = proposals.asking(store, proposal)
    if asking is None or not prefect_api.configured(place):
        return ""
    given = {"decision": said.word, "name": said.by, "reason": said.reason or said.word}
    try:
        prefect_api.post(place, f"/flow_runs/{asking}/resume", {"run_input": given})
    except ServerError as fault:
        return f" (the flow run that asks was not told, and will end by its own deadline: {fault})"
    return ""


def rollback(name: str, to: int | None, reason: str) -> str:
    """Makes an earlier champion champion again; says what it did."""
    place = workspace.find()
    made = promotion.rollback(open_store(place.store), name, to, by=getpass.getuser(), reason=reason)
    return _told(place, made, "again")


def retire(name: str, version: int, reason: str) -> str:
    """Bars a version; says what it did."""
    place = workspace.find()
    made = promotion.retire(open_store(place.store), name, version, by=getpass.getuser(), reason=reason)
    return f"{name} v{version} is retired (record {made.number}); v{made.version} is champion as before"


def _told(place: Workspace, made: Record, how: str) -> str:
    """The change, after MLflow was told; a ledger record stands whether MLflow answers or not."""
    said = f"{made.model} v{made.version} is champion {how} (record {made.number})"
    place.activate()
    try:
        reach.check_tracking(place)
        projection.project(place, open_store(place.store), made.model)
    except Exception as fault:  # whatever MLflow says: the record stands
        return f"{said}; MLflow was not told: {fault}. Later: adaptory reconcile {made.model}"
    return said
