"""Compare: the new data beside the champion's, before anything is trained on it."""

import getpass

from prefect import task
from prefect.artifacts import create_table_artifact

from adaptory.process import run_stage
from adaptory.profile import comparison
from adaptory.profile.approvals import accept, accepted
from adaptory.registry import head
from adaptory.run import Outcome, Run
from adaptory.storage import open_store
from tasks.common import RETRIED, key


@task(**RETRIED)
def compare(run: Run, accept_drift: bool) -> Outcome | None:
    """Returns how the run ends here: nothing new, or a person must approve the data. None: go on and train."""
    name, store = run.recipe.name, open_store(run.workspace.store)
    champion = head(store, name)
    if champion is None or champion.data == run.dataset.digest:
        return None
    if comparison.read(run, champion.data) is None:
        run_stage(run, "drift", lambda event: None)
    found = comparison.read(run, champion.data)
    assert found is not None
    create_table_artifact(
        key=key(name, "drift"),
        table=[{"what": one.what, "crossed": one.crossed, "finding": one.reason} for one in found.findings],
        description=f"{found.verdict}: {found.reason}",
    )
    if found.verdict == "needs approval" and accept_drift:
        accept(store, name, found.data, found.champion_data, by=getpass.getuser())
    if found.verdict == "retrain" or accepted(store, name, found.data, found.champion_data):
        return None
    nothing = found.verdict == "nothing new"
    return Outcome(
        recipe=name,
        outcome="NOTHING_NEW" if nothing else "NEEDS_APPROVAL",
        reason=f"nothing new since v{champion.version}: {found.reason}" if nothing else found.reason,
        version=champion.version,
        folder=str(run.folder),
    )
