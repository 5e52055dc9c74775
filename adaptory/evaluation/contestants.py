"""Who answers the test rows: candidate, champion, the candidate's other seeds, other champions, baselines."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adaptory import bases, fingerprint, run
from adaptory.errors import Preempted, ServerError, UserError
from adaptory.evaluation import baselines, beside, respond
from adaptory.evaluation.kept import Beside, kept
from adaptory.evaluation.scores import Answers
from adaptory.recipe import Recipe
from adaptory.recipe.training import plain
from adaptory.registry import ledger
from adaptory.release import fetch_release
from adaptory.run import Run
from adaptory.storage import ObjectStore
from adaptory.training import Candidate, adapter, network, render
from adaptory.training.candidate import CARD, read

Tell = Callable[[int], None]
_ASKS_THE_BASE = ("untuned", "zero_shot", "few_shot")


@dataclass(frozen=True)
class Rows:
    """What is asked: the test rows, with their digest; and what may be learned from."""

    train: Any
    validation: Any
    test: Any
    digest: str

    @classmethod
    def of(cls, train: Any, validation: Any, test: Any) -> "Rows":
        """The rows, named by what they hold."""
        return cls(train, validation, test, _digest(test))


@dataclass(frozen=True)
class Contestant:
    """One who answers: `depends` names everything its answers depend on, besides rows and code."""

    name: str
    kind: str
    said: str  # what is being done, for a person
    digest: str
    depends: dict[str, Any]
    ask: Callable[[], tuple[Answers, Beside]]
    shared: dict[str, Any] | None = None  # the same in another role: who was asked as candidate is not asked as champion
    check: Callable[[], None] = lambda: None  # raises UserError for one whose answers cannot be compared

    def keys(self, rows: Rows) -> list[str]:
        """The digests of everything the answers depend on, in this role and in any."""
        several = [self.depends, *([self.shared] if self.shared else [])]
        return [fingerprint.of_json({"schema": "asked/v1", "rows": rows.digest, "by": evaluator(), **one}) for one in several]


def evaluator() -> str:
    """The digest of the code and libraries that answers depend on; not of what is computed from them."""
    folder = Path(__file__).parent
    names = (
        "baselines.py", "beside.py", "calibration.py", "contestants.py", "embeddings.py", "resampling.py", "respond.py",
        "scores.py",
    )  # fmt: skip
    code = [run.code_digest("training"), fingerprint.of_files(folder, names)]
    libraries = run.libraries() | {name: version(name) for name in ("scikit-learn", "vaderSentiment")}
    return fingerprint.of_json({"code": code, "libraries": libraries})


def everyone(
    now: Run, store: ObjectStore, champion: ledger.Record | None, candidate: Candidate, rows: Rows, tell: Tell
) -> Iterator[Contestant]:
    """All who answer, the candidate first."""
    recipe, base = now.recipe, now.workspace.data(now.recipe.name) / "base"

    def trained(name: str, kind: str, said: str, made: Candidate, folder: Path, of: Run | None) -> Contestant:
        def ask() -> tuple[Answers, Beside]:
            return _trained(now, store, made, folder, base, candidate, rows, name, kind, tell)

        def check() -> None:
            if of is None:
                _check_comparable(now, said, made, folder, candidate)

        shared = _depends(recipe, made, "any", rows) if name == "candidate" else None
        return Contestant(name, kind, said, made.digest, _depends(recipe, made, name, rows), ask, shared, check)

    yield trained("candidate", "candidate", "the candidate", candidate, now.candidate_folder, now)
    if champion:
        yield _released(now, store, champion, trained, "champion", "champion", f"the champion, v{champion.version}")
    for again in now.repeats():
        seed, made = again.settings.seed, read(again.candidate_folder)
        if made is None:  # it could not be trained; the candidate is judged without it
            continue
        yield trained(f"seed_{seed}", "repeat", f"the candidate with seed {seed}", made, again.candidate_folder, again)
    for other, release in now.compared:
        record = next(one for one in ledger.history(store, other) if one.release == release)
        yield _released(now, store, record, trained, other, "baseline", f"the champion of {other}, v{record.version}")
    for baseline in recipe.evaluation.baselines:
        yield _baseline(now, baseline, rows, base, tell)


def _released(now: Run, store: ObjectStore, record: ledger.Record, trained: Any, name: str, kind: str, said: str) -> Contestant:
    """A champion, as it was released. One that cannot be had says so when it is asked."""
    try:
        folder = fetch_release(store, record, now.workspace.cache)
        made = Candidate.model_validate_json((folder / CARD).read_bytes())
    except (Preempted, ServerError):  # says nothing of the champion
        raise
    except UserError as fault:
        gone = fault

        def ask() -> tuple[Answers, Beside]:
            raise gone

        return Contestant(name, kind, said, record.candidate, {"gone": record.candidate}, ask)
    found: Contestant = trained(name, kind, said, made, folder, None)
    return found


def champion_answers(now: Run, store: ObjectStore, record: ledger.Record, folder: Path, rows: Rows, tell: Tell) -> Answers:
    """What the champion in this release folder says of these rows, which nobody else is asked."""
    made, base = Candidate.model_validate_json((folder / CARD).read_bytes()), now.workspace.data(now.recipe.name) / "base"
    depends = _depends(now.recipe, made, "any", rows)
    key = fingerprint.of_json({"schema": "asked/v1", "rows": rows.digest, "by": evaluator(), **depends})

    def ask() -> tuple[Answers, Beside]:
        return _trained(now, store, made, folder, base, made, rows, "champion", "champion", tell)

    if made.base_digest != now.dataset.base:
        base = bases.cached(made.base_reference, made.base_digest, now.workspace.root, now.workspace.cache)
    return kept(store, now.recipe.name, key, "champion", "champion", made.classes, ask)[0]


def _depends(recipe: Recipe, made: Candidate, name: str, rows: Rows) -> dict[str, Any]:
    """What a trained model's answers depend on."""
    told = recipe.evaluation
    facts: dict[str, Any] = {
        "adapter": made.digest, "base": made.base_digest, "rendering": made.rendering, "start": made.start,
        "method": made.training.method, "classes": made.classes, "longest": told.max_new_tokens, "task": recipe.task,
        "masked": [recipe.training.masked, recipe.training.seed, recipe.training.max_tokens] if recipe.task == "text" else None,
    }  # fmt: skip
    if recipe.data.classes:
        facts["calibrated"] = _digest(rows.validation)
    if name == "candidate":  # it is certified, and asked more than others are
        facts["own"] = True
        facts["general"] = told.general.model_dump(mode="json") if told.general else None
        facts["resamples"] = [told.resamples, told.seed, told.confidence] if told.general else None
    return facts


