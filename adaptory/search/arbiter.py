"""The arbiter of methods: the usual ones on the same rows, from asking the base to training all of it.

Each trains on the same third of the rows, by the same schedule; all answer the same validation rows. The cheapest of
those that the best is not measurably ahead of is proposed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from adaptory.data import some_rows
from adaptory.errors import BaseModelError, RecipeError, StageError
from adaptory.evaluation import baselines, metrics, respond
from adaptory.evaluation.contestants import reference
from adaptory.evaluation.evaluate import truth_of
from adaptory.evaluation.measures import MEASURES
from adaptory.evaluation.scores import Answers
from adaptory.evaluation.tables import NAMES
from adaptory.recipe import LOWER
from adaptory.recipe.training import ROW_TASKS, Training
from adaptory.run import Run
from adaptory.search.choice import Choice, Trial, Tried
from adaptory.storage import open_store
from adaptory.training import pause
from adaptory.training.candidate import read as read_candidate
from adaptory.training.setup import rows_of

_PART = 3  # of the rows are learned from, one in so many
_CALMER = 0.1  # of the adapters' rate, for weights of the base (Schulman et al. 2025, LoRA Without Regret)


def contestants(run: Run) -> tuple[Trial, ...]:
    """What is tried for this task on this base, the cheapest kind first."""
    from adaptory.training import network

    recipe = run.recipe
    base = run.workspace.data(recipe.name) / "base"
    own, asked = recipe.training, baselines.possible(recipe, base)
    blocks = int(network.config_of(base).num_hidden_layers)
    top = own.top_layers or max(1, blocks // 3)
    most = -(-rows_of(run.trained_with(own), "train").height // _PART)
    plain = {"max_rows": most, "cache_trunk": False, "top_layers": None}
    calm = {"learning_rate": own.learning_rate * _CALMER}
    kept = {"top_layers": top, "cache_trunk": top < blocks and _stays(run)}
    tried: dict[str, dict[str, Any]] = {}
    if recipe.task in ROW_TASKS or (own.objective == "reward" and recipe.task == "preference"):
        tried["linear probe"] = {"method": "head", "cache_trunk": kept["cache_trunk"]}
    tried[f"LoRA, top {top} of {blocks}"] = {"method": "lora", **kept}
    tried["LoRA, every block"] = {"method": "lora"}
    tried[f"top {top} of {blocks} blocks"] = {"method": "freeze", **kept, **calm}
    tried["the whole network"] = {"method": "full", **calm}
    ways: list[tuple[str, Training | None, str | None]] = [(NAMES[name], None, name) for name in asked]
    ways += [(name, own.model_copy(update=plain | values), None) for name, values in tried.items()]
    return tuple(Trial(number=n, name=name, training=made, baseline=base) for n, (name, made, base) in enumerate(ways))


def _stays(run: Run) -> bool:
    """Whether frozen blocks give the same in every epoch, so that it can be kept."""
    from adaptory.training import network
    from adaptory.training.render import kind_of

    kind = kind_of(network.config_of(run.workspace.data(run.recipe.name) / "base"))
    return kind != "seq2seq" and not (kind == "encoder" and run.recipe.task == "text")


def weigh(run: Run, emit: Callable[[dict[str, Any]], None]) -> Choice:
    """The choice among the contestants that were trained. Raises StageError when one was not."""
    recipe, plain = run.recipe, run.trained_with(run.recipe.training)
    train, rows = rows_of(plain, "train"), some_rows(rows_of(plain, "validation"), run.recipe.evaluation.max_rows)
    failed = {one.number: why for one in contestants(run) if (why := _failure(run, one))}
    several = [one for one in contestants(run) if one.number not in failed]
    if not any(one.training for one in several):
        raise StageError(f"no method could be trained; the first: {next(iter(failed.values()))}")
    answers, latency = [], []
    for one in list(several):
        emit({"event": "stage", "what": f"{one.name} on {rows.height:,} validation rows"})
        try:
            given, took = _answers(run, one, train, rows)
        except (RecipeError, BaseModelError) as fault:
            if one.training:
                raise
            failed[one.number] = str(fault)  # this base cannot be asked so; the others are weighed
            several.remove(one)
            continue
        answers.append(given)
        latency.append(1000 * took / rows.height)
    main = recipe.metrics[0]
    truth = truth_of(recipe, rows, {})
    chance = replace(metrics.plan(recipe), metrics=(main,), in_slices=())
    models, _, _ = metrics.compare(truth, answers, chance)
    values = [model.metrics[main].value for model in models]
    sign = -1 if main in LOWER else 1
    valued = [n for n, value in enumerate(values) if value is not None]
    if not any(several[n].training for n in valued):
        raise StageError(f"{MEASURES[main].title} of no trained method could be measured on {rows.height:,} validation rows")
    best = max(valued, key=lambda n: sign * (values[n] or 0))
    # Everyone's distance to the best, on the same draws of rows.
    _, gaps, _ = metrics.compare(truth, [answers[best], *(a for n, a in enumerate(answers) if n != best)], chance)
    behind = {gap.other: gap.estimate for gap in gaps}
    tried = []
    for number, (one, model) in enumerate(zip(several, models, strict=True)):
        found, gap = model.metrics[main], behind.get(model.name)
        ahead = (gap.low, gap.high) if gap and gap.low is not None and gap.high is not None else None
        tried.append(Tried(
            trial=one, share=1.0, score=found.value, low=found.low, high=found.high, behind=ahead, latency=latency[number],
            **_cost(run, one),
        ))  # fmt: skip
    made = _proposed(run, tuple(tried), best, MEASURES[main].title, rows.height, sign)
    others = (one for one in contestants(run) if one.number in failed)
    lost = (Tried(trial=one, share=1.0, score=None, failed=failed[one.number]) for one in others)
    return made.model_copy(update={"tried": (*made.tried, *lost)})


def _answers(run: Run, one: Trial, train: Any, rows: Any) -> tuple[Answers, float]:
    """What a contestant says of the rows, and the seconds it took (a model is loaded before)."""
    recipe, base = run.recipe, run.workspace.data(run.recipe.name) / "base"
    began = time.monotonic()
    if one.baseline:
        found = baselines.ALL[one.baseline](baselines.Ask(recipe, train, rows, base, lambda done: None))
        return found, time.monotonic() - began
    made = run.trained_with(one.settings)
    candidate = read_candidate(made.candidate_folder)
    if candidate is None:
        raise StageError(f"trial {one.number} ({one.name}) is not trained; run: adaptory stage choose {recipe.name}")
    loaded = respond.load(made.candidate_folder, base, candidate)
    held = reference(made, open_store(run.workspace.store), candidate, base, loaded)
    began = time.monotonic()
    return respond.respond(str(one.number), "candidate", loaded, recipe, rows, held), time.monotonic() - began


def _failure(run: Run, one: Trial) -> str | None:
    """Why this method could not be trained, if it could not."""
    if one.training is None:
        return None
    made = run.trained_with(one.settings)
    if read_candidate(made.candidate_folder):
        return None
    found = pause.read(made, 1.0)
    return found.failed if found else None


def _cost(run: Run, one: Trial) -> dict[str, Any]:
    if one.training is None:
        return {}
    made = read_candidate(run.trained_with(one.settings).candidate_folder)
    assert made is not None
    return {"seconds": made.seconds, "flops": made.flops, "trainable": made.trainable_parameters}


def next_best(left: Sequence[Tried], *, lower: bool) -> Tried:
    """Of what trains and was not struck out: the cheapest that the best was not measurably ahead of; if none, the best of it."""
    sign = -1 if lower else 1
    equals = [one for one in left if one.behind is None or (one.behind[0] <= 0 if sign > 0 else one.behind[1] >= 0)]
    if equals:
        return min(equals, key=lambda one: (one.flops, one.trial.number))
    return max(left, key=lambda one: sign * (one.score or 0))


def _proposed(run: Run, tried: tuple[Tried, ...], best: int, measured: str, rows: int, sign: int) -> Choice:
    """The cheapest of those that the best is not measurably ahead of; something must be trained."""

    def as_good(number: int) -> bool:
        gap = tried[number].behind
        return number == best or (gap is not None and (gap[0] <= 0 if sign > 0 else gap[1] >= 0))

    equals = [number for number in range(len(tried)) if as_good(number)]
    asked = [tried[number].trial.name for number in equals if not tried[number].trial.training]
    able = [n for n in range(len(tried)) if tried[n].trial.training and tried[n].score is not None]
    trained = [number for number in equals if number in able]
    # Where asking is ahead of all that train, the best of these stands against it, and the gate will say so.
    number = min(trained, key=lambda n: (tried[n].flops, n)) if trained else max(able, key=lambda n: sign * (tried[n].score or 0))
    winner, ahead = tried[number].trial, tried[best].trial
    if not trained:
        reason = f"{winner.name}: the best that trains, but {ahead.name} is measurably ahead of it without training"
    elif number != best:
        reason = f"{winner.name}: the cheapest that {ahead.name} is not measurably ahead of"
    else:
        reason = f"{winner.name}: measurably ahead of everything cheaper" + " that trains" * bool(asked)
    if trained and asked:
        reason += f"; {' and '.join(asked)} would do without training"
    settings = winner.settings.model_copy(update={"max_rows": run.recipe.training.max_rows})
    return Choice(measured=measured, rows=rows, tried=tried, chosen=winner.number, training=settings, reason=reason)
