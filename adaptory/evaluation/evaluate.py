"""The evaluation: everyone answers the test rows; the answers become evidence."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptory import bases, fingerprint, profile
from adaptory.data import read_split, some_rows
from adaptory.data.rows import leaks
from adaptory.data.splits import hashes_of
from adaptory.errors import DataError, Preempted, ServerError, UserError
from adaptory.evaluation import baselines, metrics, plots, respond, scores
from adaptory.evaluation.data_report import DOMAINS
from adaptory.evaluation.embeddings import embed
from adaptory.evaluation.scores import SCORES, Answers, Truth
from adaptory.gate import Evidence
from adaptory.profile import history as data_history
from adaptory.profile.domains import distances
from adaptory.recipe import Recipe
from adaptory.registry import ledger
from adaptory.release import fetch_release
from adaptory.run import Run
from adaptory.storage import ObjectStore
from adaptory.training import Candidate, adapter
from adaptory.training.answers import reply
from adaptory.training.candidate import CARD, finished
from adaptory.training.curve import CURVE
from adaptory.training.render import Renderer

EVIDENCE, EXAMPLE = "evidence.json", "example.json"
Tell = Callable[[int], None]
Emit = Callable[[dict[str, Any]], None]
FRESH, SEEN = "new since the champion", "trained on before"


def read(folder: Path) -> Evidence | None:
    """The evidence of a finished evaluation in this folder, or None."""
    path = folder / EVIDENCE
    return Evidence.model_validate_json(path.read_bytes()) if path.is_file() else None


def evaluate(run: Run, store: ObjectStore, candidate: Candidate, emit: Emit) -> Evidence:
    """Scores candidate, champion and baselines on the test split and returns the evidence.

    A finished evaluation of the same candidate against the same champion is returned as it is.
    """
    recipe, workspace = run.recipe, run.workspace
    champion = ledger.head(store, recipe.name)
    done = read(run.folder)
    same = done and done.candidate == candidate.digest and done.champion == (champion and champion.candidate)
    if done and same and done.champion_error is None:
        return done
    run.folder.mkdir(parents=True, exist_ok=True)
    train, test = read_split(workspace, recipe.name, "train"), _test_rows(run)
    marks = history_marks(run, store, test)
    excluded = 0
    if recipe.evaluation.exclude_seen:
        seen = marks.pop(SEEN)
        test, marks, excluded = test.filter(~seen), {name: rows[~seen] for name, rows in marks.items()}, int(seen.sum())
        if not test.height:
            raise DataError("every test row was trained on before, and evaluation.exclude_seen leaves none; add test rows")
    truth = truth_of(recipe, test, marks)

    answers, error = _everyone(run, store, champion, candidate, train, test, emit)
    scores.write(run.folder / SCORES, truth, answers, candidate.classes)
    settings = recipe.evaluation
    emit({"event": "stage", "what": f"drawing {settings.resamples:,} resamples for the intervals"})
    pictures = run.folder / "report"
    pictures.mkdir(exist_ok=True)
    if candidate.classes:
        plots.confusion(run.folder / SCORES, pictures / "confusion.png")
    plots.learning_curve(run.candidate_folder / CURVE, pictures / "learning.png")
    _look_at_data(run, store, champion, pictures)
    models, differences = metrics.compare(
        truth, answers, recipe.metrics, candidate.classes, settings.resamples, settings.confidence, settings.seed,
        sorted({one.source for one in recipe.gate.criteria if one.source}),
    )  # fmt: skip
    evidence = Evidence(
        recipe=recipe.name,
        key=run.key,
        candidate=candidate.digest,
        champion=champion.candidate if champion else None,
        champion_version=champion.version if champion else None,
        champion_error=error,
        data=run.dataset.digest,
        base=run.dataset.base,
        recipe_digest=recipe.digest,
        scores=fingerprint.of_file(run.folder / SCORES),
        rows=test.height,
        planned_steps=candidate.done_steps if candidate.stopped_early else candidate.planned_steps,
        done_steps=candidate.done_steps,
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=settings.seed,
        slice_rows={name: int(rows.sum()) for name, rows in metrics.slices(truth).items()},
        excluded=excluded,
        models=models,
        differences=differences,
    )
    (run.folder / EVIDENCE).write_text(evidence.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return evidence


def _everyone(
    run: Run, store: ObjectStore, champion: ledger.Record | None, candidate: Candidate, train: Any, test: Any, emit: Emit
) -> tuple[list[Answers], str | None]:
    """The answers of candidate, champion and baselines; and why the champion could not answer, if it could not."""
    recipe, base = run.recipe, run.workspace.data(run.recipe.name) / "base"

    def tell(done: int) -> None:
        emit({"event": "rows", "done": done, "rows": test.height})

    emit({"event": "stage", "what": f"scoring the candidate on {test.height:,} test rows"})
    loaded = respond.load(run.candidate_folder, base, candidate, certified=True)
    held = reference(run, store, candidate, base, loaded)
    answers = [respond.respond("candidate", "candidate", loaded, recipe, test, held, tell)]
    _write_example(run.folder / EXAMPLE, recipe, candidate, loaded, test)
    ours, error = loaded.made, None
    del loaded
    if champion and champion.candidate == candidate.digest:
        answers.append(replace(answers[0], name="champion", kind="champion"))
    elif champion:
        emit({"event": "stage", "what": f"scoring the champion, v{champion.version}"})
        try:
            answers.append(_champion(run, store, champion, candidate, ours, test, tell))
        except (Preempted, ServerError):  # says nothing of the champion
            raise
        except UserError as fault:
            error = str(fault)
    for again in run.repeats():
        emit({"event": "stage", "what": f"scoring the candidate with seed {again.settings.seed}"})
        repeated = respond.load(again.candidate_folder, base, finished(again))
        answers.append(respond.respond(f"seed_{again.settings.seed}", "repeat", repeated, recipe, test, held, tell))
        del repeated
    for name, release in run.compared:
        emit({"event": "stage", "what": f"scoring the champion of {name}"})
        record = next(one for one in ledger.history(store, name) if one.release == release)
        answers.append(_champion(run, store, record, candidate, ours, test, tell, name))
    for name in recipe.evaluation.baselines:
        emit({"event": "stage", "what": f"scoring the baseline {name}"})
        answers.append(baselines.ALL[name](baselines.Ask(recipe, train, test, base, tell)))
    return answers, error


def _look_at_data(run: Run, store: ObjectStore, champion: ledger.Record | None, pictures: Path) -> None:
    """Draws the data beside the champion's, and measures how far its sources lie apart."""
    name, workspace = run.recipe.name, run.workspace
    folder = workspace.data(name) / "profile"
    old = data_history.fetch(store, name, champion.data, workspace.cache) if champion else None
    plots.data(profile.read(folder), profile.read(old) if old else None, pictures / "data.png")
    base, max_tokens = workspace.data(name) / "base", run.recipe.training.max_tokens
    found = distances(folder, lambda texts: embed(base, texts, max_tokens))
    (run.folder / DOMAINS).write_text(json.dumps([one.model_dump() for one in found]) + "\n", encoding="utf-8")


