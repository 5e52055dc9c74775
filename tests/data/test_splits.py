"""S8 and S9 in small: a row's place depends on its document alone, and no text has two places."""

import random

from hypothesis import given
from hypothesis import strategies as st

from adaptory.data.rows import Row
from adaptory.data.splits import normalised, split_of, without_repeats
from adaptory.recipe import Split

SPLIT = Split(validation=0.1, test=0.15)
rows = st.lists(
    st.builds(
        lambda doc, n, text, label: Row(f"s:{doc}_{n}", "s", f"s:{doc}", text, label, None),
        st.integers(0, 5), st.integers(0, 3), st.sampled_from(["a", "A ", "b", "b  b", "B b", "c"]), st.sampled_from("xy"),
    ),
    max_size=30,
)  # fmt: skip


@given(rows, st.randoms())
def test_every_row_is_kept_or_repeated_in_whatever_order_they_come(given_rows: list[Row], shuffle: random.Random) -> None:
    kept, repeated = without_repeats(given_rows)
    assert len(kept) + len(repeated) == len(given_rows)
    shuffled = given_rows[:]
    shuffle.shuffle(shuffled)
    assert without_repeats(shuffled)[0] == kept


@given(rows)
def test_no_text_and_no_id_is_kept_twice(given_rows: list[Row]) -> None:
    kept, _ = without_repeats(given_rows)
    assert len({normalised(row.text) for row in kept}) == len(kept)
    assert len({row.row for row in kept}) == len(kept)


def test_repeats_say_of_what_and_whether_the_labels_agree() -> None:
    rows = [("s:1", "Fine", "x"), ("s:2", "fine ", "y"), ("s:1", "z", "x")]
    table = [Row(name, "s", name, text, label, None) for name, text, label in rows]
    reasons = [repeat.reason for repeat in without_repeats(table)[1]]
    assert reasons == ["id repeats, with another content", "text of s:1, labelled y, there x"]


@given(st.text(), st.text())
def test_a_documents_split_is_a_function_of_its_name_and_the_salt(group: str, salt: str) -> None:
    split = Split(validation=0.1, test=0.15, salt=salt)
    assert split_of(group, split) == split_of(group, split)


def test_the_shares_are_those_of_the_recipe_and_another_salt_moves_rows() -> None:
    places = [split_of(str(n), SPLIT) for n in range(20_000)]
    assert abs(places.count("test") / 20_000 - 0.15) < 0.01
    assert abs(places.count("validation") / 20_000 - 0.10) < 0.01
    others = [split_of(str(n), Split(validation=0.1, test=0.15, salt="2")) for n in range(20_000)]
    assert others != places
