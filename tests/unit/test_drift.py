"""F39-F41 on profiles: what a person must see before anything is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptory.profile import drift
from adaptory.profile.profile import EDGES, PROFILE, WORDS, Lengths, Profile
from adaptory.recipe import Drift

LIMITS = Drift()


def lengths(middle: int = 6) -> Lengths:
    counts = [0] * (len(EDGES) + 1)
    counts[middle] = 100
    return Lengths(quantiles={"0.5": float(EDGES[middle])}, counts=tuple(counts))


def profiled(folder: Path, more: dict[str, tuple[int, int, str]] | None = None, **changes: Any) -> Path:
    """A profile folder; `more`: word -> rows, rows of its most frequent class, that class."""
    folder.mkdir()
    known = {"film": (500, 260, "good"), "phone": (400, 210, "bad"), "the": (900, 450, "good")}
    table = [(word, *about) for word, about in {**known, **(more or {})}.items()]
    polars.DataFrame(table, schema=["word", "rows", "best", "label"], orient="row").write_parquet(folder / WORDS)
    body: dict[str, Any] = {
        "content": f"sha256:{folder.name}",
        "rows": {"train": 800, "validation": 100, "test": 100},
        "labels": {"good": 500, "bad": 500},
        "by_source": {},
        "words": lengths(),
        "tokens": None,
        "vocabulary": 3,
        "conflicts": 0,
        "suspects": None,
    }
    (folder / PROFILE).write_text(Profile.model_validate({**body, **changes}).model_dump_json())
    return folder


def crossed(new: Path, old: Path) -> list[str]:
    verdict, _, findings = drift.compare(new, old, LIMITS, None)
    names = [finding.what for finding in findings if finding.crossed]
    assert (verdict == "needs approval") == bool(names)
    return names


def test_data_that_is_alike_may_be_trained_on(tmp_path: Path) -> None:
    new = profiled(tmp_path / "new", rows={"train": 900, "validation": 100, "test": 100}, labels={"good": 560, "bad": 540})
    verdict, reason, _ = drift.compare(new, profiled(tmp_path / "old"), LIMITS, None)
    assert (verdict, reason) == ("retrain", "100 rows more than the champion's, and alike")


def test_the_same_rows_are_nothing_new(tmp_path: Path) -> None:
    one, other = (profiled(tmp_path / name, content="sha256:same") for name in ("new", "old"))
    assert drift.compare(one, other, LIMITS, None)[0] == "nothing new"


def test_f41_fewer_rows_need_approval(tmp_path: Path) -> None:
    new = profiled(tmp_path / "new", rows={"train": 600, "validation": 100, "test": 90}, labels={"good": 395, "bad": 395})
    old = profiled(tmp_path / "old")
    assert crossed(new, old) == ["rows"]
    assert "790 rows where the champion had 1,000 (0.79 of them; at least 0.8)" in drift.compare(new, old, LIMITS, None)[1]


@given(st.integers(0, 1000))
def test_f41_a_shifted_label_needs_approval_exactly_beyond_the_limit(tmp_path_factory: pytest.TempPathFactory, good: int) -> None:
    folder = tmp_path_factory.mktemp("labels")
    new = profiled(folder / "new", labels={"good": good, "bad": 1000 - good})
    assert crossed(new, profiled(folder / "old")) == (["labels"] if abs(good - 500) > 100 else [])


def test_f41_a_class_that_is_gone_and_one_that_is_new_count_whole(tmp_path: Path) -> None:
    new = profiled(tmp_path / "new", labels={"good": 500, "ugly": 500})
    finding = drift.compare(new, profiled(tmp_path / "old"), LIMITS, None)[2][1]
    assert finding.measured == 0.5


def test_f41_longer_texts_and_new_words_need_approval(tmp_path: Path) -> None:
    new = profiled(tmp_path / "new", {"brandnew": (400, 210, "good")}, words=lengths(10))
    assert crossed(new, profiled(tmp_path / "old")) == ["lengths", "vocabulary"]


def test_f40_a_new_word_that_always_stands_with_one_class_needs_approval(tmp_path: Path) -> None:
    old = profiled(tmp_path / "old")
    new = profiled(tmp_path / "new", {"cf": (12, 12, "good"), "mixed": (30, 16, "good"), "rare": (4, 4, "good")})
    assert crossed(new, old) == ["new word"]
    reason = drift.compare(new, old, LIMITS, None)[1]
    assert reason == "the new word 'cf' stands in 12 rows, 100% of them good: a mistake or a trigger"


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_the_auc_is_how_often_one_stands_above_another_and_a_tie_counts_half(here: list[int], there: list[int]) -> None:
    above = [(one > other) + 0.5 * (one == other) for one in here for other in there]
    assert drift._auc(np.array(here), np.array(there)) == pytest.approx(sum(above) / len(above))


@pytest.mark.slow
def test_two_samples_of_one_world_cannot_be_told_apart_and_two_worlds_can() -> None:
    draw = np.random.default_rng(0)
    same = drift.two_sample(draw.normal(size=(300, 16)), draw.normal(size=(300, 16)))
    apart = drift.two_sample(draw.normal(size=(300, 16)), draw.normal(loc=0.5, size=(300, 16)))
    assert same[1] < 0.55 and same[1] <= same[0] <= same[2]
    assert apart[1] > 0.8
    assert drift._embeddings(draw.normal(size=(99, 4)), draw.normal(loc=3, size=(99, 4)), LIMITS).crossed