def history_marks(run: Run, store: ObjectStore, test: Any) -> dict[str, npt.NDArray[np.bool_]]:
    """Which test rows arrived since the champion, and which an earlier champion (or this one) was trained on."""
    name = run.recipe.name
    records = ledger.history(store, name)
    kept = {one.data: data_history.fetch(store, name, one.data, run.workspace.cache) for one in records}
    hashes = hashes_of(leaks(test, run.recipe.task))
    marks = {SEEN: data_history.trained_on([folder for folder in kept.values() if folder], hashes)}
    if records and (folder := kept[records[-1].data]) and records[-1].data != run.dataset.digest:
        marks[FRESH] = data_history.not_in(folder, hashes)
    return marks


def _test_rows(run: Run) -> Any:
    """The test split, or as many of its rows as evaluation.max_rows allows: always the same ones."""
    return some_rows(read_split(run.workspace, run.recipe.name, "test"), run.recipe.evaluation.max_rows)


def truth_of(recipe: Recipe, test: Any, marks: dict[str, npt.NDArray[np.bool_]]) -> Truth:
    """What is right of these rows."""
    number = {label: place for place, label in enumerate(recipe.data.classes)}
    valued = "pearson_r" in recipe.metrics or "mae" in recipe.metrics
    chats = [json.loads(chat) for chat in test["messages"]] if recipe.task == "sft" else []
    return Truth(
        rows=tuple(test["row"]),
        sources=tuple(test["source"]),
        labels=np.array([number[label] for label in test["label"]]) if number else None,
        values=test["value"].to_numpy() if valued else None,
        asked=tuple(chat[-2]["content"] for chat in chats),
        texts=tuple(chat[-1]["content"] for chat in chats),
        marks=marks,
    )


