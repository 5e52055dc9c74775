"""One stage, here and now, on the output of the one before: what dvc, the flows and a person call."""

import os

from adaptory import bases, data, profile, run, workspace
from adaptory.params import load
from adaptory.process import emit, pinned, timed
from adaptory.storage import open_store
from adaptory.workspace import Workspace


def perform(stage: str, recipe: str, trial: int | None = None, rung: int | None = None, seed: int | None = None) -> None:
    """Does one stage here and now, on the output of the one before.

    `train` may be of one trial of a search, up to a rung of it; or of the candidate again, with another seed.
    """
    place = workspace.find()
    place.activate()
    if stage in ("drift", "choose", "train", "weigh", "evaluate", "explain", "monitor"):
        _perform_on_run(place, stage, recipe, trial, rung, seed)
    else:
        with timed(place, stage, recipe):
            _perform_on_data(place, stage, recipe)


def _perform_on_run(place: Workspace, stage: str, recipe: str, trial: int | None, rung: int | None, seed: int | None) -> None:
    from adaptory.search import choose
    from adaptory.training.candidate import finished, train

    pin = pinned()
    now = run.current(place, recipe, run.Pin.model_validate_json(pin) if pin else None)
    every = float(os.environ.get("ADAPTORY_CHECKPOINT_SECONDS", "30"))
    if stage == "train" and trial is not None:
        choose.train_trial(now, trial, rung, emit, every)
    elif stage == "train":
        train(now if seed is None else now.trained_with(now.settings.model_copy(update={"seed": seed})), emit, every)
    elif stage == "choose":
        choose.one_by_one(now, emit, every)
    elif stage == "weigh":
        choose.weigh(now, emit)
    elif stage == "drift":
        from adaptory.profile.comparison import compare

        compare(now, open_store(place.store))
    elif stage == "monitor":
        from adaptory.evaluation.monitor import monitor

        monitor(now, open_store(place.store), emit)
    elif stage == "explain":
        from adaptory.evaluation import read, refusal

        if (evidence := read(now.folder)) and (found := refusal.explain(now, open_store(place.store), evidence)):
            refusal.write(now.folder, found)
    else:
        from adaptory.evaluation import evaluate

        evaluate(now, open_store(place.store), finished(now), emit)


def _perform_on_data(place: Workspace, stage: str, name: str) -> None:
    stages = {"fetch": data.fetch, "validate": data.validate, "split": data.split}
    stages |= {"base": bases.place, "profile": profile.profile}
    stages[stage](place, load(place.recipes_file, name))
