"""Approve: a person says yes or no to a candidate; meanwhile no process runs and nothing is held."""

from typing import Any, Literal

from prefect import runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from adaptory import workspace
from adaptory.registry import approval, head, history, proposals
from adaptory.registry.proposals import Decision, Proposal
from adaptory.release import fetch_release
from adaptory.run import Outcome
from adaptory.storage import open_store
from tasks.common import RETRIED, key


class Approval(RunInput):
    """What the form asks."""

    decision: Literal["approve", "reject"] = Field(
        description="Approve: it becomes champion. Reject: all stays as it is."
    )
    name: str = Field(min_length=1, max_length=100, description="Your name. It stands in the ledger; nobody checks it here.")
    reason: str = Field(min_length=1, max_length=500, description="Why; it stands in the ledger.")


@task(**RETRIED)
def proposed(recipe: str) -> Proposal | Outcome:
    """Returns the candidate that waits, with its card as an artifact; or that none does.

    A question stays about its candidate, whatever else was proposed, or decided, while it was open.
    """
    place = workspace.find()
    store = open_store(place.store)
    made = _asked_here(store, recipe) or proposals.waiting(store, recipe)
    if made is None:
        champion = head(store, recipe)
        said = f"no candidate of {recipe!r} waits for approval"
        version = champion.version if champion else None
        return Outcome(recipe=recipe, outcome="NOTHING_NEW", reason=said, version=version, folder="")
    proposals.asks(store, made, str(runtime.flow_run.id))
    release = fetch_release(store, made.draft, place.cache)
    card = (release / "README.md").read_text(encoding="utf-8")
    create_markdown_artifact(card, key=key(recipe, "candidate"), description=f"Waits for approval: {made.draft.candidate}")
    return made


def _asked_here(store: Any, recipe: str) -> Proposal | None:
    """The proposal that this very flow run asks about, if it was woken again."""
    mine = str(runtime.flow_run.id)
    return next((one for one, _ in proposals.proposals(store, recipe) if proposals.asking(store, one) == mine), None)


def ask(proposal: Proposal, hours: float) -> Decision:
    """Returns what a person said; the flow run is suspended until then, and fails when `hours` pass without a word."""
    draft = proposal.draft
    store = open_store(workspace.find().store)
    if said := proposals.decision(store, proposal):
        return said
    text = (
        f"**{draft.model}**: candidate `{draft.candidate[:19]}` passed the gate: {draft.reason}.\n\n"
        f"{_compared(store, proposal)} Its card is the artifact "
        f"`{key(draft.model, 'candidate')}`, its report the artifact `{key(draft.model, 'report')}`.\n\n"
        f"After {hours:g} hours without a word the question is closed; the candidate still waits, and running `promote` again "
        "asks again."
    )
    form = Approval.with_initial_data(description=text)
    given = suspend_flow_run(wait_for_input=form, timeout=int(hours * 3600), key=draft.release[-32:])
    return proposals.decide(store, proposal, given.decision, by=given.name, reason=given.reason)


def _compared(store: Any, proposal: Proposal) -> str:
    if proposal.champion is None:
        return "There is no champion yet."
    version = next(one.version for one in history(store, proposal.draft.model) if one.candidate == proposal.champion)
    return f"It was compared with the champion v{version}, `{proposal.champion[:19]}`."


@task(**RETRIED)
def carry_out(proposal: Proposal, said: Decision) -> Outcome:
    """Returns how the candidate ended."""
    place = workspace.find()
    return approval.carry_out(place, open_store(place.store), proposal, said)
