"""The evaluation: everyone answers the test rows; the answers become evidence."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptory import fingerprint, profile, whole
from adaptory.data import read_split, some_rows
from adaptory.data.rows import asked
from adaptory.errors import DataError, Preempted, ServerError, UserError
from adaptory.evaluation import beside, cases, contestants, metrics, plots, respond, scores, tables
from adaptory.evaluation.changes import CHANGES, since
from adaptory.evaluation.contestants import Contestant, Rows
from adaptory.evaluation.data_report import DOMAINS
from adaptory.evaluation.embeddings import embed
from adaptory.evaluation.kept import Beside, kept
from adaptory.evaluation.scores import SCORES, Answers, Truth
from adaptory.evaluation.slices import learned_by_start, slices_of
from adaptory.gate import Case, Estimate, Evidence, ModelScores
from adaptory.profile import history as data_history
from adaptory.profile.domains import distances
from adaptory.recipe import SEEN, Latency, Recipe
from adaptory.registry import ledger, spending
from adaptory.registry.promotion import git_commit
from adaptory.run import Run
from adaptory.storage import ObjectStore
from adaptory.training import Candidate
from adaptory.training.candidate import read as read_candidate
from adaptory.training.certificate import CERTIFICATE
from adaptory.training.curve import CURVE

EVIDENCE, EXAMPLE = "evidence.json", "example.json"
Emit = Callable[[dict[str, Any]], None]


def read(folder: Path) -> Evidence | None:
    """The evidence of a finished evaluation in this folder, or None."""
    path = folder / EVIDENCE
    return Evidence.model_validate_json(path.read_bytes()) if path.is_file() else None


def evaluate(run: Run, store: ObjectStore, candidate: Candidate, emit: Emit) -> Evidence:
    """Scores candidate, champion and baselines on the test split and returns the evidence.

    A finished evaluation of the same candidate against the same champion is returned as it is; a model that answered these
    rows before is not asked again.
    """
    recipe = run.recipe
    champion = ledger.head(store, recipe.name)
    done = read(run.folder)
    commit = git_commit(run.workspace.root)
    same = done and (done.candidate, done.champion, done.commit) == (candidate.digest, champion and champion.candidate, commit)
    if done and same and done.champion_error is None and not _timed(recipe):
        return done
    (run.folder / "report").mkdir(parents=True, exist_ok=True)
    rows, slices, excluded = questions(run, store)
    truth = truth_of(recipe, rows.test, slices)
    answers, about, error = _answered(run, store, champion, candidate, rows, emit)
    scores.write(run.folder / SCORES, truth, answers, candidate.classes)
    _write(run.folder / EXAMPLE, list(about["candidate"].example))
    _look_at_data(run, store, champion, run.folder / "report")
    _write(run.folder / CHANGES, since(run, store, champion))
    settings = recipe.evaluation
    emit({"event": "stage", "what": f"drawing {settings.resamples:,} resamples for the intervals"})
    tried, cases_digest, latency = _asked_afresh(run, candidate, rows)
    if latency:
        about["candidate"] = about["candidate"].model_copy(update={"latency": latency})
    look = spending.look(store, recipe, run.key, candidate.digest, champion.candidate if champion else None)
    card = run.dataset.card
    facts = Evidence(
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
        rows=rows.test.height,
        rows_digest=rows.digest,
        commit=commit,
        quarantined=sum(card.quarantined.values()) / max(1, card.rows_in),
        look=look,
        planned_steps=candidate.due_steps,
        done_steps=candidate.done_steps,
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=settings.seed,
        slice_rows={name: int(inside.sum()) for name, inside in slices.items()},
        excluded=excluded,
        models=(),
        differences=(),
        cases=tried,
        cases_digest=cases_digest,
        forgetting=about["candidate"].forgetting,
    )
    evidence = measured(facts, truth, answers, metrics.plan(recipe, look.level if look else None))
    told = {name: {key: getattr(one, key) for key in ("digest", "latency", "size")} for name, one in about.items()}
    models = tuple(one.model_copy(update=told[one.name]) for one in evidence.models)
    evidence = evidence.model_copy(update={"models": (*models, *_lost_seeds(run))})
    _draw(run, evidence, truth, answers)
    whole.write(run.folder / EVIDENCE, evidence.model_dump_json(indent=1) + "\n")
    return evidence


def _lost_seeds(run: Run) -> list[ModelScores]:
    """Seeds that could not be trained, without a number: how steady a candidate is cannot be said of those that could."""
    nothing = Estimate(value=None, low=None, high=None)
    lost = [again.settings.seed for again in run.repeats() if read_candidate(again.candidate_folder) is None]
    metrics = dict.fromkeys(run.recipe.metrics, nothing)
    return [ModelScores(name=f"seed_{seed}", kind="repeat", metrics=metrics) for seed in lost]


def measured(facts: Evidence, truth: Truth, answers: Sequence[Answers], plan: metrics.Plan) -> Evidence:
    """The evidence with all numbers of these answers: arithmetic, the same on every machine."""
    models, differences, paired = metrics.compare(truth, answers, plan)
    return facts.model_copy(update={"models": models, "differences": differences, "paired": paired})


def questions(run: Run, store: ObjectStore) -> tuple[Rows, dict[str, Any], int]:
    """The rows that are asked, their slices, and how many were left out because they were learned from before."""
    recipe, excluded = run.recipe, 0
    train, validation, test = (read_split(run.workspace, recipe.name, name) for name in ("train", "validation", "test"))
    test = some_rows(test, recipe.evaluation.max_rows)
    slices = slices_of(run, store, test)
    out = learned_by_start(run, store, test)
    if recipe.evaluation.exclude_seen and SEEN in slices:
        out |= slices[SEEN]
    if out.all():
        raise DataError(
            "every test row was trained on before, by what training.start names or (evaluation.exclude_seen) by an earlier "
            "champion; add test rows, or split both recipes' data alike"
        )
    if out.any():
        test, excluded = test.filter(~out), int(out.sum())
        slices = {name: rows[~out] for name, rows in slices.items() if rows[~out].any()}
    return Rows.of(train, validation, test), slices, excluded


def _answered(
    run: Run, store: ObjectStore, champion: ledger.Record | None, candidate: Candidate, rows: Rows, emit: Emit
) -> tuple[list[Answers], dict[str, Beside], str | None]:
    """The answers of everyone; what was found beside them; and why the champion could not answer, if it could not."""
    answers: list[Answers] = []
    about: dict[str, Beside] = {}
    error = None

    def tell(done: int) -> None:
        emit({"event": "rows", "done": done, "rows": rows.test.height})

    for one in contestants.everyone(run, store, champion, candidate, rows, tell):
        try:
            said, found = _asked(store, run.recipe, one, rows, emit)
        except (Preempted, ServerError):  # says nothing of the champion
            raise
        except UserError as fault:
            if one.kind != "champion":
                raise
            error = str(fault)
            continue
        answers.append(said)
        about[one.name] = found.model_copy(update={"digest": one.digest})
    return answers, about, error


def _asked(store: ObjectStore, recipe: Recipe, one: Contestant, rows: Rows, emit: Emit) -> tuple[Answers, Beside]:
    """What one contestant said, now or before."""

    one.check()

    def ask() -> tuple[Answers, Beside]:
        emit({"event": "stage", "what": f"scoring {one.said} on {rows.test.height:,} test rows"})
        return one.ask()

    first, *others = one.keys(rows)
    said, found = kept(store, recipe.name, first, one.name, one.kind, recipe.data.classes, ask)
    for key in others:
        kept(store, recipe.name, key, one.name, one.kind, recipe.data.classes, lambda: (said, found))
    return said, found


def _timed(recipe: Recipe) -> bool:
    """Whether the gate asks how fast this machine answers, which another one, or another hour, does not know."""
    return any(isinstance(one, Latency) for one in recipe.gate.criteria)


def _asked_afresh(run: Run, candidate: Candidate, rows: Rows) -> tuple[tuple[Case, ...] | None, str | None, Estimate | None]:
    """What is asked of the candidate every time: behavioural cases, which are few, and its speed if the gate asks for it.

    A candidate without its certificate is certified now: its answers may be kept from another machine.
    """
    recipe, base = run.recipe, run.workspace.data(run.recipe.name) / "base"
    certified = (run.candidate_folder / CERTIFICATE).is_file()
    if recipe.evaluation.cases is None and certified and not _timed(recipe):
        return None, None, None
    loaded = respond.load(run.candidate_folder, base, candidate, certified=not certified)
    latency = beside.found(loaded, recipe, run.candidate_folder, rows.test).latency if _timed(recipe) else None
    if recipe.evaluation.cases is None:
        return None, None, latency
    path = run.workspace.root / recipe.evaluation.cases
    written = cases.read(path, recipe)
    told = beside.told(loaded, recipe, cases.questions(written, recipe))
    return cases.tried(written, told), fingerprint.of_file(path), latency


def _look_at_data(run: Run, store: ObjectStore, champion: ledger.Record | None, pictures: Path) -> None:
    """Draws the data beside the champion's, and measures how far its sources lie apart."""
    name, workspace = run.recipe.name, run.workspace
    folder = workspace.data(name) / "profile"
    old = data_history.fetch(store, name, champion.data, workspace.cache) if champion else None
    plots.data(profile.read(folder), profile.read(old) if old else None, pictures / "data.png")
    base, max_tokens = workspace.data(name) / "base", run.recipe.training.max_tokens
    found = distances(folder, lambda texts: embed(base, texts, max_tokens))
    (run.folder / DOMAINS).write_text(json.dumps([one.model_dump() for one in found]) + "\n", encoding="utf-8")


