"""Retrain: new data -> prepare -> compare -> choose -> fine-tune -> evaluate -> decide -> promote.

    python -m flows.retrain sentiment      (what `adaptory retrain` runs, and what a worker runs)
"""

import sys

from prefect import flow

from adaptory import workspace
from adaptory.run import Outcome
from tasks.choose import choose
from tasks.compare import compare
from tasks.decide import decide
from tasks.evaluate import evaluate
from tasks.fine_tune import fine_tune, repeat
from tasks.foresee import foresee
from tasks.prepare import prepare
from tasks.promote import promote, settled


@flow(flow_run_name="retrain-{recipe}")
def retrain(recipe: str = "sentiment", accept_drift: bool = False) -> Outcome:
    """Retrains one recipe and promotes the candidate only if the gate lets it pass.

    Args:
        recipe: A name under `recipes:` in params.yaml.
        accept_drift: Train although the data drifted away from the champion's.
    """
    workspace.find().activate()
    run = prepare(recipe)
    if ended := settled(run):
        return ended
    if held := compare(run, accept_drift):
        return held
    foresee(run)
    run = choose(run)
    candidate = fine_tune(run)
    repeat(run)
    evidence = evaluate(run, candidate)
    verdict = decide(run, candidate, evidence)
    return promote(run, candidate, evidence, verdict)


if __name__ == "__main__":
    from tasks.script import run_as_script

    sys.exit(run_as_script(retrain, sys.argv[1], "accept-drift" in sys.argv[2:]))
