"""The stage `profile`: what a dataset version is like, so that the next one can be compared with it.

Beside the numbers lie the words (with the class they stand for), a small sample of texts, and a fingerprint of every
row: enough to tell, years later, whether an evaluation row was ever trained on.
"""

from pathlib import Path
from typing import Any

from adaptory import fingerprint
from adaptory.data import rows
from adaptory.data.near import words
from adaptory.data.shards import files, whole_folder
from adaptory.data.splits import BY_PROTECTION, SPLITS, hashes_of, normalised
from adaptory.profile import noise
from adaptory.recipe import Frozen, Recipe, SplitName
from adaptory.workspace import Workspace

PROFILE, WORDS, SAMPLE, PRINTS, SUSPECTS = "profile.json", "words.parquet", "sample.parquet", "rows.parquet", "suspects.parquet"
KEPT = (PROFILE, WORDS, SAMPLE, PRINTS)  # what is stored with a champion
_READ = 200_000  # rows whose words are counted
_TOKENISED = 20_000  # rows whose tokens are
_SAMPLED = 1_000  # rows that are kept as they are
_WORDS = 50_000
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
# Upper ends of the classes of lengths: half-octaves, so that two versions can be compared bin by bin.
EDGES = tuple(round(2 ** (step / 2)) for step in range(2, 42))


class Lengths(Frozen):
    """How long texts are: quantiles, and rows per bin of EDGES (the last bin holds what is longer)."""

    quantiles: dict[str, float]
    counts: tuple[int, ...]


class Profile(Frozen):
    """What a dataset version is like."""

    schema_version: str = "profile/v1"
    content: str  # digest of all rows, whatever their order
    rows: dict[str, int]  # split -> rows
    labels: dict[str, int]  # class -> rows
    by_source: dict[str, dict[str, int]]  # source -> class -> rows
    words: Lengths
    tokens: Lengths | None  # of the recipe's base; None if it has no tokenizer file
    vocabulary: int  # different words
    conflicts: int  # rows set aside because their text has another label elsewhere
    suspects: int | None  # labels that a classifier trained on the other rows disputes; None: not asked

    @property
    def total(self) -> int:
        return sum(self.rows.values())


def profile(workspace: Workspace, recipe: Recipe) -> None:
    """Writes the profile of the prepared data, and what goes with it. A shard is in memory at a time."""
    import polars

    splits = workspace.data(recipe.name) / "splits"
    shards = [(split, path) for split in SPLITS for path in files(splits, split)]
    looked = [_look(recipe, split, path) for split, path in shards]
    prints = polars.concat([one for one, _ in looked])
    tally = polars.concat([one for _, one in looked]).group_by("split", "source", "label").sum().sort("split", "source", "label")
    # The rows whose hashes come first: the same ones wherever they stand, and most of them again in the next version.
    read = _rows_at(recipe, shards, prints["hash"].arg_sort().head(_READ))
    forms = normalised(read["said"])
    counted = _words(read, forms, recipe)
    suspects = noise.suspects(read, recipe) if recipe.data.classes else None
    with whole_folder(workspace.data(recipe.name) / "profile") as out:
        counted.head(_WORDS).write_parquet(out / WORDS)
        read.head(_SAMPLED).select("row", "source", "split", "said").write_parquet(out / SAMPLE)
        prints.select("text", "split").sort("text", "split").write_parquet(out / PRINTS)
        (suspects if suspects is not None else noise.empty()).write_parquet(out / SUSPECTS)
        made = Profile(
            content=fingerprint.of_bytes(prints["hash"].sort().to_numpy().tobytes()),
            rows=_sums(tally, "split"),
            labels=_labels(tally, recipe),
            by_source={name: _labels(tally.filter(polars.col("source") == name), recipe) for name in recipe.data.sources},
            words=_lengths(forms.str.count_matches(r"\S+")),
            tokens=_tokens(workspace.data(recipe.name) / "base" / "tokenizer.json", read["said"]),
            vocabulary=counted.height,
            conflicts=_conflicts(splits),
            suspects=None if suspects is None else suspects.height,
        )
        (out / PROFILE).write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Profile:
    """The profile in a folder."""
    return Profile.model_validate_json((folder / PROFILE).read_bytes())