def _trained(
    now: Run, store: ObjectStore, made: Candidate, folder: Path, base: Path, candidate: Candidate, rows: Rows, name: str,
    kind: str, tell: Tell,
) -> tuple[Answers, Beside]:  # fmt: skip
    recipe, own = now.recipe, name == "candidate"
    if made.base_digest != candidate.base_digest:
        base = bases.cached(made.base_reference, made.base_digest, now.workspace.root, now.workspace.cache)
    loaded = respond.load(folder, base, made, certified=own)
    held = reference(now, store, made, base, loaded)
    said = respond.respond(name, kind, loaded, recipe, rows.test, held, tell)
    said = replace(said, temperature=beside.temperature(loaded, recipe, rows.validation))
    found = beside.found(loaded, recipe, folder, rows.test)
    if own:
        more = {
            "example": beside.example(loaded, recipe, rows.test),
            "forgetting": beside.forgetting(loaded, recipe, now.workspace, base),
        }
        found = found.model_copy(update=more)
    return said, found


def _check_comparable(now: Run, said: str, made: Candidate, folder: Path, candidate: Candidate) -> None:
    """Raises UserError for a model whose answers, kept or not, are to another question."""
    if made.classes != candidate.classes or made.objective != candidate.objective:
        raise UserError(
            f"{said} answers {made.objective} {made.classes}, the candidate {candidate.objective} {candidate.classes}"
        )
    if now.recipe.task == "text":
        ours, theirs = (render.renderer(one, "text", now.recipe.training, config) for one, config in _readers(now, folder))
        if not theirs.counts_like(ours):
            raise UserError(f"{said} counts tokens otherwise than the candidate; their perplexities cannot be compared")


def _readers(now: Run, folder: Path) -> list[tuple[Path, Any]]:
    config = network.config_of(now.workspace.data(now.recipe.name) / "base")
    return [(now.candidate_folder, config), (folder, config)]


def _digest(table: Any) -> str:
    """The digest of what rows hold, wherever they came from."""
    return fingerprint.of_bytes(table.drop("file", "line").write_ndjson().encode())


def _baseline(now: Run, name: str, rows: Rows, base: Path, tell: Tell) -> Contestant:
    recipe = now.recipe
    depends: dict[str, Any] = {"baseline": name, "task": recipe.task, "classes": recipe.data.classes, "data": now.dataset.digest}
    if name in _ASKS_THE_BASE:
        told = recipe.evaluation.model_dump(mode="json", include={"descriptions", "shots", "prompt", "max_new_tokens"})
        depends |= {"base": now.dataset.base, "training": plain(recipe.training), **told}

    def ask() -> tuple[Answers, Beside]:
        return baselines.ALL[name](baselines.Ask(recipe, rows.train, rows.test, base, tell)), Beside()

    return Contestant(name, "baseline", f"the baseline {name}", fingerprint.of_json(depends), depends, ask)


def reference(now: Run, store: ObjectStore, made: Candidate, base: Path, policy: respond.Loaded) -> respond.Loaded | None:
    """What a policy's answers are held to, reading the same tokens: the adapter it started from, or the bare base.

    Nothing for other objectives.
    """
    if made.objective != "dpo":
        return None
    if made.start is None:
        return replace(policy, model=respond.untuned(base, now.recipe).model)
    name = made.training.start
    assert name is not None
    record = next(one for one in ledger.history(store, name) if one.release == made.start)
    folder = fetch_release(store, record, now.workspace.cache)
    start = Candidate.model_validate_json((folder / CARD).read_bytes())
    settings = start.training.model_copy(update={"objective": "dpo"})
    return replace(policy, model=adapter.load(folder, base, start.base_digest, "preference", settings, (), merge=True))
