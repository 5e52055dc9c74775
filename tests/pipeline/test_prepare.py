"""The DVC stages as a person runs them: only what changed runs again, and the history of trainings is known."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from adaptory import params, run, workspace
from adaptory.data import dataset_version, keep, prepare, read_split
from adaptory.evaluation.slices import slices_of
from adaptory.profile import history
from adaptory.recipe import NEW, SEEN
from adaptory.registry import append
from adaptory.storage import open_store
from tests.pipeline.conftest import run as adaptory
from tests.support import checkout, rows, write_recipe, write_tsv
from tests.unit.test_ledger import record

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that was prepared once."""
    made = checkout(tmp_path_factory.mktemp("prepare") / "checkout")
    adaptory(made, "prepare", "tiny")
    return made


def stages_of(folder: Path) -> list[str]:
    """Which stages the next `prepare` runs."""
    notes = folder / ".adaptory" / "stages.jsonl"
    before = len(notes.read_text().splitlines())
    adaptory(folder, "prepare", "tiny")
    return [json.loads(line)["stage"] for line in notes.read_text().splitlines()[before:]]


def test_only_what_changed_runs_again(folder: Path) -> None:
    assert stages_of(folder) == []
    write_recipe(folder, **{"data.split.salt": "2"})
    assert stages_of(folder) == ["split", "profile"]
    write_recipe(folder, **{"data.split.salt": "2", "training.epochs": 1, "data.drift.rows": 0.5})
    assert stages_of(folder) == []
    write_recipe(folder, **{"data.split.salt": "2", "data.max_quarantine": 0.02})
    assert stages_of(folder) == ["validate"], "its output is the same, so nothing after it runs"
    write_tsv(folder / "incoming" / "rows.tsv", rows(410))
    assert stages_of(folder) == ["fetch", "validate", "split", "profile"]
    write_recipe(folder)
    write_tsv(folder / "incoming" / "rows.tsv", rows(400))
    assert stages_of(folder) == ["fetch", "validate", "split", "profile"]


def test_a_source_that_becomes_a_test_set_leaves_the_training_rows(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    write_tsv(copy / "incoming" / "held.tsv", [(f"9{key}", rating, f"{text} held") for key, rating, text in rows(60, seed=5)])
    columns = {"format": "tsv", "columns": ["id", "rating", "text"]}
    sources = {"notes": {"uri": "./incoming/rows.tsv", **columns}, "held": {"uri": "./incoming/held.tsv", **columns}}
    write_recipe(copy, **{"data.sources": sources})
    adaptory(copy, "prepare", "tiny")
    place = workspace.find(copy)
    assert "held" in read_split(place, "tiny", "train")["source"].to_list()
    sources["held"]["split"] = "test"
    write_recipe(copy, **{"data.sources": sources})
    adaptory(copy, "prepare", "tiny")
    assert "held" not in read_split(place, "tiny", "train")["source"].to_list()
    assert read_split(place, "tiny", "test")["source"].to_list().count("held") == 60


def test_force_brings_what_was_fetched_and_damaged_again(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    raw, given = copy / "data" / "tiny" / "raw" / "notes" / "rows.tsv", copy / "incoming" / "rows.tsv"
    raw.unlink()
    raw.write_bytes(given.read_bytes().replace(b"2.0", b"1.9"))
    adaptory(copy, "prepare", "tiny", "--force")
    assert raw.read_bytes() == given.read_bytes()


def test_what_the_remote_lost_is_put_back_when_there_is_work_to_do_and_not_looked_for_otherwise(folder: Path) -> None:
    place = workspace.find(folder)
    recipe = params.load(place.recipes_file, "tiny")
    remote = folder / ".adaptory" / "dvc-remote"
    assert any(remote.rglob("*")), "prepared, so it was pushed"
    shutil.rmtree(remote)
    prepare(place, recipe)
    assert not remote.exists(), "nothing changed, so nothing is said to the remote"
    keep(place, recipe)
    assert any(path.is_file() for path in remote.rglob("*"))


def test_while_dvc_rewrites_its_lock_the_dataset_is_the_one_that_was_prepared(folder: Path) -> None:
    """DVC writes dvc.lock in place, for any recipe: another recipe's stage may meet half of it."""
    place, lock = workspace.find(folder), folder / "dvc.lock"
    before, whole = dataset_version(place, "tiny"), lock.read_bytes()
    lock.write_bytes(whole[: len(whole) // 3])
    try:
        assert dataset_version(place, "tiny") == before
        assert set(before.dvc) == {f"{stage}@tiny" for stage in ("fetch", "validate", "split", "base", "profile")}
    finally:
        lock.write_bytes(whole)


def test_what_a_champion_was_trained_on_is_marked_when_it_turns_up_in_an_evaluation(folder: Path) -> None:
    place = workspace.find(folder)
    store = open_store(place.store)
    first = run.current(place, "tiny")
    trained = set(read_split(place, "tiny", "train")["text"])
    there = {text for split in ("train", "validation", "test") for text in read_split(place, "tiny", split)["text"]}
    assert SEEN not in slices_of(first, store, read_split(place, "tiny", "test")), "no champion, no history"
    history.keep(store, "tiny", first.dataset, place.data("tiny") / "profile")
    assert append(store, record(1, None, data=first.dataset.digest))
    write_recipe(folder, **{"data.split.salt": "another"})
    write_tsv(folder / "incoming" / "rows.tsv", rows(440))
    adaptory(folder, "prepare", "tiny")
    second = run.current(place, "tiny")
    test = read_split(place, "tiny", "test")
    marks = slices_of(second, store, test)
    assert marks[SEEN].tolist() == [text in trained for text in test["text"]]
    assert marks[NEW].tolist() == [text not in there for text in test["text"]]
    assert 0 < np.count_nonzero(marks[SEEN]) < len(test)
    assert np.count_nonzero(marks[NEW])
    assert params.load(place.recipes_file, "tiny").evaluation.exclude_seen is False
