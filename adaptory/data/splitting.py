"""The stage `split`: rows by document into train, validation and test; repeats and leaks to quarantine; the card."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from adaptory import fingerprint
from adaptory.data import copies, near, readers, rows
from adaptory.data.dataset import CARD, Card
from adaptory.data.fetching import raw_files
from adaptory.data.shards import Shards, files, side_by_side, whole_folder
from adaptory.data.splits import BY_PROTECTION, SPLITS, normalised, ranks_of
from adaptory.data.validation import QUARANTINE, ROWS, quarantine_schema
from adaptory.errors import DataError
from adaptory.recipe import Recipe
from adaptory.workspace import Workspace

_FEW, _SEVERAL = 0.25, 100  # of so many rows may be set aside as near-copies


def split(workspace: Workspace, recipe: Recipe) -> None:
    """Writes every row to the split of its document, or to quarantine if it repeats or leaks.

    Raises DataError when a split, or a class in it, is empty.
    """
    import polars

    valid = workspace.data(recipe.name) / "valid"
    shards = files(valid, ROWS)
    with tempfile.TemporaryDirectory(dir=workspace.data(recipe.name)) as scratch:
        signatures, tables = near.Signatures(Path(scratch)), []
        for found, signed in side_by_side(lambda shard: _keys(recipe, shard), shards):
            tables.append(found)
            signatures.add(signed)
        keys = polars.concat(tables).with_row_index("index")
        ranks = keys["rank"].to_numpy()
        aside = copies.repeated(keys, lambda indices: _rows_at(shards, indices, recipe))
        del keys
        if recipe.data.split.near_copies:
            close = near.across_splits(
                signatures, ranks, recipe.data.split.near_copies, lambda indices: _texts_at(shards, indices, recipe)
            )  # fmt: skip
            close = close.join(aside, on="index", how="anti")
            _check_few(close.height, len(ranks) - aside.height, recipe)
            aside = polars.concat([aside, close])
    with whole_folder(workspace.data(recipe.name) / "splits") as out:
        counts, sources = _write_splits(recipe, shards, ranks, aside, out)
        kinds = _write_quarantine(workspace, recipe, shards, aside, out)
        _check_filled(recipe, counts)
        names = [path.name for name in (*SPLITS, QUARANTINE) for path in files(out, name)]
        card = Card(
            task=recipe.task,
            classes=recipe.data.classes,
            counts=counts,
            sources=sources,
            quarantined=kinds,
            rows_in=sum(sources.values()) + sum(kinds.values()),
            files={name: fingerprint.of_file(out / name) for name in names},
        )
        (out / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _check_few(close: int, rows_: int, recipe: Recipe) -> None:
    """Raises DataError when so many rows are near-copies that something else must be alike in them."""
    if rows_ >= _SEVERAL and close > _FEW * rows_:
        raise DataError(
            f"{close:,} of {rows_:,} rows are near-copies (data.split.near_copies: {recipe.data.split.near_copies:g}) of rows "
            f"in another split, more than {_FEW:.0%}: an instruction or a form that they share counts, too. Take it out of the "
            "text (a system message does not count), raise near_copies, or set it to null; or give rows of one document a group"
        )


def _keys(recipe: Recipe, shard: Path) -> tuple[Any, list[tuple[Any, Any]]]:
    """What decides the place of each row of a shard without its text: a table for `copies`, and MinHash signatures."""
    import polars

    table = polars.read_parquet(shard)
    content = rows.CONTENT[recipe.task]
    texts = [normalised(table[name]) for name in content if name not in ("label", "value")]
    whole = texts[0].hash() if len(texts) == 1 else polars.DataFrame(texts).hash_rows()
    leak = normalised(rows.leaks(table, recipe.task))
    keys = polars.DataFrame({
        "rank": _ranks(recipe, table),
        "id": table["row"].hash(),
        "body": table.select("group", *content).hash_rows(),
        "content": whole,
        **({"leak": leak.hash()} if recipe.task in rows.ASKED else {}),
    })  # fmt: skip
    return keys, near.signed(normalised(rows.compared(table, recipe.task))) if recipe.data.split.near_copies else []


def _ranks(recipe: Recipe, table: Any) -> Any:
    """The place of each row's split in BY_PROTECTION: its source's, or else its document's."""
    found = ranks_of(table["group"].fill_null(table["row"]), recipe.data.split)
    for name, source in recipe.data.sources.items():
        if source.split:
            found[(table["source"] == name).to_numpy()] = BY_PROTECTION.index(source.split)
    return found


def _rows_at(shards: list[Path], indices: Any, recipe: Recipe) -> Any:
    """Name (and label) of the rows with these indices."""
    import polars

    columns = ["index", "row", *(["label"] if recipe.data.classes else [])]
    table = polars.scan_parquet(shards, row_index_name="index")
    return table.join(polars.LazyFrame({"index": indices}), on="index", how="semi").select(columns).collect(engine="streaming")


