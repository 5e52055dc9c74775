"""The evaluation: everyone answers the test rows; the answers become evidence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptory import bases, fingerprint, profile
from adaptory.data import read_split
from adaptory.data.splits import hashes_of
from adaptory.errors import DataError, UserError
from adaptory.evaluation import baselines, metrics, plots, scores
from adaptory.evaluation.data_report import DOMAINS
from adaptory.evaluation.embeddings import embed
from adaptory.evaluation.scores import Answers, Truth
from adaptory.gate import Evidence
from adaptory.profile import history as data_history
from adaptory.profile.domains import distances
from adaptory.recipe import Recipe
from adaptory.registry import ledger
from adaptory.release import fetch_release
from adaptory.run import Run
from adaptory.storage import ObjectStore
from adaptory.training import Candidate
from adaptory.training.candidate import CURVE
from adaptory.workspace import Workspace

SCORES, EVIDENCE, EXAMPLE = "scores.parquet", "evidence.json", "example.json"
FRESH, SEEN = "new since the champion", "trained on before"


def read(folder: Path) -> Evidence | None:
    """The evidence of a finished evaluation in this folder, or None."""
    path = folder / EVIDENCE
    return Evidence.model_validate_json(path.read_bytes()) if path.is_file() else None


def evaluate(run: Run, store: ObjectStore, candidate: Candidate, emit: Callable[[dict[str, Any]], None]) -> Evidence:
    """Scores candidate, champion and baselines on the test split and returns the evidence.

    A finished evaluation of the same candidate against the same champion is returned as it is.
    """
    recipe, workspace = run.recipe, run.workspace
    champion = ledger.head(store, recipe.name)
    if (done := read(run.folder)) and done.candidate == candidate.digest and done.champion == (champion and champion.candidate):
        return done
    run.folder.mkdir(parents=True, exist_ok=True)
    base = workspace.data(recipe.name) / "base"
    train, test = (read_split(workspace, recipe.name, split) for split in ("train", "test"))
    marks = history_marks(run, store, test)
    excluded = 0
    if recipe.evaluation.exclude_seen:
        seen = marks.pop(SEEN)
        test, marks, excluded = test.filter(~seen), {name: rows[~seen] for name, rows in marks.items()}, int(seen.sum())
        if not test.height:
            raise DataError("every test row was trained on before, and evaluation.exclude_seen leaves none; add test rows")
    texts = test["text"].to_list()
    truth = _truth(recipe, test, marks)
    emit({"event": "stage", "what": f"scoring the candidate on {len(texts):,} test rows"})
    answers = [_adapter(run.candidate_folder, base, candidate, texts, "candidate")]
    _write_example(run.folder / EXAMPLE, candidate, texts, answers[0])
    error = None
    if champion and champion.candidate == candidate.digest:
        same = answers[0]
        answers.append(Answers("champion", "champion", same.picked, same.score, same.chances))
    elif champion:
        emit({"event": "stage", "what": f"scoring the champion, v{champion.version}"})
        try:
            answers.append(_champion(workspace, store, champion, candidate, texts))
        except UserError as fault:
            error = str(fault)
    for name in recipe.evaluation.baselines:
        emit({"event": "stage", "what": f"scoring the baseline {name}"})
        answers.append(baselines.ALL[name](recipe, train, texts, base))
    scores.write(run.folder / SCORES, truth, answers, candidate.classes)
    settings = recipe.evaluation
    emit({"event": "stage", "what": f"drawing {settings.resamples:,} resamples for the intervals"})
    pictures = run.folder / "report"
    pictures.mkdir(exist_ok=True)
    plots.confusion(run.folder / SCORES, pictures / "confusion.png")
    plots.learning_curve(run.candidate_folder / CURVE, pictures / "learning.png")
    _look_at_data(run, store, champion, pictures)
    models, differences = metrics.compare(
        truth, answers, candidate.classes, settings.resamples, settings.confidence, settings.seed
    )
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
        rows=len(texts),
        planned_steps=candidate.planned_steps,
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
    hashes = hashes_of(test["text"])
    marks = {SEEN: data_history.trained_on([folder for folder in kept.values() if folder], hashes)}
    if records and (folder := kept[records[-1].data]) and records[-1].data != run.dataset.digest:
        marks[FRESH] = data_history.not_in(folder, hashes)
    return marks


def _truth(recipe: Recipe, test: Any, marks: dict[str, npt.NDArray[np.bool_]]) -> Truth:
    number = {label: place for place, label in enumerate(recipe.data.label.classes)}
    return Truth(
        rows=tuple(test["row"]),
        sources=tuple(test["source"]),
        labels=np.array([number[label] for label in test["label"]]),
        values=None if recipe.data.label.neutral_band is None else test["value"].to_numpy(),
        marks=marks,
    )


def _adapter(folder: Path, base: Path, candidate: Candidate, texts: list[str], kind: str) -> Answers:
    from scipy.special import softmax

    from adaptory.training import adapter, scoring

    model = adapter.load(folder, base, candidate.base_digest, candidate.classes, merge=True)
    tokenizer = adapter.load_tokenizer(folder)
    encoded = scoring.encode(tokenizer, texts, candidate.max_tokens)
    logits = scoring.logits(model, encoded, tokenizer.pad_token_id)
    return scores.from_chances(kind, kind, softmax(logits.astype(np.float64), axis=1))


def _champion(
    workspace: Workspace, store: ObjectStore, champion: ledger.Record, candidate: Candidate, texts: list[str]
) -> Answers:
    folder = fetch_release(store, champion, workspace.cache)
    made = Candidate.model_validate_json((folder / "candidate.json").read_bytes())
    if made.classes != candidate.classes:
        raise UserError(f"v{champion.version} answers {made.classes}, the candidate {candidate.classes}")
    ours = workspace.data(candidate.recipe) / "base"
    if made.base_digest == candidate.base_digest:
        base = ours
    else:
        base = bases.cached(made.base_reference, made.base_digest, workspace.root, workspace.cache)
    return _adapter(folder, base, made, texts, "champion")


def _write_example(path: Path, candidate: Candidate, texts: list[str], answers: Answers) -> None:
    """The first test rows with the answers a loaded release must give again."""
    assert answers.chances is not None
    rows = [
        {"text": text, "chances": {name: round(float(chance), 6) for name, chance in zip(candidate.classes, row, strict=True)}}
        for text, row in zip(texts[:3], answers.chances, strict=False)
    ]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
