"""A loaded model's answers to the test rows, whatever the task: the one place where models meet rows."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adaptory.errors import DataError
from adaptory.evaluation.scores import Answers, from_chances
from adaptory.recipe import Recipe
from adaptory.training import adapter, answers, network, objectives, render
from adaptory.training.candidate import Candidate
from adaptory.training.certificate import certify, rendered_with
from adaptory.training.objectives import Objective
from adaptory.training.render import Example, Renderer

_WHOLE = 32_768  # tokens: rows are judged whole, however training cut them


@dataclass(frozen=True)
class Loaded:
    """A model that can answer."""

    model: Any
    made: Renderer
    goal: Objective


def load(folder: Path, base: Path, candidate: Candidate, *, certified: bool = False) -> Loaded:
    """A candidate or a champion, merged where that computes faster; first certified against what training saw."""
    settings, classes = candidate.training, candidate.classes
    made = rendered_with(folder, base, candidate)
    goal = objectives.to_answer(candidate.objective, settings, made, candidate.centre, candidate.spread)
    model = adapter.load(folder, base, candidate.base_digest, candidate.task, settings, classes)
    if certified:
        certify(folder, candidate, goal, model)
    return Loaded(adapter.merged(model, settings), made, goal)


def untuned(base: Path, recipe: Recipe) -> Loaded:
    """The base as it comes, for tasks that need no new head."""
    settings = recipe.training
    if recipe.task == "preference":  # what it would rather have said itself
        settings = settings.model_copy(update={"objective": "dpo"})
    made = render.renderer(base, recipe.task, settings, network.config_of(base))
    name = "dpo" if recipe.task == "preference" else "masked" if recipe.task == "text" and made.kind == "encoder" else "tokens"
    model = network.load_base(base, recipe.task, settings, (), seed=0).eval().to(network.device())
    return Loaded(model, made, objectives.to_answer(name, settings, made))


def respond(
    name: str, kind: str, one: Loaded, recipe: Recipe, table: Any, reference: Loaded | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Answers:  # fmt: skip
    """The answers of a model to the rows of a table."""
    if recipe.task == "sft":
        prompts = [one.made.prompt(json.loads(chat)[:-1]) for chat in table["messages"]]
        return written(name, kind, one, prompts, recipe, tell)
    rows = rows_of(one, recipe, table)
    if recipe.task == "text":
        # Everyone is asked to guess the same tokens, whatever was hidden in its own training.
        asked = {"seed": recipe.training.seed, "masked": recipe.training.masked}
        one = replace(one, goal=replace(one.goal, settings=one.goal.settings.model_copy(update=asked)))
        return _likelihood(name, kind, one, rows, list(table["row"]))
    if one.goal.name == "classes":
        return from_chances(name, kind, answers.chances(one.model, one.goal, rows))
    if one.goal.name == "value":
        score = answers.outputs(one.model, one.goal, rows)[:, 0] * one.goal.spread + one.goal.centre
        return Answers(name, kind, score=score)
    better, worse = answers.pairs(one.model, one.goal, rows)
    if reference:
        first, second = answers.pairs(reference.model, reference.goal, rows)
        better, worse = better - first, worse - second
    return Answers(name, kind, score=better - worse)


def written(
    name: str, kind: str, one: Loaded, prompts: Sequence[list[int]], recipe: Recipe, tell: Callable[[int], None]
) -> Answers:
    """The answers that a model writes to these prompts."""
    longest, precision = recipe.evaluation.max_new_tokens, one.goal.settings.precision
    texts, stopped = answers.generate(one.model, one.made, prompts, longest, tell, precision=precision)
    return Answers(name, kind, texts=tuple(texts), stopped=np.array(stopped))


def rows_of(one: Loaded, recipe: Recipe, table: Any) -> list[Example]:
    """The rows as this model reads them; of classes and values cut as in its training, of pairs whole, of running texts as this
    recipe cuts them: whoever sees more before a token guesses it more easily."""
    most = network.positions(one.model) or _WHOLE
    sizes = {"preference": _WHOLE, "text": recipe.training.max_tokens}
    made = replace(one.made, max_tokens=min(most, sizes[recipe.task])) if recipe.task in sizes else one.made
    loose = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_quarantine": 1.0})})
    found, left = render.examples(made, loose, table)
    if left and recipe.task != "text":
        raise DataError(f"test row {left[0].where} cannot be judged: {left[0].reason}; mend or remove it")
    return found


def _likelihood(name: str, kind: str, one: Loaded, rows: list[Example], names: list[str]) -> Answers:
    """A long text is several examples; their losses add up."""
    loss, tokens = answers.losses(one.model, one.goal, rows)
    place = {row: number for number, row in enumerate(names)}
    owner = np.array([place[row.row] for row in rows])
    both = np.zeros((2, len(names)))
    for line, sums in zip(both, (loss, tokens), strict=True):
        np.add.at(line, owner, sums)
    return Answers(name, kind, loss=both[0], tokens=both[1])
