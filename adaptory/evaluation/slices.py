"""Which test rows belong together: by source, class, length, pattern, column, and by what was learned from before."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptory.data.rows import ASKED, as_chat, asked, leaks, slice_column
from adaptory.data.splits import hashes_of
from adaptory.errors import NotFound
from adaptory.fingerprint import hex_of
from adaptory.profile import history as data_history
from adaptory.recipe import LENGTHS, NEW, SEEN, Recipe, Task
from adaptory.registry import ledger
from adaptory.run import Run
from adaptory.storage import ObjectStore

Bools = npt.NDArray[np.bool_]
_MOST = 12  # values of a column that become slices: the most frequent
_LETTERS = 40  # of a value, and none that a report, MLflow or a terminal would take for more than a letter


def slices_of(run: Run, store: ObjectStore, test: Any) -> dict[str, Bools]:
    """Every slice of these rows that has any, by name."""
    found = by_content(run.recipe, test) | _by_history(run, store, test)
    return {name: rows for name, rows in found.items() if rows.any()}


def by_content(recipe: Recipe, test: Any) -> dict[str, Bools]:
    """The slices that the rows themselves make."""
    found = {f"source={name}": (test["source"] == name).to_numpy() for name in sorted(test["source"].unique())}
    found |= {f"class={name}": (test["label"] == name).to_numpy() for name in recipe.data.classes}
    texts = asked(test, recipe.task)
    words = texts.str.count_matches(r"\S+").to_numpy()
    for name in LENGTHS:
        low, _, high = name.removeprefix("words=").partition("-")
        found[name] = (words >= int(low)) & (words <= (int(high) if high else np.inf))
    for name, pattern in recipe.evaluation.slices.items():
        compiled = re.compile(pattern)
        found[f"text={name}"] = np.array([bool(compiled.search(text)) for text in texts])
    for name in recipe.data.fields.slices:
        column = test[slice_column(name)]
        often = column.drop_nulls().value_counts(name="rows").sort("rows", column.name, descending=[True, False]).head(_MOST)
        for value in sorted(often.get_column(often.columns[0]).to_list()):
            shown = " ".join(re.sub(r"[^\w\s.,:+&/()-]", "_", str(value)).split())[:_LETTERS]
            found[f"{name}={shown}"] = (column == value).fill_null(False).to_numpy()
    return found


def _by_history(run: Run, store: ObjectStore, test: Any) -> dict[str, Bools]:
    """Which rows arrived since the champion, and which an earlier champion (or this one) was trained on."""
    name = run.recipe.name
    records = ledger.history(store, name)
    kept = {one.data: data_history.fetch(store, name, one.data, run.workspace.cache) for one in records}
    hashes = hashes_of(leaks(test, run.recipe.task))
    found = {SEEN: data_history.trained_on([folder for folder in kept.values() if folder], hashes)}
    if records and (folder := kept[records[-1].data]) and records[-1].data != run.dataset.digest:
        found[NEW] = data_history.not_in(folder, hashes)
    return found


def learned_by_start(run: Run, store: ObjectStore, test: Any) -> Bools:
    """Which rows the champion that training.start names was trained on, or one that it started from in its turn.

    Another recipe may split its rows otherwise: a candidate that goes on from there has learned some of its own test by heart.
    """
    folders = list(_data_of_starts(run, store))
    found = np.zeros(test.height, dtype=bool)
    for texts in _forms(test, run.recipe.task):
        found |= data_history.trained_on(folders, hashes_of(texts))
    return found


def _data_of_starts(run: Run, store: ObjectStore) -> Iterator[Path]:
    """What is kept of the data of every release that the candidate goes back to."""
    name, release = run.recipe.training.start, run.start
    while name and release:
        record = next((one for one in ledger.history(store, name) if one.release == release), None)
        if record is None:  # of another store
            return
        if folder := data_history.fetch(store, name, record.data, run.workspace.cache):
            yield folder
        try:
            card = json.loads(store.get(f"releases/{name}/{hex_of(release)}/candidate.json"))
        except NotFound:  # of one long gone
            return
        name, release = card["training"].get("start"), card["start"]


def _forms(test: Any, task: Task) -> list[Any]:
    """What the rows of another recipe may have of these: as this task writes it, and as a chat or a preference would."""
    also = [asked(test, task) if task == "sft" else as_chat(test, task)] if task in ASKED else []
    return [leaks(test, task), *also]
