"""Which rows a training learns from: some sources, at most so many rows, always the same ones."""

from pathlib import Path
from typing import Any

import pytest

from adaptory import params, workspace
from adaptory.data import some_rows
from adaptory.errors import DataError
from adaptory.run import Run
from adaptory.training.setup import rows_of
from tests.support import rows, staged, write_recipe, write_tsv

FORMAT = {"format": "tsv", "columns": ["id", "rating", "text"]}
SOURCES = {name: {"uri": f"./incoming/{name}.tsv", **FORMAT} for name in ("films", "tweets")}


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    table = rows(400)
    write_tsv(tmp_path / "incoming" / "films.tsv", table[:300])
    write_tsv(tmp_path / "incoming" / "tweets.tsv", table[300:])
    staged(tmp_path, **{"data.sources": SOURCES})
    return tmp_path


def learned(folder: Path, split: str = "train", **training: Any) -> Any:
    changes = {f"training.{name}": value for name, value in training.items()}
    write_recipe(folder, **{"data.sources": SOURCES, **changes})
    place = workspace.find(folder)
    return rows_of(Run(place, params.load(place.recipes_file, "tiny"), None), split)


def test_only_the_named_sources_are_learned_from_and_validated_on(prepared: Path) -> None:
    assert set(learned(prepared)["source"]) == {"films", "tweets"}
    for split in ("train", "validation"):
        assert set(learned(prepared, split, sources=["tweets"])["source"]) == {"tweets"}


def test_a_smaller_part_lies_within_a_larger_one_and_is_the_same_every_time(prepared: Path) -> None:
    large, small = (set(learned(prepared, sources=["films"], max_rows=most)["row"]) for most in (40, 15))
    assert len(large) == 40 and len(small) == 15 and small < large
    assert set(learned(prepared, sources=["films"], max_rows=15)["row"]) == small
    assert learned(prepared, max_rows=10_000).height == learned(prepared).height


def test_a_source_without_rows_in_a_split_is_told(prepared: Path) -> None:
    sources = SOURCES | {"tweets": SOURCES["tweets"] | {"split": "test"}}
    staged(prepared, **{"data.sources": sources})
    with pytest.raises(DataError, match=r"split 'train' has no row of training\.sources \(tweets\); name others"):
        learned(prepared, sources=["tweets"])


def test_which_rows_are_taken_does_not_depend_on_their_order_and_hardly_on_new_ones(prepared: Path) -> None:
    table = learned(prepared)
    before = set(some_rows(table, 40)["row"])
    assert set(some_rows(table.reverse(), 40)["row"]) == before
    fewer = table.filter(~table["row"].is_in(list(table["row"])[:20]))
    assert before - set(table["row"].head(20)) <= set(some_rows(fewer, 40)["row"]), "who was taken stays"
