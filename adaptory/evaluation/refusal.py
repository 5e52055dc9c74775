"""Why a candidate was refused, down to rows: what got worse, and which new training rows lie nearest to it."""

from pathlib import Path
from typing import Any

import numpy as np

from adaptory import whole
from adaptory.data import read_split, some_rows
from adaptory.data.rows import leaks
from adaptory.data.splits import hashes_of
from adaptory.evaluation.data_report import shown
from adaptory.evaluation.embeddings import embed
from adaptory.evaluation.flips import flips
from adaptory.evaluation.tables import interval, rival, table, title
from adaptory.gate import Difference, Evidence, Verdict
from adaptory.profile import history as data_history
from adaptory.recipe import LOWER, Frozen
from adaptory.registry import ledger
from adaptory.run import Run
from adaptory.storage import ObjectStore

REFUSAL = "refusal.json"
_NEW, _NEAREST, _WORSE = 5000, 2, 8  # new rows that are searched; shown beside each row; slices that are named


class Near(Frozen):
    """A training row that is new since the champion."""

    row: str
    text: str
    right: str
    likeness: float  # cosine of the base's embeddings


class Lost(Frozen):
    """A row that is answered worse than before."""

    row: str
    text: str
    right: str
    before: str
    now: str
    near: tuple[Near, ...]


class Refusal(Frozen):
    """What a person needs who asks why."""

    schema_version: str = "refusal/v1"
    against: str
    worse: tuple[str, ...]  # classes and slices, the most certainly worse first
    lost: tuple[Lost, ...]
    new_rows: int  # training rows that are new since the champion


def explain(run: Run, store: ObjectStore, evidence: Evidence) -> Refusal | None:
    """The reasons behind the gate's reason; None where there is nobody to be worse than."""
    other = rival(evidence)
    if other is None:
        return None
    _, worse = flips(run.folder, evidence, run.recipe.data.classes)
    new = _new_rows(run, store)
    near: list[tuple[Near, ...]] = [()] * len(worse)
    if worse and new is not None and new.height:
        texts = [str(text) for text in leaks(new, run.recipe.task)]
        base, longest = run.workspace.data(run.recipe.name) / "base", run.recipe.training.max_tokens
        likeness = embed(base, [one.asked for one in worse], longest) @ embed(base, texts, longest).T
        right = new["label"] if "label" in new.columns else [""] * new.height
        for place, line in enumerate(likeness):
            nearest = np.argsort(-line)[:_NEAREST]
            near[place] = tuple(
                Near(row=new["row"][int(n)], text=texts[n], right=right[int(n)], likeness=round(float(line[n]), 3))
                for n in nearest
            )
    lost = tuple(
        Lost(row=one.row, text=one.asked, right=one.right, before=one.before, now=one.now, near=close)
        for one, close in zip(worse, near, strict=True)
    )
    return Refusal(
        against=title(other, evidence).strip("*"), worse=tuple(_worse(evidence, other.name)), lost=lost,
        new_rows=new.height if new is not None else 0,
    )  # fmt: skip


def write(folder: Path, refusal: Refusal) -> None:
    """Keeps it beside the evidence."""
    whole.write(folder / REFUSAL, refusal.model_dump_json(indent=1) + "\n")


def section(folder: Path, verdict: Verdict) -> list[str]:
    """Markdown: the refusal, if there is one."""
    path = folder / REFUSAL
    if verdict.outcome == "PASS" or not path.is_file():
        return []
    found = Refusal.model_validate_json(path.read_bytes())
    parts = ["## Why it was refused"]
    if found.worse:
        parts += [f"Worse than {found.against}, the most certain first:", "\n".join(f"- {line}" for line in found.worse)]
    else:
        parts.append(f"No class and no slice is worse than with {found.against}; it was not proved to be better.")
    close = [one for one in found.lost if one.near]
    if close:
        lines = []
        for one in close:
            beside = "; ".join(f"{shown(near.text, 60)} ({shown(near.right)}, {near.likeness:.2f})" for near in one.near)
            lines.append([shown(one.text, 90), shown(one.right), shown(one.now), beside])
        parts.append(f"Rows answered worse, and the nearest of {found.new_rows:,} training rows that are new since the champion:")
        parts.append(table(["row", "right", "candidate", "nearest new training rows (class, likeness)"], lines, 4))
    return parts


def _worse(evidence: Evidence, other: str) -> list[str]:
    def certainty(one: Difference) -> float:
        assert one.estimate.value is not None
        value = -one.estimate.value if one.metric in LOWER else one.estimate.value
        return value / one.estimate.deviation if one.estimate.deviation else value * 1e9

    asked = [one for one in evidence.differences if one.other == other and one.slice and one.estimate.defined]
    # Of a class its F1; precision and recall say why.
    asked = [one for one in asked if one.metric not in ("precision", "recall") and certainty(one) < 0]
    return [
        f"{one.slice}, {one.metric.replace('_', ' ')}: {interval(one.estimate, sign=True)} on "
        f"{evidence.slice_rows.get(one.slice or '', 0):,} rows"
        for one in sorted(asked, key=certainty)[:_WORSE]
    ]


def _new_rows(run: Run, store: ObjectStore) -> Any:
    """Training rows that the champion's data had not; None without a champion, or if nothing of its data was kept."""
    champion = ledger.head(store, run.recipe.name)
    if champion is None or champion.data == run.dataset.digest:
        return None
    folder = data_history.fetch(store, run.recipe.name, champion.data, run.workspace.cache)
    if folder is None:
        return None
    train = read_split(run.workspace, run.recipe.name, "train")
    new = data_history.not_in(folder, hashes_of(leaks(train, run.recipe.task)))
    return some_rows(train.filter(new), _NEW)
