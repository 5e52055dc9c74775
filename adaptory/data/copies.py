"""Rows that repeat others: which one stays, and why the others are set aside.

Of equal texts one row stays, in the most protected split (test, validation, train); of rows with one id and different
content none does. So a row's split never depends on other rows: it is in its own split, or set aside.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from adaptory.data.splits import BY_PROTECTION

Names = Callable[[Any], Any]  # indices -> table of index, row (and label, if there are classes)


def repeated(keys: Any, names: Names) -> Any:
    """A table of index and reason: the rows to set aside.

    `keys` has a row for each row: index, rank (place of its split in BY_PROTECTION), and 64-bit hashes of its name
    (`id`), of all it holds (`body`), of its content in normalised form (`content`), and, where it is not all of the
    content, of the text that must not be met in two splits (`leak`).
    """
    import polars

    questions = {"id": _same_id, "content": _same_content, "leak": _across_splits}
    # All in one: these are the only questions that look at every row.
    twice = keys.select(polars.col(name).is_duplicated() for name in questions if name in keys.columns)
    stays = np.ones(keys.height, dtype=bool)
    found = []
    for name in twice.columns:
        some = keys.filter(twice[name].to_numpy() & stays)
        found.append(questions[name](some.filter(polars.col(name).is_duplicated()), names))
        stays[found[-1]["index"].to_numpy()] = False
    return polars.concat(found)


def _same_id(twice: Any, names: Names) -> Any:
    import polars

    conflict = polars.col("body").n_unique().over("id") > 1
    reason = (
        polars.when(conflict).then(polars.lit("id repeats, with another content"))
        .when(polars.col("index") > polars.col("index").min().over("id")).then(polars.lit("id repeats, same row"))
    )  # fmt: skip
    return twice.select("index", reason.alias("reason")).drop_nulls()


def _same_content(twice: Any, names: Names) -> Any:
    """All but one of each content; the one that stays is in the most protected split, and its name sorts first."""
    import polars

    twice = twice.join(names(twice["index"]), on="index").sort("content", "rank", "row")
    kept = polars.col("row").first().over("content")
    reason = polars.format("text of {}", kept)
    if "label" in twice.columns:
        there = polars.col("label").first().over("content")
        reason = (
            polars.when(polars.col("label") == there).then(polars.format("text of {}, same label", kept))
            .otherwise(polars.format("text of {}, labelled {}, there {}", kept, polars.col("label"), there))
        )  # fmt: skip
    is_first = polars.col("index") == polars.col("index").first().over("content")
    return twice.select("index", polars.when(~is_first).then(reason).alias("reason")).drop_nulls()


def _across_splits(twice: Any, names: Names) -> Any:
    """Rows whose prompt stands in a more protected split too."""
    import polars

    twice = twice.filter(polars.col("rank").n_unique().over("leak") > 1)
    twice = twice.join(names(twice["index"]), on="index").sort("leak", "rank", "row")
    where = polars.col("rank").first().over("leak").replace_strict(dict(enumerate(BY_PROTECTION)), return_dtype=polars.String)
    reason = polars.format("asked in {} too, by {}", where, polars.col("row").first().over("leak"))
    behind = polars.col("rank") > polars.col("rank").first().over("leak")
    return twice.select("index", polars.when(behind).then(reason).alias("reason")).drop_nulls()
