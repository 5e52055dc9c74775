"""Near-copies: texts that share most of their words. MinHash finds the candidates, the words themselves decide.

MinHash with banding (Broder 1997; Leskovec, Rajaraman & Ullman, chapter 3): two texts that share 80% of their words meet
in at least one of 21 bands of 6 with probability 0.998, two that share half of them with probability 0.28. What meets is
compared by one byte per slot (b-bit MinHash, Li & König 2010), and what is still near by its words.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from adaptory.data.splits import BY_PROTECTION

BANDS, DEPTH = 21, 6
_SLOTS = 128  # BANDS * DEPTH of them are used
_SEED = 1
_SLACK = 0.15  # of the estimate: more than three standard deviations
_MOST = 50  # protected rows that a row is compared with, in one band
_TEXTS, _ROWS, _PAIRS = 50_000, 200_000, 100_000  # texts, rows and pairs worked on at a time
# What differs between copies of one text: links, addresses, names of users.
_MASKED = re.compile(r"(?:https?://|www\.)\S+|\S+@\S+\.\S+|@\w+")
# A word; in scripts without spaces, a character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]+")


def words(text: str) -> frozenset[str]:
    """The words of a normalised text, without links, addresses and names of users."""
    return frozenset(_WORD.findall(_MASKED.sub(" ", text)))


def share(one: frozenset[str], other: frozenset[str]) -> float:
    """The Jaccard index of two sets of words; 0 if both are empty."""
    either = len(one | other)
    return len(one & other) / either if either else 0.0


class Signatures:
    """The MinHash signatures of all rows, on disk: a file of hashes for each band, and one byte for each slot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, made: list[tuple[Any, Any]]) -> None:
        """Appends what `signed` made."""
        for hashes, sketch in made:
            for band in range(BANDS):
                with (self._folder / f"band-{band}").open("ab") as file:
                    file.write(np.ascontiguousarray(hashes[:, band]).tobytes())
            with (self._folder / "sketch").open("ab") as file:
                file.write(sketch.tobytes())

    def band(self, number: int) -> Any:
        return np.fromfile(self._folder / f"band-{number}", dtype=np.uint64)

    def near(self, rows: Any, others: Any, limit: float) -> Any:
        """Which pairs of rows are estimated to share `limit` of their words, or a little less."""
        sketch = np.memmap(self._folder / "sketch", dtype=np.uint8, mode="r").reshape(-1, _SLOTS)
        parts = [slice(start, start + _PAIRS) for start in range(0, len(rows), _PAIRS)]
        same = [(sketch[rows[part]] == sketch[others[part]]).mean(axis=1) >= limit - _SLACK for part in parts]
        return np.concatenate([np.zeros(0, dtype=bool), *same])


def signed(texts: Any) -> list[tuple[Any, Any]]:
    """Band hashes (rows x BANDS, uint64) and sketches (rows x slots, uint8) of a Series of normalised texts, in parts."""
    return [_signed(texts.slice(start, _TEXTS)) for start in range(0, len(texts), _TEXTS)]


def _signed(texts: Iterable[str]) -> tuple[Any, Any]:
    from rensa import RMinHash

    tokens = [list(words(text)) for text in texts]
    slots = np.array(RMinHash.digest_matrix_from_token_sets(tokens, _SLOTS, _SEED).to_rows(), dtype=np.uint32)
    in_bands = slots[:, : BANDS * DEPTH].reshape(len(tokens), BANDS, DEPTH).astype(np.uint64)
    hashes = np.zeros((len(tokens), BANDS), dtype=np.uint64)
    for place in range(DEPTH):
        hashes = (hashes ^ in_bands[:, :, place]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    hashes[[not row for row in tokens]] = 0  # a text without words is near to none
    return hashes, (slots & 255).astype(np.uint8)


def across_splits(signatures: Signatures, ranks: Any, limit: float, texts: Callable[[Any], dict[int, tuple[str, str]]]) -> Any:
    """A table of index and reason: rows with a near-copy in a more protected split.

    `ranks` holds the place of each row's split in BY_PROTECTION; `texts` gives (name, normalised text) of the rows with
    these indices.
    """
    import polars

    found: dict[int, tuple[int, str]] = {}
    done = np.zeros(len(ranks), dtype=bool)
    for band in range(BANDS):
        pairs = [
            (row, other)
            for rows, others in _candidates(signatures.band(band), ranks, done)
            for row, other in np.stack([rows, others], axis=1)[signatures.near(rows, others, limit)].tolist()
        ]
        if not pairs:
            continue
        known = texts(np.unique(pairs).astype(np.uint32))
        sets = {index: words(text) for index, (_, text) in known.items()}
        for row, other in pairs:
            if share(sets[row], sets[other]) >= limit:
                here = (int(ranks[other]), known[other][0])
                found[row] = min(found.get(row, here), here)
        done[list(found)] = True
    reasons = {index: f"near copy of {name} in {BY_PROTECTION[rank]}" for index, (rank, name) in sorted(found.items())}
    return polars.DataFrame(
        {"index": list(reasons), "reason": list(reasons.values())}, schema={"index": polars.UInt32, "reason": polars.String}
    )


def _candidates(hashes: Any, ranks: Any, done: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs of a row (not done) and a row of a more protected split that meet in this band, some at a time."""
    import polars

    table = polars.DataFrame({"row": np.arange(len(hashes), dtype=np.uint32), "band": hashes, "rank": ranks})
    table = table.filter((polars.col("band") != 0) & polars.col("band").is_duplicated())
    table = table.filter(polars.col("rank").n_unique().over("band") > 1)
    protected = table.filter(polars.col("rank") < len(BY_PROTECTION) - 1).sort("band", "rank", "row")
    protected = protected.group_by("band", maintain_order=True).head(_MOST).rename({"row": "other", "rank": "other_rank"})
    rest = table.filter(polars.col("rank") > 0)
    rest = rest.filter(~done[rest["row"].to_numpy()])
    for part in rest.iter_slices(_ROWS):
        pairs = part.join(protected, on="band").filter(polars.col("rank") > polars.col("other_rank"))
        if pairs.height:
            yield pairs["row"].to_numpy(), pairs["other"].to_numpy()
