"""A candidate that goes on from another recipe's champion is not asked what that champion, or one before it, learned."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from adaptory import fingerprint, params, workspace
from adaptory.data import read_split
from adaptory.data.rows import leaks
from adaptory.data.splits import BY_PROTECTION, hashes_of
from adaptory.errors import DataError
from adaptory.evaluation.evaluate import questions
from adaptory.evaluation.slices import learned_by_start
from adaptory.profile.profile import KEPT, PRINTS
from adaptory.recipe import Task
from adaptory.registry import append
from adaptory.storage import ObjectStore, open_store
from tests.support import rows, staged, write_tsv
from tests.unit.test_ledger import record


def released(store: ObjectStore, scratch: Path, name: str, learned: Any, start: tuple[str, str] | None = None) -> str:
    """A champion that learned from rows with these texts, and went on from another; returns its release."""
    release, data = fingerprint.of_json([name, start]), fingerprint.of_json(name)
    prints = {"text": hashes_of(learned), "split": pl.Series([BY_PROTECTION.index("train")] * len(learned), dtype=pl.UInt8)}
    pl.DataFrame(prints).write_parquet(scratch / f"{name}.parquet")
    for kept in KEPT:
        held = (scratch / f"{name}.parquet").read_bytes() if kept == PRINTS else b""
        store.put(f"datasets/{name}/{fingerprint.hex_of(data)}/{kept}", held)
    card = {"start": start and start[1], "training": {"start": start and start[0]}}
    store.put(card_of(name, release), json.dumps(card).encode())
    assert append(store, record(1, None, model=name, data=data, release=release))
    return release


def card_of(name: str, release: str) -> str:
    return f"releases/{name}/{fingerprint.hex_of(release)}/candidate.json"


def run_from(place: Any, name: str, release: str, task: Task = "classification") -> Any:
    recipe = SimpleNamespace(task=task, training=SimpleNamespace(start=name))
    return SimpleNamespace(recipe=recipe, start=release, workspace=place)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


def test_rows_that_a_start_or_its_own_start_learned_are_found(tmp_path: Path, store: ObjectStore) -> None:
    place = SimpleNamespace(cache=tmp_path / "cache")
    first = released(store, tmp_path, "first", pl.Series(["Read  long ago", "never asked"]))
    second = released(store, tmp_path, "second", pl.Series(["seen yesterday"]), ("first", first))
    test = pl.DataFrame({"text": ["seen yesterday", "quite new", "read long ago"]})
    assert learned_by_start(run_from(place, "second", second), store, test).tolist() == [True, False, True]
    assert learned_by_start(run_from(place, "first", first), store, test).tolist() == [False, False, True]
    store.put(card_of("second", second), json.dumps({"start": None, "training": {}}).encode())
    assert learned_by_start(run_from(place, "second", second), store, test).tolist() == [True, False, False]
    store.put(card_of("second", second), json.dumps({"start": fingerprint.of_json("?"), "training": {"start": "else"}}).encode())
    assert learned_by_start(run_from(place, "second", second), store, test).tolist() == [True, False, False], "of another store"
    assert not learned_by_start(SimpleNamespace(**vars(run_from(place, "", "")) | {"start": None}), store, test).any()


def test_a_prompt_that_was_learned_in_a_chat_is_known_in_a_preference_and_the_other_way_round(
    tmp_path: Path, store: ObjectStore
) -> None:
    place = SimpleNamespace(cache=tmp_path / "cache")
    said = [[{"role": "user", "content": text}, {"role": "assistant", "content": "x"}] for text in ("Save", "Close")]
    chats = pl.DataFrame({"messages": [json.dumps(chat) for chat in said]})
    pairs = pl.DataFrame({"prompt": ["close", "Open"]})
    tuned = released(store, tmp_path, "tuned", leaks(chats, "sft"))
    assert learned_by_start(run_from(place, "tuned", tuned, "preference"), store, pairs).tolist() == [True, False]
    liked = released(store, tmp_path, "liked", leaks(pairs, "preference"))
    assert learned_by_start(run_from(place, "liked", liked, "sft"), store, chats).tolist() == [False, True]


def test_what_was_learned_before_is_left_out_of_the_test_and_counted(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tsv(tmp_path / "incoming" / "rows.tsv", rows(200))
    staged(tmp_path)
    place = workspace.find(tmp_path)
    recipe = params.load(place.recipes_file, "tiny")
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"start": "other"})})
    test = read_split(place, "tiny", "test")
    other = released(store, tmp_path, "other", test["text"].head(10))
    run: Any = SimpleNamespace(recipe=recipe, start=other, workspace=place)
    asked, slices, excluded = questions(run, store)
    assert excluded == 10 and asked.test["row"].to_list() == test["row"].to_list()[10:]
    assert all(len(inside) == asked.test.height for inside in slices.values())
    everything = released(store, tmp_path, "everything", test["text"])
    run.recipe, run.start = recipe.model_copy(update={"training": run_from(place, "everything", "").recipe.training}), everything
    with pytest.raises(DataError, match=r"every test row was trained on before, by what training\.start names"):
        questions(run, store)


def test_an_earlier_champions_rows_are_left_out_only_where_the_recipe_says_so(tmp_path: Path, store: ObjectStore) -> None:
    write_tsv(tmp_path / "incoming" / "rows.tsv", rows(200))
    staged(tmp_path)
    place = workspace.find(tmp_path)
    recipe = params.load(place.recipes_file, "tiny")
    test = read_split(place, "tiny", "test")
    released(store, tmp_path, "tiny", test["text"].head(10))
    run: Any = SimpleNamespace(recipe=recipe, start=None, workspace=place, dataset=SimpleNamespace(digest="another"))
    assert questions(run, store)[2] == 0
    run.recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"exclude_seen": True})})
    asked, _, excluded = questions(run, store)
    assert excluded == 10 and asked.test.height == test.height - 10