def _look(recipe: Recipe, split: SplitName, path: Path) -> tuple[Any, Any]:
    """Of each row of a shard the hashes of its text and of all it holds; and rows by source and class."""
    import polars
    from xxhash import xxh3_64_intdigest as digest

    table = polars.read_parquet(path)
    held = polars.struct([name for name in table.columns if name not in ("file", "line")]).struct.json_encode()
    prints = {
        "text": hashes_of(rows.leaks(table, recipe.task)),
        "hash": [digest(one) for one in table.select(held.alias("held").cast(polars.Binary))["held"].to_list()],
        "split": [BY_PROTECTION.index(split)] * table.height,
    }
    label = polars.col("label") if recipe.data.classes else polars.lit("rows").alias("label")
    tally = table.group_by(polars.lit(split).alias("split"), "source", label).len("rows")
    kinds = {"text": polars.UInt64, "hash": polars.UInt64, "split": polars.UInt8}
    return polars.DataFrame(prints, schema=kinds), tally


def _rows_at(recipe: Recipe, shards: list[tuple[SplitName, Path]], places: Any) -> Any:
    """The rows at these places, in this order, with their split and the text that counts (`said`)."""
    import polars

    wanted = polars.DataFrame({"place": places}).with_row_index("order")
    found, start = [], 0
    for split, path in shards:
        table = polars.read_parquet(path).with_row_index("place", offset=start)
        start += table.height
        part = table.join(wanted, on="place").with_columns(
            polars.lit(split).alias("split"), polars.col("group").fill_null(polars.col("row"))
        )
        found.append(part.with_columns(rows.leaks(part, recipe.task).alias("said")))
    return polars.concat(found).sort("order").drop("order", "place")


def _words(table: Any, forms: Any, recipe: Recipe) -> Any:
    """In how many rows each word stands, and with which class most often."""
    import polars

    lists = polars.Series("word", [list(words(form)) for form in forms], dtype=polars.List(polars.String))
    label = table["label"] if recipe.data.classes else polars.repeat("", table.height, eager=True)
    pairs = polars.DataFrame([lists, label.alias("label")]).explode("word").drop_nulls().group_by("word", "label").len()
    best = polars.col("len").max().alias("best")
    found = pairs.sort("len", "label", descending=[True, False]).group_by("word", maintain_order=True)
    found = found.agg(polars.col("len").sum().alias("rows"), best, polars.col("label").first())
    return found.sort("rows", "word", descending=[True, False])


def _sums(tally: Any, column: str) -> dict[str, int]:
    import polars

    return {name: int(count) for name, count in tally.group_by(column).agg(polars.col("rows").sum()).sort(column).iter_rows()}


def _labels(tally: Any, recipe: Recipe) -> dict[str, int]:
    found = _sums(tally, "label")
    return {label: found.get(label, 0) for label in recipe.data.classes or ("rows",)}


def _lengths(numbers: Any) -> Lengths:
    """Quantiles and bins of a Series of counts."""
    import numpy as np

    counts = np.bincount(np.searchsorted(EDGES, numbers.to_numpy(), side="left"), minlength=len(EDGES) + 1)
    quantiles = {f"{q:g}": float(numbers.quantile(q, "nearest") or 0) for q in _QUANTILES}
    return Lengths(quantiles=quantiles, counts=tuple(int(count) for count in counts))


def _tokens(tokenizer: Path, texts: Any) -> Lengths | None:
    """Lengths in the base's own tokens, uncut."""
    import polars

    if not tokenizer.is_file():
        return None
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(tokenizer))
    made.no_truncation()
    made.no_padding()
    lengths = [len(found.ids) for found in made.encode_batch(texts.head(_TOKENISED).to_list())]
    return _lengths(polars.Series(lengths, dtype=polars.UInt32))


def _conflicts(splits: Path) -> int:
    import polars

    quarantine = polars.scan_parquet(files(splits, "quarantine")).select("reason")
    return int(quarantine.filter(polars.col("reason").str.contains(", labelled ", literal=True)).collect().height)
