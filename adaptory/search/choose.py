"""Choosing the settings of a candidate: trials are trained, compared on the validation rows, and one is left.

Who trains is handed in: the flow gives every trial a Prefect task, a person at a terminal trains one after the other.
"""

import shutil
from collections.abc import Callable, Sequence
from typing import Any

from adaptory.errors import BaseModelError, PlanError, RecipeError, StageError, TrainingError
from adaptory.recipe import LOWER
from adaptory.run import Run
from adaptory.search import arbiter, choice, halving, space
from adaptory.search.choice import Choice, Trial, Tried
from adaptory.training import adapter, candidate, methods, pause

Emit = Callable[[dict[str, Any]], None]
Train = Callable[[Sequence[Trial], int | None], None]  # these trials, as far as this rung; None: to the end


def trials(run: Run) -> tuple[Trial, ...]:
    """What the recipe tries: a function of it, and of how many blocks its base has."""
    return space.trials(run.recipe) if run.recipe.search else arbiter.contestants(run)


def choose(run: Run, train: Train, weigh: Callable[[], None]) -> Choice:
    """The settings to train the candidate with; chosen once, and read again after that."""
    if not run.recipe.chooses:
        raise StageError(f"{run.recipe.name!r} says all its settings itself; there is nothing to choose")
    if found := choice.read(run.search_folder):
        _forget(run, found)
        return found
    if run.recipe.search:
        choice.write(run.search_folder, _halved(run, train))
    else:
        train([one for one in trials(run) if one.training], None)
        weigh()
    found = choice.read(run.search_folder)
    assert found is not None
    _forget(run, found)
    return found


def one_by_one(run: Run, emit: Emit, every: float) -> Choice:
    """The same, here and now, one trial after the other."""

    def train(several: Sequence[Trial], rung: int | None) -> None:
        for one in several:
            emit({"event": "stage", "what": f"trial {one.number}: {one.name}"})
            train_trial(run, one.number, rung, emit, every)

    made = choose(run, train, lambda: weigh(run, emit))
    emit({"event": "stage", "what": f"chosen: {made.reason}"})
    return made


def train_trial(run: Run, number: int, rung: int | None, emit: Emit, every: float) -> None:
    """Trains one trial as far as a rung, or to the end; nothing if that was done before."""
    several = trials(run) if run.recipe.chooses else ()
    if not 0 <= number < len(several) or not several[number].training:
        known = ", ".join(str(one.number) for one in several if one.training)
        raise StageError(f"no trial {number} that trains in the search of {run.recipe.name!r}; there are {known}")
    now = run.trained_with(several[number].settings)
    if rung is not None:
        rungs = halving.rungs(len(several))
        if not 0 <= rung < len(rungs):
            raise StageError(f"the search of {run.recipe.name!r} has no rung {rung}; it has {len(rungs)}, from 0")
        pause.attempt(now, rungs[rung][0], emit, every)
        return
    # These two are no fault of the method.
    adapter.check_base(now.workspace.data(now.recipe.name) / "base", now.dataset.base)
    methods.check_device(now.settings)
    try:
        candidate.train(now, emit, every)
    except (TrainingError, PlanError, RecipeError, BaseModelError) as fault:  # this method loses; the others are weighed
        pause.failed(now, fault)


def give_up(run: Run, one: Trial, rung: int | None, reason: str) -> None:
    """Notes that a trial loses though its settings were not found at fault: it is asked again in the next search."""
    share = 1.0 if rung is None else halving.rungs(len(trials(run)))[rung][0]
    pause.failed(run.trained_with(one.settings), PlanError(reason), share)


def was_trained(run: Run, one: Trial, rung: int | None) -> bool:
    """Whether a trial went as far as this rung of the search (None: to its end), or failed there for good."""
    now = run.trained_with(one.settings)
    if rung is None:
        return candidate.read(now.candidate_folder) is not None or pause.settled(now, 1.0) is not None
    return pause.settled(now, halving.rungs(len(trials(run)))[rung][0]) is not None


