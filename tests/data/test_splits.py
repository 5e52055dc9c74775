"""S9 in small: a row's place depends on its document alone; texts and near-copies of them have one place."""

import random
from typing import Any

import numpy as np
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptory.data import copies, near
from adaptory.data.splits import BY_PROTECTION, normalised, ranks_of
from adaptory.recipe import Split

SPLIT = Split(validation=0.1, test=0.15)


def splits_of(groups: list[str], split: Split = SPLIT) -> list[str]:
    return [BY_PROTECTION[rank] for rank in ranks_of(polars.Series(groups, dtype=polars.String), split)]


@given(st.lists(st.text(), unique=True, max_size=20), st.text())
def test_a_documents_split_is_a_function_of_its_name_and_the_salt(groups: list[str], salt: str) -> None:
    split = Split(validation=0.1, test=0.15, salt=salt)
    assert [splits_of([group], split)[0] for group in groups] == splits_of(groups, split)


def test_the_split_of_a_document_is_the_same_on_every_machine_and_in_every_version() -> None:
    groups = [f"tweets:{number}" for number in range(40)]
    assert "".join(name[0:2] for name in splits_of(groups)[:20]) == GOLDEN


GOLDEN = "trtrtetrtrtrtrtrtrtrtrtrtrtrtrvatrtrtrtr"


def test_the_shares_are_those_of_the_recipe_and_another_salt_moves_rows() -> None:
    groups = [str(n) for n in range(20_000)]
    places = splits_of(groups)
    assert abs(places.count("test") / 20_000 - 0.15) < 0.01
    assert abs(places.count("validation") / 20_000 - 0.10) < 0.01
    assert splits_of(groups, Split(validation=0.1, test=0.15, salt="2")) != places


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("A\t b\u00a0C\n", "a b c"),
        ("ﬁne Ⅷ", "fine viii"),
        ("ÉCOLE", "école"),
        (" plain  Text ", "plain text"),
        ("", ""),
        ("x", "x"),
    ],
)
def test_the_normal_form_knows_no_case_space_or_compatibility_letters(text: str, form: str) -> None:
    assert normalised(polars.Series([text])).to_list() == [form]


@given(st.lists(st.text(max_size=12), max_size=12))
def test_the_normal_form_of_a_text_does_not_depend_on_its_neighbours(texts: list[str]) -> None:
    alone = [normalised(polars.Series([text], dtype=polars.String))[0] for text in texts]
    assert normalised(polars.Series(texts, dtype=polars.String)).to_list() == alone


def table(made: list[tuple[str, str, str, str]]) -> tuple[Any, Any]:
    """Keys for `copies` from (name, split, text, label)."""
    named = polars.DataFrame(
        made, schema=dict.fromkeys(["row", "split", "text", "label"], polars.String), orient="row"
    ).with_row_index("index")
    keys = named.select(
        "index",
        polars.col("split")
        .replace_strict({name: rank for rank, name in enumerate(BY_PROTECTION)}, return_dtype=polars.UInt8)
        .alias("rank"),
        polars.col("row").hash().alias("id"),
        polars.struct("text", "label").hash().alias("body"),
        polars.col("text").hash().alias("content"),
        polars.col("text").hash().alias("leak"),
    )
    return keys, named


def aside(made: list[tuple[str, str, str, str]]) -> dict[int, str]:
    keys, named = table(made)
    found = copies.repeated(
        keys, lambda indices: named.filter(polars.col("index").is_in(indices.implode())).select("index", "row", "label")
    )
    return dict(found.iter_rows())


ROWS = st.lists(
    st.tuples(st.sampled_from(["s:1", "s:2", "s:3", "s:4", "s:5"]), st.sampled_from("abc"), st.sampled_from("xy")), max_size=12
).map(lambda made: [(name, BY_PROTECTION[int(name[2]) % 3], text, label) for name, text, label in made])


