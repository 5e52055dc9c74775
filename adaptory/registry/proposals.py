"""Candidates that the gate let pass and that wait for a person: `proposals/<model>/<release>.json`.

What the person said is `<release>.decision.json`, created only if absent: of approve and reject, whichever comes first stands.
Nobody waits in a process meanwhile, and what was approved before a crash is promoted by the next who looks.
"""

from datetime import UTC, datetime
from typing import Literal

from adaptory import fingerprint
from adaptory.errors import AlreadyExists, NotFound, ReleaseError
from adaptory.frozen import Frozen
from adaptory.gate import Evidence, Verdict
from adaptory.profile import history as history_of_data
from adaptory.registry import promotion
from adaptory.registry.ledger import Record, history
from adaptory.release.build import build_release, store_release
from adaptory.release.pull import check_stored
from adaptory.run import Run
from adaptory.storage import ObjectStore
from adaptory.training.candidate import Candidate

Word = Literal["approve", "reject"]


class Proposal(Frozen):
    """A candidate with a PASS, and the record that an approval would make of it."""

    schema_version: str = "proposal/v1"
    draft: Record
    champion: str | None  # the candidate it was compared with
    number: int = 0  # of proposals of the model; the order is that of the numbers, not of anybody's clock


class Decision(Frozen):
    """What a person said of a proposal."""

    schema_version: str = "decision/v1"
    word: Word
    by: str
    reason: str
    time: str


def propose(
    run: Run, store: ObjectStore, candidate: Candidate, evidence: Evidence, verdict: Verdict, *, flow_run: str | None = None
) -> Proposal:
    """Stores the release of a candidate with a PASS, and that it waits. Proposing it again changes nothing."""
    promotion.check_passed(candidate, evidence, verdict)
    model = run.recipe.name
    promotion.check_not_retired(history(store, model), candidate.digest)
    history_of_data.keep(store, model, run.dataset, run.workspace.data(model) / "profile")
    release = store_release(store, model, build_release(run, candidate, evidence, verdict))
    draft = promotion.drafted(run, history(store, model), candidate, evidence, verdict, release, flow_run=flow_run)
    number = 1 + max((one.number for one, _ in proposals(store, model)), default=0)
    made = Proposal(draft=draft, champion=evidence.champion, number=number)
    try:
        store.create(_place(model, release), made.model_dump_json(indent=1).encode() + b"\n")
    except AlreadyExists:
        try:
            return Proposal.model_validate_json(store.get(_place(model, release)))
        except NotFound:  # S3 answers 409 while another writer is at it, and that one may fail
            return propose(run, store, candidate, evidence, verdict, flow_run=flow_run)
    return made


def proposals(store: ObjectStore, model: str) -> list[tuple[Proposal, Decision | None]]:
    """Everything that was proposed of a model with what was said of it, oldest first."""
    keys = store.keys(f"proposals/{model}/")
    found = [Proposal.model_validate_json(store.get(key)) for key in keys if not key.endswith(_DECIDED)]
    decided = {key for key in keys if key.endswith(_DECIDED)}
    both = [(one, decision(store, one) if _decision_place(one) in decided else None) for one in found]
    return sorted(both, key=lambda pair: (pair[0].number, pair[0].draft.number, pair[0].draft.time))


def waiting(store: ObjectStore, model: str) -> Proposal | None:
    """The newest proposal that nobody decided and that still compares with the champion of now."""
    records = history(store, model)
    now = records[-1].candidate if records else None
    return next((one for one, said in reversed(proposals(store, model)) if said is None and one.champion == now), None)


def decide(store: ObjectStore, proposal: Proposal, word: Word, *, by: str, reason: str = "") -> Decision:
    """Says approve or reject, once; returns what stands, which is another's word if it came first.

    Raises ReleaseError without a name, and for a rejection without a reason.
    """
    if not by.strip():
        raise ReleaseError("a decision needs the name of who decides")
    if word == "reject" and not reason.strip():
        raise ReleaseError("a rejection needs a reason: whoever trained it will read it")
    made = Decision(word=word, by=by.strip(), reason=reason.strip(), time=datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        store.create(_decision_place(proposal), made.model_dump_json(indent=1).encode() + b"\n")
    except AlreadyExists:
        return decision(store, proposal) or decide(store, proposal, word, by=by, reason=reason)
    return made


def decision(store: ObjectStore, proposal: Proposal) -> Decision | None:
    """What was said of a proposal."""
    try:
        return Decision.model_validate_json(store.get(_decision_place(proposal)))
    except NotFound:
        return None


def promote_approved(store: ObjectStore, proposal: Proposal, said: Decision) -> Record | None:
    """Makes an approved candidate champion and returns its record; None if the champion changed meanwhile.

    Safe to repeat: an approval that was carried out gives its record. The release is checked again first.
    """
    if said.word != "approve":
        raise ReleaseError(f"{said.by} rejected this candidate: {said.reason}")
    draft, model = proposal.draft, proposal.draft.model
    records = history(store, model)
    if done := next((one for one in records if one.release == draft.release and one.kind == "promote"), None):
        return done
    if (records[-1].candidate if records else None) != proposal.champion:
        return None
    promotion.check_not_retired(records, draft.candidate)
    check_stored(store, draft)
    reason = f"{draft.reason}; approved{f': {said.reason}' if said.reason else ''}"
    return promotion.append_drafted(store, records, draft, by=said.by, reason=reason)


def asks(store: ObjectStore, proposal: Proposal, flow_run: str) -> None:
    """Notes which flow run asks a person about a proposal, so that it can be woken when it is decided elsewhere."""
    store.put(_asking_place(proposal), flow_run.encode())


def asking(store: ObjectStore, proposal: Proposal) -> str | None:
    """The flow run that asks about a proposal."""
    try:
        return store.get(_asking_place(proposal)).decode()
    except NotFound:
        return None


_DECIDED = ".decision.json"


def _place(model: str, release: str) -> str:
    return f"proposals/{model}/{fingerprint.hex_of(release)}.json"


def _decision_place(proposal: Proposal) -> str:
    return _place(proposal.draft.model, proposal.draft.release).removesuffix(".json") + _DECIDED


def _asking_place(proposal: Proposal) -> str:
    return f"asking/{proposal.draft.model}/{fingerprint.hex_of(proposal.draft.release)}"