def weigh(run: Run, emit: Emit) -> None:
    """Compares the methods that were trained on the validation rows, and keeps the choice."""
    choice.write(run.search_folder, arbiter.weigh(run, emit))


def _halved(run: Run, train: Train) -> Choice:
    several = trials(run)
    if len(several) < 2:
        raise RecipeError("search.space holds nothing but the recipe's own settings; name other values, or remove `search:`")
    alive, rows = list(range(len(several))), run.dataset.rows("validation")
    told: dict[int, Tried] = {}
    for rung, (share, keep) in enumerate(halving.rungs(len(several))):
        going, alive = alive, []
        while not alive:
            if not going:
                failed = next((one.failed for one in told.values() if one.failed), None)
                raise StageError(f"every trial failed; the first: {failed}")
            train([several[number] for number in going], rung)
            told |= {number: _tried(run, several[number], share) for number in going}
            alive = halving.best({number: told[number].score for number in going}, keep)
            # If all that went on failed, the next best of those that were left behind go instead.
            going = halving.best({number: one.score for number, one in told.items() if number not in alive}, len(going))
    winner, first = told[alive[0]], told[0]
    reason = f"trial {winner.trial.number} ({winner.trial.name}) is best of {len(several)}"
    if first.failed:
        reason += "; the recipe's own settings failed"
    ranked = sorted(told.values(), key=lambda one: (-one.share, -(one.score if one.score is not None else float("-inf"))))
    measured = _measured(run, winner)
    return Choice(
        measured=measured, rows=rows, tried=tuple(ranked), chosen=winner.trial.number, training=winner.trial.settings,
        reason=reason,
    )  # fmt: skip


def disqualify(run: Run, reason: str) -> str | None:
    """The chosen settings could not be trained to the end: chooses the next best, and returns its name; None if none is left.

    Otherwise the same ones would be chosen, and fail, every time.
    """
    made = choice.read(run.search_folder)
    if made is None:
        return None
    tried = tuple(
        one.model_copy(update={"failed": reason, "score": None}) if one.trial.number == made.chosen else one for one in made.tried
    )
    left = [one for one in tried if one.trial.training and one.score is not None]
    if not left:
        return None
    if run.recipe.search is None:
        winner = arbiter.next_best(left, lower=run.recipe.metrics[0] in LOWER)
    else:
        winner = max(left, key=lambda one: (one.share, one.score or 0))
    told = f"trial {winner.trial.number} ({winner.trial.name}): the best failed after it was chosen: {reason}"
    limit = {"max_rows": run.recipe.training.max_rows}
    settings = winner.trial.settings.model_copy(update=limit if run.recipe.search is None else {})
    choice.write(
        run.search_folder,
        made.model_copy(update={"tried": tried, "chosen": winner.trial.number, "training": settings, "reason": told}),
    )
    return winner.trial.name


def _measured(run: Run, winner: Tried) -> str:
    found = pause.read(run.trained_with(winner.trial.settings), winner.share)
    assert found is not None
    return found.measured if found.measured == "macro F1" else "minus validation loss"


def _tried(run: Run, one: Trial, share: float) -> Tried:
    found = pause.read(run.trained_with(one.settings), share)
    if found is None:
        raise StageError(f"trial {one.number} of {run.recipe.name!r} was not trained as far as {share:.0%}; run the search again")
    return Tried(
        trial=one, share=share, score=found.score, failed=found.failed, seconds=found.seconds, flops=found.flops,
        trainable=found.trainable,
    )  # fmt: skip


def _forget(run: Run, made: Choice) -> None:
    """Removes what no trial goes on from: it is as large as what they train."""
    for one in made.tried:
        if one.trial.training and one.trial.settings != made.training:
            other = run.trained_with(one.trial.settings)
            shutil.rmtree(other.checkpoints, ignore_errors=True)
            if run.recipe.search is None:  # the arbiter's trials are whole candidates, of a part of the rows
                shutil.rmtree(other.candidate_folder, ignore_errors=True)