def reference(run: Run, store: ObjectStore, made: Candidate, base: Path, policy: respond.Loaded) -> respond.Loaded | None:
    """What a policy's answers are held to, reading the same tokens: the adapter it started from, or the bare base.

    Nothing for other objectives.
    """
    if made.objective != "dpo":
        return None
    if made.start is None:
        return replace(policy, model=respond.untuned(base, run.recipe).model)
    name = made.training.start
    assert name is not None
    record = next(one for one in ledger.history(store, name) if one.release == made.start)
    folder = fetch_release(store, record, run.workspace.cache)
    start = Candidate.model_validate_json((folder / CARD).read_bytes())
    settings = start.training.model_copy(update={"objective": "dpo"})
    return replace(policy, model=adapter.load(folder, base, start.base_digest, "preference", settings, (), merge=True))


def _champion(
    run: Run, store: ObjectStore, champion: ledger.Record, candidate: Candidate, ours: Renderer, test: Any, tell: Tell,
    other: str | None = None,
) -> Answers:  # fmt: skip
    """The champion's answers; or those of another recipe's champion, which then counts as a baseline."""
    named = f"{other} v{champion.version}" if other else f"v{champion.version}"
    folder = fetch_release(store, champion, run.workspace.cache)
    made = Candidate.model_validate_json((folder / CARD).read_bytes())
    if made.classes != candidate.classes or made.objective != candidate.objective:
        raise UserError(
            f"{named} answers {made.objective} {made.classes}, "
            f"the candidate {candidate.objective} {candidate.classes}"
        )
    if made.base_digest == candidate.base_digest:
        base = run.workspace.data(candidate.recipe) / "base"
    else:
        base = bases.cached(made.base_reference, made.base_digest, run.workspace.root, run.workspace.cache)
    loaded = respond.load(folder, base, made)
    if run.recipe.task == "text" and not loaded.made.counts_like(ours):
        raise UserError(f"{named} counts tokens otherwise than the candidate; their perplexities cannot be compared")
    name, kind = (other, "baseline") if other else ("champion", "champion")
    return respond.respond(name, kind, loaded, run.recipe, test, reference(run, store, made, base, loaded), tell)


def _write_example(path: Path, recipe: Recipe, candidate: Candidate, loaded: respond.Loaded, test: Any) -> None:
    """The first test rows with the answers a loaded release must give again."""
    fields = ("text", "text_pair", "prompt", "messages") if recipe.task != "preference" else ("prompt", "chosen")
    asked = [{name: value for name, value in row.items() if name in fields} for row in test.head(3).iter_rows(named=True)]
    for one in asked:
        if "messages" in one:
            one["messages"] = json.loads(one["messages"])[:-1]
        if "chosen" in one:
            one["answer"] = one.pop("chosen")
        if candidate.objective == "dpo":
            del one["answer"]
    goal, longest = loaded.goal, recipe.evaluation.max_new_tokens
    told = reply(loaded.model, loaded.made, goal, candidate.classes, asked, longest)
    rows = [{"asked": question, "told": answer} for question, answer in zip(asked, told, strict=True)]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
