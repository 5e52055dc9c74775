"""What is found about a model besides its answers: honest chances, speed, size, and what it forgot."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from adaptory import data
from adaptory.data import shards, some_rows
from adaptory.errors import RecipeError
from adaptory.evaluation import resampling, respond
from adaptory.evaluation.calibration import temperature_of
from adaptory.evaluation.kept import Beside
from adaptory.gate import Estimate
from adaptory.recipe import Data, Fields, Recipe, Split
from adaptory.training import answers
from adaptory.training.answers import reply
from adaptory.workspace import Workspace

_CALIBRATED = 1000  # validation rows
_TIMED, _WRITTEN = 31, 9  # rows answered one by one for the latency, with one to warm up; of written answers fewer


def temperature(one: respond.Loaded, recipe: Recipe, validation: Any) -> float | None:
    """What makes the model's chances honest on validation rows; None for a model without chances."""
    if one.goal.name != "classes":
        return None
    some = some_rows(validation, _CALIBRATED)
    number = {label: place for place, label in enumerate(recipe.data.classes)}
    chances = respond.respond("", "", one, recipe, some).chances
    assert chances is not None
    return temperature_of(chances, np.array([number[label] for label in some["label"]]))


def found(one: respond.Loaded, recipe: Recipe, folder: Path, test: Any) -> Beside:
    """Speed on single rows, and the size of what was trained."""
    several = _WRITTEN if recipe.task == "sft" else _TIMED
    asked = questions(one, recipe, test.head(several))
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return Beside(latency=_latency(one, recipe, asked), size=weights)


def questions(one: respond.Loaded, recipe: Recipe, table: Any) -> list[dict[str, Any]]:
    """Rows as a person would ask them: without what is to be told."""
    fields = ("text", "text_pair", "prompt", "messages") if recipe.task != "preference" else ("prompt", "chosen")
    asked = [{name: value for name, value in row.items() if name in fields} for row in table.iter_rows(named=True)]
    for row in asked:
        if "messages" in row:
            row["messages"] = json.loads(row["messages"])[:-1]
        if "chosen" in row:
            row["answer"] = row.pop("chosen")
        if one.goal.name == "dpo":
            del row["answer"]
    return asked


def told(one: respond.Loaded, recipe: Recipe, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the model says to questions, as a pulled release would."""
    return reply(one.model, one.made, one.goal, recipe.data.classes, asked, recipe.evaluation.max_new_tokens)


def example(one: respond.Loaded, recipe: Recipe, test: Any) -> tuple[dict[str, Any], ...]:
    """The first test rows with the answers a loaded release must give again."""
    asked = questions(one, recipe, test.head(3))
    return tuple({"asked": question, "told": answer} for question, answer in zip(asked, told(one, recipe, asked), strict=True))


def forgetting(one: respond.Loaded, recipe: Recipe, workspace: Workspace, base: Path) -> Estimate | None:
    """Perplexity of a language model over that of its base on the recipe's other text, texts resampled in pairs."""
    if recipe.evaluation.general is None:
        return None
    if one.made.kind == "seq2seq":
        raise RecipeError("evaluation.general is read by language models; this base is an encoder-decoder. Remove the key")
    reader = recipe.model_copy(update={"task": "text"})
    untuned = respond.untuned(base, reader)
    rows = respond.rows_of(untuned, reader, _other_text(workspace, recipe))
    (before, tokens), (after, _) = (answers.losses(model, untuned.goal, rows) for model in (untuned.model, one.model))

    def ratio(weights: Any) -> Any:
        return np.exp((weights @ (after - before)) / (weights @ tokens))

    drawn = [ratio(weights) for weights in resampling.draws(len(rows), recipe.evaluation.resamples, recipe.evaluation.seed)]
    return resampling.estimate(float(ratio(np.ones(len(rows)))), np.concatenate(drawn), recipe.evaluation.confidence)


def _other_text(workspace: Workspace, recipe: Recipe) -> Any:
    """The rows of evaluation.general, read like a source of `data`."""
    import polars

    other = recipe.evaluation.general
    assert other is not None
    made = Data(sources={"general": other.source}, fields=Fields(text=other.column), split=Split(), max_quarantine=0.5)
    reader = recipe.model_copy(update={"name": f"{recipe.name}/general", "task": "text", "data": made})
    data.fetch(workspace, reader)
    data.validate(workspace, reader)
    table = polars.read_parquet(shards.files(workspace.data(reader.name) / "valid", "rows"))
    return some_rows(table, other.rows)


def _latency(one: respond.Loaded, recipe: Recipe, asked: list[dict[str, Any]]) -> Estimate:
    """Milliseconds for a row by itself: the median, with a bootstrap interval of it."""
    told(one, recipe, asked[:1])  # the first answer pays for warming up
    took = []
    for question in asked[1:] or asked:
        began = time.perf_counter()
        told(one, recipe, [question])
        took.append(1000 * (time.perf_counter() - began))
    random = np.random.default_rng(0)
    medians = np.median(random.choice(took, size=(1000, len(took))), axis=1)
    return resampling.estimate(statistics.median(took), medians, 0.95)
