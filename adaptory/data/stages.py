"""The commands of the DVC stages. Each reads the outputs of the one before and writes one folder.

A stage builds its folder aside and moves it into place when it is whole, so a failed run leaves the last
good dataset version where it was.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from adaptory import fingerprint, storage
from adaptory.data import rows, splits
from adaptory.data.dataset import CARD, Card
from adaptory.errors import DataError
from adaptory.recipe import Recipe, Source
from adaptory.workspace import Workspace

ROWS, QUARANTINE, STATE = "rows.parquet", "quarantine.parquet", "sources.json"


def fetch(workspace: Workspace, recipe: Recipe) -> None:
    """Brings the raw bytes of every source to `raw/<source>`."""
    with _folder(workspace.data(recipe.name) / "raw") as out:
        for name, source in recipe.data.sources.items():
            _fetch_source(workspace, name, source, out / name)
        state = _state(workspace, recipe)
        (out / STATE).write_text(json.dumps(state, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def sources_changed(workspace: Workspace, recipe: Recipe) -> bool:
    """Whether the sources hold other bytes than those fetched (DVC cannot know: it only sees the recipe)."""
    fetched = workspace.data(recipe.name) / "raw" / STATE
    return not fetched.is_file() or json.loads(fetched.read_text()) != _state(workspace, recipe)


def _state(workspace: Workspace, recipe: Recipe) -> dict[str, str]:
    """What each source holds now: the digest of a local file, the pinned digest of an archive."""
    state = {}
    for name, source in recipe.data.sources.items():
        place = storage.parse(source.uri, workspace.root)
        if isinstance(place, storage.Local) and place.path.is_file():
            state[name] = fingerprint.of_file(place.path)
        else:
            state[name] = f"sha256:{source.sha256}"
    return state


def _fetch_source(workspace: Workspace, name: str, source: Source, target: Path) -> None:
    place = storage.parse(source.uri, workspace.root)
    if isinstance(place, storage.PyPI):
        archive = storage.download(place.name, place.version, source.sha256, workspace.cache)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            files = storage.extract(archive, place.inside, Path(scratch))
            if len(files) != 1:
                raise DataError(f"source {name!r}: {source.uri} is a folder of {len(files)} files; name one file")
            files[0].replace(target)
    elif isinstance(place, storage.Local):
        if not place.path.is_file():
            raise DataError(f"source {name!r}: no file {place.path}; correct data.sources.{name}.uri")
        shutil.copyfile(place.path, target)
        if source.sha256:
            fingerprint.verify_file(target, f"sha256:{source.sha256}", f"source {name!r}")
    else:
        raise DataError(f"source {name!r}: {source.uri} cannot be a data source; use pypi: or a local file")


def validate(workspace: Workspace, recipe: Recipe) -> None:
    """Turns raw bytes into typed rows, and puts what cannot be read into quarantine.

    Raises DataError when more than `data.max_quarantine` of a source is refused.
    """
    import polars

    raw = workspace.data(recipe.name) / "raw"
    good: list[rows.Row] = []
    bad: list[rows.Refused] = []
    for name, source in recipe.data.sources.items():
        read = list(rows.read(name, source, raw / name, recipe.data))
        refused = [row for row in read if isinstance(row, rows.Refused)]
        _check_share(name, refused, len(read), recipe.data.max_quarantine)
        good += [row for row in read if isinstance(row, rows.Row)]
        bad += refused
    kept, repeated = splits.without_repeats(good)
    if not kept:
        raise DataError("the sources hold no rows; nothing can be learned from them")
    with _folder(workspace.data(recipe.name) / "valid") as out:
        polars.DataFrame([asdict(row) for row in kept], schema=_ROW, orient="row").sort("row").write_parquet(out / ROWS)
        quarantined = [asdict(row) for row in bad] + [
            {"source": r.row.source, "line": None, "reason": r.reason, "raw": json.dumps(asdict(r.row)).encode()}
            for r in repeated
        ]
        polars.DataFrame(quarantined, schema=_REFUSED, orient="row").write_parquet(out / QUARANTINE)


_ROW = {"row": str, "source": str, "group": str, "text": str, "label": str, "value": float}
_REFUSED = {"source": str, "line": int, "reason": str, "raw": bytes}


def _check_share(name: str, refused: list[rows.Refused], total: int, limit: float) -> None:
    if total and len(refused) / total > limit:
        reasons = Counter(row.reason for row in refused).most_common(3)
        worst = "; ".join(f"{reason} ({count} rows)" for reason, count in reasons)
        raise DataError(
            f"source {name!r}: {len(refused)} of {total} rows cannot be used ({len(refused) / total:.1%}), and "
            f"data.max_quarantine allows {limit:.1%}. First at line {refused[0].line}. Reasons: {worst}. "
            "Mend the source, or raise the limit. The last good dataset version is untouched."
        )


def split(workspace: Workspace, recipe: Recipe) -> None:
    """Divides the rows by document into train, validation and test, and writes the dataset's card.

    Raises DataError when a split or a class in it is empty.
    """
    import polars

    valid = workspace.data(recipe.name) / "valid"
    table = polars.read_parquet(valid / ROWS)
    quarantine = polars.read_parquet(valid / QUARANTINE)
    place = [splits.split_of(group, recipe.data.split) for group in table["group"]]
    table = table.with_columns(polars.Series("split", place))
    counts = {
        name: {label: 0 for label in recipe.data.label.classes}
        | dict(table.filter(polars.col("split") == name)["label"].value_counts().sort("label").iter_rows())
        for name in splits.SPLITS
    }
    _check_filled(counts)
    with _folder(workspace.data(recipe.name) / "splits") as out:
        for name in splits.SPLITS:
            part = table.filter(polars.col("split") == name).drop("split")
            part.write_parquet(out / f"{name}.parquet")
        card = Card(
            classes=recipe.data.label.classes,
            counts=counts,
            sources=dict(sorted(Counter(table["source"]).items())),
            quarantined=dict(sorted(Counter(_kind(reason) for reason in quarantine["reason"]).items())),
            rows_in=len(table) + len(quarantine),
            files={f"{name}.parquet": fingerprint.of_file(out / f"{name}.parquet") for name in splits.SPLITS},
        )
        (out / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _kind(reason: str) -> str:
    return "repeated text" if reason.startswith("text of ") else reason


def _check_filled(counts: dict[str, dict[str, int]]) -> None:
    for name, classes in counts.items():
        for label, count in classes.items():
            if count == 0:
                table = "; ".join(f"{split}: {kinds}" for split, kinds in counts.items())
                raise DataError(
                    f"split {name!r} has no row of class {label!r} (needed: at least 1). Rows per split: {table}. "
                    "Add data, raise data.split, or drop the class from data.label.classes."
                )


@contextmanager
def _folder(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes `target` only if the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        scratch.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
