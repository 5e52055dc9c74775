"""Which split a row belongs to, and when two texts count as the same."""

from typing import Any, get_args

import numpy as np

from adaptory.recipe import Split, SplitName

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
# The most protected first: of two copies, the one in the more protected split stays.
BY_PROTECTION: tuple[SplitName, ...] = ("test", "validation", "train")


def ranks_of(groups: Any, split: Split) -> Any:
    """The place in BY_PROTECTION of each document's split: a function of its name and the salt, whatever else there is.

    A polars Series of names gives an array of bytes.
    """
    import polars
    from xxhash import xxh3_64_intdigest as digest

    seed = digest(split.salt.encode())
    places = np.array([digest(name, seed) for name in groups.cast(polars.Binary).to_list()], dtype=np.uint64)
    bounds = np.array([split.test, split.test + split.validation]) * 2.0**64
    return np.searchsorted(bounds, places.astype(np.float64), side="right").astype(np.uint8)


def normalised(texts: Any) -> Any:
    """The form in which two texts count as the same: compatibility form, lower case, single spaces. A polars Series."""
    unusual = texts.str.len_bytes() != texts.str.len_chars()
    for space in ("  ", "\t", "\n", "\r", "\v", "\f"):
        unusual |= texts.str.contains(space, literal=True)
    places = unusual.fill_null(False).arg_true()
    if len(places):  # few, and slow: 20 times the rest
        odd = texts.gather(places).str.normalize("NFKC").str.replace_all(r"\s+", " ").str.strip_chars()
        texts = texts.scatter(places, odd)
    return texts.str.to_lowercase()


def hashes_of(texts: Any) -> Any:
    """A fingerprint of each text's normal form: the same on every machine and in every version. A polars Series."""
    import polars
    from xxhash import xxh3_64_intdigest as digest

    return polars.Series("text", [digest(one) for one in normalised(texts).cast(polars.Binary).to_list()], dtype=polars.UInt64)
