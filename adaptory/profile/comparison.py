"""The stage `drift`: the prepared data beside the champion's."""

from pathlib import Path

from adaptory import whole
from adaptory.errors import StageError
from adaptory.profile import drift, history
from adaptory.profile.drift import Comparison
from adaptory.registry import ledger
from adaptory.run import Run
from adaptory.storage import ObjectStore

FILE = "drift.json"


def read(run: Run, champion_data: str) -> Comparison | None:
    """The finished comparison of this run's data with the champion's, or None."""
    path = run.folder / FILE
    if not path.is_file():
        return None
    made = Comparison.model_validate_json(path.read_bytes())
    return made if (made.data, made.champion_data) == (run.dataset.digest, champion_data) else None


def compare(run: Run, store: ObjectStore) -> Comparison:
    """Compares, and writes the result beside the run's other files. A finished comparison is returned as it is."""
    champion = ledger.head(store, run.recipe.name)
    if champion is None:
        raise StageError(f"{run.recipe.name!r} has no champion, so there is no data to compare with")
    if done := read(run, champion.data):
        return done
    new = run.workspace.data(run.recipe.name) / "profile"
    old = history.fetch(store, run.recipe.name, champion.data, run.workspace.cache)
    verdict: drift.Verdict = "retrain"
    findings: tuple[drift.Finding, ...] = ()
    reason = f"nothing was kept of the data of v{champion.version}; not compared"
    if old is not None:
        verdict, reason, findings = drift.compare(new, old, run.recipe.data.drift, _embedded(run, new, old))
    same_recipe = (champion.recipe, champion.base) == (run.recipe.digest, run.dataset.base)
    if verdict == "nothing new" and not same_recipe:
        verdict, reason = "retrain", "the rows are the champion's, but the recipe or the base is another"
    made = Comparison(
        verdict=verdict, reason=reason, data=run.dataset.digest, champion_data=champion.data,
        champion_version=champion.version, findings=findings,
    )  # fmt: skip
    run.folder.mkdir(parents=True, exist_ok=True)
    whole.write(run.folder / FILE, made.model_dump_json(indent=1) + "\n")
    return made


def _embedded(run: Run, new: Path, old: Path) -> "tuple[object, object] | None":
    """Embeddings of both samples under the run's base; None if a sample is too small to fold."""
    texts = [drift.sample(folder) for folder in (new, old)]
    if min(map(len, texts)) < 20:
        return None
    from adaptory.evaluation.embeddings import embed

    both = embed(run.workspace.data(run.recipe.name) / "base", texts[0] + texts[1], run.recipe.training.max_tokens)
    return both[: len(texts[0])], both[len(texts[0]) :]
