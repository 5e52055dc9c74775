"""The stage `monitor`: how the champion does on the test rows that arrived since it was promoted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from adaptory import whole
from adaptory.data import read_split
from adaptory.errors import StageError
from adaptory.evaluation import contestants, metrics, tables
from adaptory.evaluation.contestants import Rows
from adaptory.evaluation.evaluate import read as read_evidence
from adaptory.evaluation.evaluate import truth_of
from adaptory.evaluation.slices import slices_of
from adaptory.gate import Estimate
from adaptory.profile.comparison import compare
from adaptory.recipe import LOWER, NEW, Frozen, Recipe
from adaptory.registry import ledger
from adaptory.release import fetch_release
from adaptory.run import Run
from adaptory.storage import ObjectStore
from adaptory.training.candidate import CARD, Candidate

FILE = "health.json"
_FEWEST, _OF_A_CLASS = 30, 5  # rows that say anything
Word = Literal["steady", "worse", "drifted", "too few new rows"]


class Health(Frozen):
    """What new rows say of a champion."""

    schema_version: str = "health/v1"
    recipe: str
    version: int
    data: str
    rows: int  # that arrived since it was promoted, of the test split
    metric: str
    then: Estimate | None  # on the test rows it was promoted with
    now: Estimate | None
    drift: str  # the verdict of the comparison of the data
    word: Word
    reason: str


def read(folder: Path, version: int) -> Health | None:
    """What was found of this champion on these data, or None."""
    path = folder / FILE
    made = Health.model_validate_json(path.read_bytes()) if path.is_file() else None
    return made if made and made.version == version else None


def monitor(run: Run, store: ObjectStore, emit: Callable[[dict[str, Any]], None]) -> Health:
    """Asks the champion about the new test rows; writes and returns what that says. Raises StageError without a champion."""
    recipe, champion = run.recipe, ledger.head(store, run.recipe.name)
    if champion is None:
        raise StageError(f"{recipe.name!r} has no champion to watch; run: adaptory retrain {recipe.name}")
    release = fetch_release(store, champion, run.workspace.cache)
    promoted = read_evidence(release)
    assert promoted is not None
    metric = tables.main_of(promoted)
    then = promoted.of("candidate")[0].metrics.get(metric)
    drifted = compare(run, store)
    test = read_split(run.workspace, recipe.name, "test")
    fresh = slices_of(run, store, test).get(NEW)
    new = test.filter(fresh) if fresh is not None else test.head(0)
    known = Candidate.model_validate_json((release / CARD).read_bytes()).classes
    now, short = None, _too_few(recipe, new, known)
    if short is None:
        rows = Rows.of(test.head(0), read_split(run.workspace, recipe.name, "validation"), new)
        answers = contestants.champion_answers(run, store, champion, release, rows, lambda done: emit(
            {"event": "rows", "done": done, "rows": new.height}
        ))  # fmt: skip
        truth = truth_of(recipe, new, {})
        now = metrics.compare(truth, [answers], metrics.plan(recipe, None))[0][0].metrics.get(metric)
    word, reason = _said(metric, then, now, new.height, short or "", drifted.verdict, drifted.reason)
    made = Health(
        recipe=recipe.name, version=champion.version, data=run.dataset.digest, rows=new.height, metric=metric, then=then, now=now,
        drift=drifted.verdict, word=word, reason=reason,
    )  # fmt: skip
    run.folder.mkdir(parents=True, exist_ok=True)
    whole.write(run.folder / FILE, made.model_dump_json(indent=1) + "\n")
    return made


def _too_few(recipe: Recipe, new: Any, known: tuple[str, ...]) -> str | None:
    """What is missing to say anything of a champion that knows these classes.

    Of a class without rows an average over classes would say that it is never found.
    """
    if known != recipe.data.classes:
        return f"the champion knows {', '.join(known) or 'no classes'}, and the rows {', '.join(recipe.data.classes)}"
    if new.height < _FEWEST:
        return f"{new.height} new test rows, and {_FEWEST} are needed to say anything"
    for name in recipe.data.classes:
        if (count := int((new["label"] == name).sum())) < _OF_A_CLASS:
            return f"{count} new test rows of class {name}, and {_OF_A_CLASS} are needed to say anything"
    return None


def _said(
    metric: str, then: Estimate | None, now: Estimate | None, rows: int, few: str, drift: str, why: str
) -> tuple[Word, str]:
    """The word for it: worse when the intervals do not even touch; drifted when the data are too far from the champion's."""
    if then and now and None not in (then.low, then.high, now.low, now.high):
        told = f"{metric} {tables.interval(now)} on {rows} new rows, {tables.interval(then)} when it was promoted"
        below = now.low > then.high if metric in LOWER else now.high < then.low  # type: ignore[operator]
        if below:
            return "worse", told
        return ("drifted", f"{told}; {why}") if drift == "needs approval" else ("steady", told)
    return ("drifted", f"{why}; {few}") if drift == "needs approval" else ("too few new rows", few)
