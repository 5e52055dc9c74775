"""The batch plan is a pure function that loses no row and wastes little on padding; schedules waste no step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptory.training import tree
from adaptory.training.batches import plan, sorted_batches
from adaptory.training.schedules import rate

lengths = st.lists(st.integers(1, 200), min_size=1, max_size=300)


@given(lengths, st.integers(1, 64), st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_an_epoch_holds_every_row_once_and_is_the_same_each_time(
    lengths: list[int], rows: int, seed: int, epoch: int, alike: bool
) -> None:
    batches = plan(lengths, rows, seed, epoch, alike=alike)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(0 < len(batch) <= rows for batch in batches)
    assert batches == plan(lengths, rows, seed, epoch, alike=alike)


@given(lengths, st.integers(1, 4000))
def test_scoring_batches_hold_every_row_once_longest_first_within_the_budget(lengths: list[int], tokens: int) -> None:
    batches = sorted_batches(lengths, tokens)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    longest = [lengths[batch[0]] for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(len(batch) == 1 or len(batch) * lengths[batch[0]] <= tokens for batch in batches)


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 300)), min_size=1, max_size=100), st.integers(0, 9000))
def test_rows_that_attend_together_are_of_similar_length(sizes: list[tuple[int, int]], spare: int) -> None:
    """Each of so many tokens, which attend to themselves and to what stands before them."""
    lengths, seen = [own for own, _ in sizes], [own + before for own, before in sizes]
    groups = tree._alike_in_length(range(len(sizes)), lengths, seen, spare)
    assert sorted(number for group in groups for number in group) == list(range(len(sizes)))
    for group in groups:
        padded = len(group) * max(lengths[number] for number in group) * max(seen[number] for number in group)
        assert padded - sum(lengths[number] * seen[number] for number in group) <= spare
    longest = [max(lengths[number] for number in group) for group in groups]
    assert longest == sorted(longest, reverse=True)


def test_epochs_and_seeds_differ() -> None:
    rows = list(range(1, 500))
    assert plan(rows, 8, 0, 0) != plan(rows, 8, 0, 1)
    assert plan(rows, 8, 0, 0) != plan(rows, 8, 1, 0)


def test_windows_that_need_not_be_alike_hold_long_and_short_rows() -> None:
    rows = [1 + number % 100 for number in range(1600)]
    means = [np.mean([rows[row] for row in window]) for window in plan(rows, 16, 0, 0, alike=False)]
    assert max(means) < 80 and min(means) > 25
    assert max(np.mean([rows[row] for row in window]) for window in plan(rows, 16, 0, 0)) > 95


def test_padding_stays_below_five_percent_of_the_tokens_where_random_batches_waste_half() -> None:
    sizes = np.random.default_rng(0).lognormal(3, 0.6, 20_000).astype(int) + 1

    def padded(batches: list[list[int]]) -> float:
        return sum(len(b) * max(sizes[i] for i in b) for b in batches) / sizes.sum()

    assert padded(plan(sizes.tolist(), 32, 0, 0)) < 1.05
    order = np.random.default_rng(1).permutation(len(sizes)).tolist()
    assert padded([order[i : i + 32] for i in range(0, len(order), 32)]) > 2


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "inverse_sqrt"])
@given(steps=st.integers(1, 500), share=st.floats(0, 0.99))
def test_no_step_is_trained_at_rate_zero_and_the_peak_is_reached(schedule: str, steps: int, share: float) -> None:
    warmup = min(int(share * steps), steps - 1)
    rates = [rate(step, steps, warmup, schedule) for step in range(steps)]
    assert all(0 < value <= 1 for value in rates)
    assert rates[warmup] == 1
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_schedules_have_the_values_of_their_names() -> None:
    assert [rate(step, 4, 0, "linear") for step in range(4)] == [1, 0.75, 0.5, 0.25]
    assert rate(2, 4, 0, "cosine") == pytest.approx(0.5)
    assert [rate(step, 4, 1, "constant") for step in range(4)] == [0.5, 1, 1, 1]