def _draw(run: Run, evidence: Evidence, truth: Truth, answers: Sequence[Answers]) -> None:
    """The pictures of the report: the candidate beside its rival."""
    folder, other = run.folder / "report", tables.rival(evidence)
    plots.learning_curve(run.candidate_folder / CURVE, folder / "learning.png")
    if other is None:
        return
    name = tables.title(other, evidence)
    plots.forest(evidence, other, name, tables.main_of(evidence), folder / "slices.png")
    if truth.labels is not None:
        theirs = next(one for one in answers if one.name == other.name)
        both = [("candidate", answers[0]), (name, theirs)]
        plots.confusions(truth, both, run.recipe.data.classes, folder / "confusion.png")
        plots.reliability(truth, [one for one in both if one[1].chances is not None], folder / "reliability.png")


def truth_of(recipe: Recipe, test: Any, slices: dict[str, Any]) -> Truth:
    """What is right of these rows."""
    number = {label: place for place, label in enumerate(recipe.data.classes)}
    valued = "pearson_r" in recipe.metrics or "mae" in recipe.metrics
    chats = [json.loads(chat) for chat in test["messages"]] if recipe.task == "sft" else []
    return Truth(
        rows=tuple(test["row"]),
        groups=tuple(test["group"].fill_null(test["row"])),
        sources=tuple(test["source"]),
        labels=np.array([number[label] for label in test["label"]]) if number else None,
        values=test["value"].to_numpy() if valued else None,
        asked=tuple(asked(test, recipe.task)),
        texts=tuple(chat[-1]["content"] for chat in chats),
        slices=slices,
    )


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
