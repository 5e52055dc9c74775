"""One stage, here and now, on the output of the one before: what dvc, the flows and a person call."""

import os

from adaptory import bases, data, profile, run, workspace
from adaptory.params import load
from adaptory.process import emit, timed
from adaptory.storage import open_store
from adaptory.workspace import Workspace


def perform(stage: str, recipe: str) -> None:
    """Does one stage here and now, on the output of the one before."""
    place = workspace.find()
    place.activate()
    if stage in ("drift", "train", "evaluate"):
        _perform_on_run(place, stage, recipe)
    else:
        with timed(place, stage, recipe):
            _perform_on_data(place, stage, recipe)


def _perform_on_run(place: Workspace, stage: str, recipe: str) -> None:
    from adaptory.training.candidate import finished, train

    now = run.current(place, recipe)
    if stage == "train":
        train(now, emit, float(os.environ.get("ADAPTORY_CHECKPOINT_SECONDS", "30")))
    elif stage == "drift":
        from adaptory.profile.comparison import compare

        compare(now, open_store(place.store))
    else:
        from adaptory.evaluation import evaluate

        evaluate(now, open_store(place.store), finished(now), emit)


def _perform_on_data(place: Workspace, stage: str, name: str) -> None:
    stages = {"fetch": data.fetch, "validate": data.validate, "split": data.split}
    stages |= {"base": bases.place, "profile": profile.profile}
    stages[stage](place, load(place.recipes_file, name))