def _texts_at(shards: list[Path], indices: Any, recipe: Recipe) -> dict[int, tuple[str, str]]:
    """Name and normalised text of the rows with these indices."""
    import polars

    table = polars.scan_parquet(shards, row_index_name="index")
    table = table.join(polars.LazyFrame({"index": indices}), on="index", how="semi").collect(engine="streaming")
    texts = normalised(rows.compared(table, recipe.task))
    return {index: (name, text) for index, name, text in zip(table["index"], table["row"], texts, strict=True)}


def _write_splits(
    recipe: Recipe, shards: list[Path], ranks: Any, aside: Any, out: Path
) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Writes the splits; returns rows per split and class, and rows per source."""
    import polars

    stays = np.ones(len(ranks), dtype=bool)
    stays[aside["index"].to_numpy()] = False
    writers = {name: Shards(out, name, rows.schema(recipe.task, recipe.data.fields.slices)) for name in SPLITS}
    counts: dict[str, dict[str, int]] = {name: dict.fromkeys(recipe.data.classes or ("rows",), 0) for name in SPLITS}
    sources: Counter[str] = Counter(dict.fromkeys(recipe.data.sources, 0))
    start = 0
    for table in side_by_side(polars.read_parquet, shards):
        here = slice(start, start + table.height)
        for rank, name in enumerate(BY_PROTECTION):
            part = table.filter(stays[here] & (ranks[here] == rank))
            writers[name].add(part)
            sources.update(dict(part["source"].value_counts().iter_rows()))
            if recipe.data.classes:
                for label, count in part["label"].value_counts().iter_rows():
                    counts[name][label] += count
            else:
                counts[name]["rows"] += part.height
        start += table.height
    for writer in writers.values():
        writer.close()
    return counts, dict(sorted(sources.items()))


def _write_quarantine(workspace: Workspace, recipe: Recipe, shards: list[Path], aside: Any, out: Path) -> dict[str, int]:
    """Writes everything that is in no split, with its bytes; returns lines per kind of reason."""
    import polars

    writer = Shards(out, QUARANTINE, quarantine_schema())
    kinds: Counter[str] = Counter()
    table = polars.scan_parquet(shards, row_index_name="index").join(aside.lazy(), on="index")
    table = table.select("index", "source", "file", "line", "row", "reason").sort("index").collect(engine="streaming")
    valid = workspace.data(recipe.name) / "valid"
    for part in [*map(polars.read_parquet, files(valid, QUARANTINE)), *_with_bytes(workspace, recipe, table)]:
        writer.add(part.select(*quarantine_schema()))
        kinds.update(kind(reason) for reason in part["reason"])
    writer.close()
    return dict(sorted(kinds.items()))


def _with_bytes(workspace: Workspace, recipe: Recipe, table: Any) -> Iterator[Any]:
    """The rows of the table with their bytes, a file at a time."""
    import polars

    def read(place: tuple[str, Path, str]) -> Any:
        name, path, file = place
        part = table.filter((polars.col("source") == name) & (polars.col("file") == file))
        if not part.height:
            return part.with_columns(polars.lit(None, dtype=polars.Binary).alias("raw"))
        wanted = np.sort(part["line"].to_numpy())
        source = recipe.data.sources[name]
        found: dict[int, bytes] = {}
        for piece in readers.pieces(path, name, source, recipe.data.fields.read(source)):
            low, high = np.searchsorted(wanted, [piece.first, piece.last + 1])
            found |= {int(line): piece.raw(int(line)) for line in wanted[low:high]}
        return part.with_columns(polars.Series("raw", [found[line] for line in part["line"]], dtype=polars.Binary))

    places = ((name, path, file) for name in recipe.data.sources for path, file in raw_files(workspace, recipe.name, name))
    return side_by_side(read, places)


def kind(reason: str) -> str:
    """What a reason has in common with others, for counting."""
    known = {"text of ": "repeated text", "near copy of ": "near copy across splits", "asked in ": "prompt in two splits"}
    for begin, name in known.items():
        if reason.startswith(begin):
            return name
    return reason.split("; ")[0].split(" '")[0].split(" at byte")[0].split(":")[0]


def _check_filled(recipe: Recipe, counts: dict[str, dict[str, int]]) -> None:
    for name, classes in counts.items():
        for label, count in classes.items():
            if count == 0:
                table = "; ".join(f"{split}: {kinds}" for split, kinds in counts.items())
                what = f"row of class {label!r}" if recipe.data.classes else "row"
                raise DataError(
                    f"split {name!r} has no {what} (needed: at least 1). Rows per split: {table}. "
                    "Add data, raise data.split, or drop the class from data.fields.label.classes."
                )
