"""Who is asked again: whatever an answer depends on is in its key, and nothing else; slices hold no more than letters."""

import json
from typing import Any

import polars as pl
import pytest

from adaptory.evaluation import contestants, slices, tables
from adaptory.evaluation.contestants import Rows
from adaptory.gate import Difference, Evidence, ModelScores
from adaptory.recipe import Recipe
from adaptory.training import Candidate
from adaptory.training.candidate import Candidate as Card
from tests.promotions import Judged
from tests.support import tiny_recipe
from tests.unit.test_gate import around, evidence, scores


def table(*texts: str, value: str = "a") -> pl.DataFrame:
    rows = [
        {"row": f"s:{n}", "source": "notes", "file": "f", "line": n, "group": None, "text": text, "label": "neutral",
         "value": 0.0, "slice region": value}
        for n, text in enumerate(texts)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"group": pl.String})


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({"name": "tiny", **tiny_recipe(**changes)})


@pytest.fixture
def card(tmp_path: Any) -> Candidate:
    return Judged(tmp_path, 1, None).candidate


def key(card: Card, made: Recipe | None = None, name: str = "champion", rows: Rows | None = None) -> str:
    rows = rows or Rows.of(table("x"), table("v"), table("one", "two"))
    depends = contestants._depends(made or recipe(), card, name, rows)
    return contestants.Contestant(name, name, "", card.digest, depends, lambda: None).keys(rows)[0]


@pytest.mark.parametrize(
    "change",
    [{"digest": "other"}, {"base_digest": "other"}, {"rendering": "other"}, {"start": "other"}, {"classes": ("a", "b")}],
)
def test_another_model_is_asked(card: Candidate, change: dict[str, Any]) -> None:
    assert key(card.model_copy(update=change)) != key(card)


def test_other_rows_are_asked_and_other_validation_rows_calibrate_anew(card: Candidate) -> None:
    train, held, test = table("x"), table("v"), table("one", "two")
    first = key(card, rows=Rows.of(train, held, test))
    assert key(card, rows=Rows.of(table("y"), held, test)) == first, "what was learned from is in the adapter already"
    assert key(card, rows=Rows.of(train, held, table("one", "three"))) != first
    assert key(card, rows=Rows.of(train, table("w"), test)) != first
    moved = test.with_columns(file=pl.lit("elsewhere"), line=pl.col("line") + 7)
    assert key(card, rows=Rows.of(train, held, moved)) == first, "the same rows from another file"


def test_the_candidate_is_asked_more_than_a_champion_with_the_same_adapter(card: Candidate) -> None:
    assert key(card, name="candidate") != key(card, name="champion") == key(card, name="seed_1")


def test_another_gate_asks_nobody(card: Candidate) -> None:
    other = recipe(**{"gate.criteria": [{"kind": "floor", "metric": "accuracy", "direction": "higher", "limit": 0.1}]})
    assert key(card, other) == key(card)
    longer = recipe(**{"evaluation.max_new_tokens": 7})
    assert key(card, longer) != key(card)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("R&D", "region=R&D"),
        ("a|b\n# c", "region=a_b _ c"),
        ("![x](http://e/t.png)", "region=__x_(http://e/t.png)"),
        ("é" * 60, "region=" + "é" * 40),
    ],
)
def test_a_slice_is_named_in_letters_whatever_its_column_holds(value: str, shown: str) -> None:
    made = recipe(**{"data.fields.slices": {"region": "region"}})
    found = slices.by_content(made, table("one", "two", value=value))
    assert shown in found and found[shown].all()
    assert found["words=1-8"].all() and not found["words=9-16"].any() and found["class=neutral"].all()


def test_slices_of_chats_are_found_in_what_is_asked() -> None:
    fields = {"prompt": "q", "response": "a"}
    gate = [{"kind": "floor", "metric": "chrf", "direction": "higher", "limit": 1}]
    more = {"evaluation.slices": {"saving": "^Save"}, "evaluation.baselines": [], "gate.criteria": gate}
    made = recipe(task="sft", **{"data.fields": fields} | more)
    chats = [[{"role": "system", "content": "a " * 20}, {"role": "user", "content": said}, {"role": "assistant", "content": "x"}]
             for said in ("Save the file", "Do not")]  # fmt: skip
    rows = table("one", "two").with_columns(messages=pl.Series([json.dumps(chat) for chat in chats]))
    found = slices.by_content(made, rows)
    assert found["text=saving"].tolist() == [True, False] and found["words=1-8"].all()


def test_the_table_of_slices_compares_with_the_champion_also_where_seeds_stand_before_it() -> None:
    where = {"source=a": {"macro_f1": around(0.7)}}
    models = [
        scores("candidate", "candidate", around(0.7)),
        scores("seed_1", "repeat", around(0.6)),
        scores("champion", "champion", around(0.5)),
    ]
    models = [model.model_copy(update={"slices": where}) for model in models]
    gaps = [
        Difference(other=name, metric="macro_f1", estimate=around(gain), slice="source=a")
        for name, gain in (("seed_1", 0.3), ("champion", 0.1))
    ]
    made: Evidence = evidence(
        around(0.7), over_champion=around(0.1), models=tuple(models), differences=tuple(gaps), slice_rows={"source=a": 90}
    )
    told = tables.slices(made)
    assert "difference to champion v1" in told and "+0.100" in told and "+0.300" not in told
    assert isinstance(models[0], ModelScores)
