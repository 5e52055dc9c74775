"""Rows that the candidate answers better than its rival, and rows that it answers worse."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptory.evaluation.data_report import shown
from adaptory.evaluation.measures import credit
from adaptory.evaluation.scores import SCORES, Answers, Truth, read
from adaptory.evaluation.tables import rival, table, title
from adaptory.gate import Evidence

SHOWN = 20  # each way


@dataclass(frozen=True)
class Flip:
    """One row that two models answer differently well."""

    row: str
    asked: str
    right: str
    before: str
    now: str


def flips(folder: Path, evidence: Evidence, classes: tuple[str, ...]) -> tuple[list[Flip], list[Flip]]:
    """The rows that got better and those that got worse, against the champion or else the best baseline; the most so first."""
    other = rival(evidence)
    if other is None:
        return [], []
    truth, answers = read(folder / SCORES, classes, {})
    mine = next(one for one in answers if one.kind == "candidate")
    theirs = next(one for one in answers if one.name == other.name)
    gained = credit(truth, mine) - credit(truth, theirs)
    order = np.argsort(-gained, kind="stable")
    better = [place for place in order if gained[place] > 0]
    worse = [place for place in order[::-1] if gained[place] < 0]
    told = [[_flip(truth, classes, theirs, mine, place) for place in places[:SHOWN]] for places in (better, worse)]
    return told[0], told[1]


def section(folder: Path, evidence: Evidence, classes: tuple[str, ...]) -> list[str]:
    """Markdown: both lists."""
    other, both = rival(evidence), flips(folder, evidence, classes)
    if other is None or not any(both):
        return []
    parts = ["## Rows that changed"]
    found = next(one for one in evidence.paired if one.other == other.name)
    for what, rows, count in (("better", both[0], found.wins), ("worse", both[1], found.losses)):
        if rows:
            head = ["asked", "right", title(other, evidence), "candidate"]
            lines = [[shown(one.asked, 110), shown(one.right), shown(one.before), shown(one.now)] for one in rows]
            first = f"the first {len(rows)}" if count > len(rows) else "all"
            parts += [
                f"**{count:,} rows are answered {what} than by {title(other, evidence)}** ({first}):",
                table(head, lines, 4),
            ]
    return parts


def _flip(truth: Truth, classes: tuple[str, ...], before: Answers, now: Answers, place: int) -> Flip:
    asked = truth.asked[place] if truth.asked else truth.rows[place]
    return Flip(
        truth.rows[place], asked, _right(truth, classes, place), _said(before, classes, place), _said(now, classes, place)
    )


def _right(truth: Truth, classes: tuple[str, ...], place: int) -> str:
    if truth.texts:
        return truth.texts[place]
    if truth.labels is not None:
        return classes[int(truth.labels[place])]
    return f"{truth.values[place]:.2f}" if truth.values is not None else ""


def _said(one: Answers, classes: tuple[str, ...], place: int) -> str:
    if one.texts is not None:
        return one.texts[place]
    if one.picked is not None:
        sure = f"\N{NO-BREAK SPACE}{one.chances[place].max():.2f}" if one.chances is not None else ""
        return classes[int(one.picked[place])] + sure
    if one.loss is not None and one.tokens is not None:
        return f"{one.loss[place] / max(one.tokens[place], 1):.2f} nats per token"
    assert one.score is not None
    return f"{one.score[place]:.2f}"
