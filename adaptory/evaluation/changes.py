"""What changed since the champion: data, base, recipe, code."""

import json
from collections.abc import Iterator
from typing import Any

from adaptory import fingerprint
from adaptory.errors import UserError
from adaptory.profile import history as data_history
from adaptory.registry import ledger, tracking
from adaptory.registry.promotion import git_commit
from adaptory.release import fetch_release
from adaptory.run import Run
from adaptory.storage import ObjectStore

CHANGES = "changes.json"


def since(run: Run, store: ObjectStore, champion: ledger.Record | None) -> list[str]:
    """A sentence for each difference between what the champion and the candidate are made from."""
    if champion is None:
        return []
    notice = ledger.by_hand(ledger.history(store, run.recipe.name))
    told = [*([notice] if notice else []), *_data(run, store, champion), *_recipe(run, store, champion)]
    if champion.base != run.dataset.base:
        told.append(f"base: {fingerprint.short(champion.base)} became {fingerprint.short(run.dataset.base)}")
    commit = git_commit(run.workspace.root)
    if commit != champion.git_commit:
        told.append(f"commit: {_short(champion.git_commit)} became {_short(commit)}")
    return told or ["nothing of data, base, recipe and code: only this comparison is new"]


def _data(run: Run, store: ObjectStore, champion: ledger.Record) -> Iterator[str]:
    if champion.data == run.dataset.digest:
        return
    before = data_history.version(store, run.recipe.name, champion.data, champion.dvc)
    if before is None:
        yield "data: another version (of the champion's nothing was kept)"
        return
    for split in ("train", "validation", "test"):
        then, now = before.rows(split), run.dataset.rows(split)
        yield f"{split} rows: {then:,} became {now:,}" if then != now else f"{split} rows: {now:,} as before, with other contents"


def _recipe(run: Run, store: ObjectStore, champion: ledger.Record) -> Iterator[str]:
    if champion.recipe == run.recipe.digest:
        return
    try:
        then = json.loads((fetch_release(store, champion, run.workspace.cache) / "recipe.json").read_bytes())
    except UserError:
        yield "recipe: another one (the champion's cannot be read)"
        return
    before, now = dict(tracking.flatten(then)), dict(tracking.flatten(run.recipe.model_dump(mode="json")))
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            yield f"{key}: {_value(before, key)} became {_value(now, key)}"


def _value(found: dict[str, Any], key: str) -> str:
    return "nothing" if key not in found else json.dumps(found[key], ensure_ascii=False)[:80]


def _short(commit: str | None) -> str:
    return "none" if commit is None else commit[:12] + commit[40:]