@pytest.mark.slow
@given(ROWS, st.randoms())
def test_what_stays_does_not_depend_on_the_order_of_the_rows(
    made: list[tuple[str, str, str, str]], shuffle: random.Random
) -> None:
    stays = {made[i] for i in range(len(made)) if i not in aside(made)}
    assert len(stays) == len(made) - len(aside(made)), "nothing is set aside twice, and nothing stays twice"
    shuffled = made[:]
    shuffle.shuffle(shuffled)
    gone = aside(shuffled)
    assert {shuffled[i] for i in range(len(made)) if i not in gone} == stays
    assert len({text for _, _, text, _ in stays}) == len(stays), "no text stays twice"
    assert len({name for name, *_ in stays}) == len(stays), "no id stays twice"


def test_of_equal_texts_the_one_in_the_most_protected_split_stays() -> None:
    made = [("s:0", "train", "t", "x"), ("s:2", "test", "t", "y"), ("s:3", "validation", "t", "x"), ("s:1", "test", "t", "y")]
    told = "text of s:1, labelled x, there y"
    assert aside(made) == {0: told, 1: "text of s:1, same label", 2: told}


def test_one_id_with_two_contents_leaves_neither_and_the_same_row_twice_leaves_one() -> None:
    made = [("s:1", "train", "a", "x"), ("s:1", "train", "b", "x"), ("s:2", "train", "c", "x"), ("s:2", "train", "c", "x")]
    assert aside(made) == {
        0: "id repeats, with another content", 1: "id repeats, with another content", 3: "id repeats, same row",
    }  # fmt: skip


def near_rows(folder: Any, texts: list[str], splits: list[str], limit: float = 0.8) -> dict[int, str]:
    signatures = near.Signatures(folder)
    forms = normalised(polars.Series(texts, dtype=polars.String))
    signatures.add(near.signed(forms))
    ranks = np.array([BY_PROTECTION.index(name) for name in splits], dtype=np.uint8)
    found = near.across_splits(signatures, ranks, limit, lambda indices: {int(i): (f"s:{i}", forms[int(i)]) for i in indices})
    return dict(found.iter_rows())


def test_a_near_copy_is_set_aside_where_it_is_less_protected(tmp_path: Any) -> None:
    text = "the quick brown fox jumps over the lazy dog near the river bank today"
    texts = [
        text,
        text.upper() + "!!",
        f"{text} https://t.co/xyz",
        text.replace("quick", "slow"),
        "something else entirely",
        ":)",
        ":)",
    ]
    splits = ["test", "train", "validation", "train", "train", "test", "train"]
    assert near_rows(tmp_path, texts, splits) == {
        1: "near copy of s:0 in test", 2: "near copy of s:0 in test", 3: "near copy of s:0 in test",
    }  # fmt: skip


def test_near_copies_in_one_split_stay(tmp_path: Any) -> None:
    assert near_rows(tmp_path, ["a b c d e f g", "a b c d e f g h"], ["train", "train"]) == {}


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    assert near.share(near.words("これはとても良い映画です"), near.words("これはとても良い映画でした")) == 11 / 14


@pytest.mark.slow
@given(
    st.lists(st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=9).map(" ".join), min_size=2, max_size=25), st.data()
)
def test_every_pair_that_shares_enough_words_across_splits_is_found(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], draw: st.DataObject
) -> None:
    splits = draw.draw(st.lists(st.sampled_from(BY_PROTECTION), min_size=len(texts), max_size=len(texts)))
    found = near_rows(tmp_path_factory.mktemp("near"), texts, splits)
    ranks = [BY_PROTECTION.index(name) for name in splits]
    sets = [near.words(text) for text in texts]
    expected = {
        i
        for i in range(len(texts))
        if any(ranks[j] < ranks[i] and near.share(sets[i], sets[j]) >= 0.8 for j in range(len(texts)))
    }
    assert set(found) == expected
