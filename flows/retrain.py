"""Retrain: new data -> prepare -> compare -> choose -> fine-tune -> evaluate -> decide -> promote.

python -m flows.retrain sentiment      (what `adaptory retrain` runs, and what a worker runs)
"""

import sys

from prefect import flow

from adaptory import workspace
from adaptory.run import Outcome
from flows.parameters import RecipeName
from tasks.alone import alone
from tasks.choose import choose
from tasks.compare import compare
from tasks.decide import decide
from tasks.evaluate import evaluate
from tasks.events import announce
from tasks.fine_tune import fine_tune, repeat
from tasks.foresee import foresee
from tasks.late import superseded
from tasks.left import close
from tasks.prepare import keep, prepare
from tasks.promote import promote, settled


@flow(flow_run_name="retrain-{recipe}", on_failure=[close], on_crashed=[close], on_cancellation=[close])
def retrain(recipe: RecipeName = "sentiment", accept_drift: bool = False) -> Outcome:
    """Retrains one recipe and promotes the candidate only if the gate lets it pass.

    New data are fetched, checked and compared with the champion's; a candidate is trained and evaluated beside champion and
    baselines on the same rows; the gate decides. Nothing new: the run ends in seconds. Running it twice does no harm.

    Args:
        recipe: A name under `recipes:` in params.yaml.
        accept_drift: Train although the data drifted away from the champion's.
    """
    workspace.find().activate()
    if later := superseded(recipe):
        return later
    with alone(recipe):
        run = prepare(recipe)
        if known := settled(run):
            return announce(known)
        keep(run)
        if held := compare(run, accept_drift):
            return announce(held)
        foresee(run)
        run = choose(run)
        candidate = fine_tune(run)
        repeat(run)
        for again in (False, True):
            if again and (held := compare(run, accept_drift)):
                return announce(held)
            evidence = evaluate(run, candidate)
            verdict = decide(run, candidate, evidence)
            ended = promote(run, candidate, evidence, verdict)
            if ended.outcome != "STALE":  # another one was promoted meanwhile: compare with that, once
                break
        return announce(ended)


if __name__ == "__main__":
    from tasks.script import run_as_script

    sys.exit(run_as_script(retrain, sys.argv[1], "accept-drift" in sys.argv[2:]))
