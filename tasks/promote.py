"""Promote: the ledger record, then MLflow as its mirror, then the note that this run is done."""

from datetime import UTC, datetime

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE

from adaptory.gate import Evidence, Verdict
from adaptory.registry import Judged, head, projection, read_judged, tracking, write_judged
from adaptory.registry.promotion import promote as promote_in_ledger
from adaptory.run import Outcome, Run
from adaptory.storage import open_store
from adaptory.training import Candidate
from tasks.common import worth_retrying


@task(cache_policy=NO_CACHE)
def known(run: Run) -> Outcome | None:
    """Returns what was judged before on exactly these inputs, or None if they are new."""
    judged = read_judged(open_store(run.workspace.store), run.recipe.name, run.key)
    return Outcome.nothing_new(run, judged) if judged else None


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5, retry_condition_fn=worth_retrying)
def promote(run: Run, candidate: Candidate, evidence: Evidence, verdict: Verdict) -> Outcome:
    """Returns how the run ended. Only a PASS changes the champion; a crash anywhere here is mended by running again."""
    store = open_store(run.workspace.store)
    outcome, reason = verdict.outcome, verdict.reason
    if outcome == "PASS" and not promote_in_ledger(run, store, candidate, evidence, verdict, flow_run=runtime.flow_run.id):
        outcome, reason = "STALE", "another candidate was promoted meanwhile; run again to compare with it"
    mirrored = projection.project(run.workspace, store, run.recipe.name)
    tracking.close_run(run.workspace, tracking.open_run(run, runtime.flow_run.id), verdict, run.folder / "report")
    champion = head(store, run.recipe.name)
    version = champion.version if champion else None
    if outcome != "STALE":  # a stale comparison decided nothing, so it must be made again
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_judged(store, Judged(
            model=run.recipe.name, key=run.key, outcome=outcome, reason=reason, candidate=candidate.digest,
            champion_version=version, time=now,
        ))  # fmt: skip
    return Outcome(
        recipe=run.recipe.name, outcome=outcome, reason=reason, version=version, folder=str(run.folder),
        registry_version=mirrored.champion,
    )  # fmt: skip
