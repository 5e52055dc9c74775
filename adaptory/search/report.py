"""The search as a table: what was tried, how good it was, what it cost."""

from typing import TYPE_CHECKING, Any

from adaptory.search.choice import Choice, Tried, read

if TYPE_CHECKING:  # a run reads its choice
    from adaptory.run import Run


def table(choice: Choice) -> list[dict[str, Any]]:
    """A row for each trial, as a person reads it."""
    weighed = any(one.latency is not None for one in choice.tried)
    return [_weighed(choice, one) if weighed else _halved(choice, one) for one in choice.tried]


def markdown(choice: Choice) -> str:
    """The table and the choice, for the report."""
    rows = table(choice)
    head = [f"| {' | '.join(rows[0])} |", "|---|" + "---:|" * (len(rows[0]) - 1)]
    lines = [f"| {' | '.join(str(cell) for cell in row.values())} |" for row in rows]
    return "\n".join([*head, *lines]) + f"\n\nOn {choice.rows:,} validation rows. Chosen: {choice.reason}."


def device_seconds(run: "Run") -> float:
    """What other trials and other seeds took besides the candidate, of a device."""
    from adaptory.training.candidate import read as trained

    made = read(run.search_folder) if run.recipe.chooses else None
    # After a search the candidate goes on from its trial; after a comparison of methods it begins anew.
    lost = [one for one in made.tried if not (run.recipe.search and one.trial.number == made.chosen)] if made else []
    seeds = [card for again in run.repeats() if (card := trained(again.candidate_folder))]
    return sum(one.seconds for one in lost) + sum(card.seconds * card.processes for card in seeds)


def _weighed(choice: Choice, one: Tried) -> dict[str, Any]:
    trained = one.trial.training is not None
    row = {
        "method": _bold(choice, one),
        choice.measured: _interval(one.score, one.low, one.high),
        "the best is ahead by": _interval(None, *one.behind) if one.behind else "–",
        "trained parameters": f"{one.trainable:,}" if trained else "–",
        "training": f"{one.seconds:,.0f} s" if trained and not one.failed else "–",
        "TFLOP": f"{one.flops / 1e12:,.1f}" if trained and not one.failed else "–",
        "answer": f"{one.latency:,.1f} ms" if one.latency is not None else "–",
    }
    return row | {"why it failed": one.failed or ""} if any(other.failed for other in choice.tried) else row


def _halved(choice: Choice, one: Tried) -> dict[str, Any]:
    row = {
        "trial": _bold(choice, one),
        "trained": f"{one.share:.0%}",
        choice.measured: f"{one.score:.4f}" if one.score is not None else "failed",
        "training": f"{one.seconds:,.0f} s",
        "TFLOP": f"{one.flops / 1e12:,.1f}",
    }
    return row | {"why it failed": one.failed or ""} if any(other.failed for other in choice.tried) else row


def _bold(choice: Choice, one: Tried) -> str:
    name = f"{one.trial.number}: {one.trial.name}"
    return f"**{name}**" if one.trial.number == choice.chosen else name


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "–"
    form = ".1f" if max(abs(low), abs(high)) >= 10 else ".3f"
    return f"[{low:{form}}, {high:{form}}]" if value is None else f"{value:{form}} [{low:{form}}, {high:{form}}]"
