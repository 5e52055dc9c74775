"""How far the sources of a dataset lie from one another: what domain adaptation has to bridge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from adaptory.profile.drift import two_sample
from adaptory.profile.profile import SAMPLE
from adaptory.recipe import Frozen

_EACH, _FEWEST = 150, 30  # texts of a source


class Distance(Frozen):
    """How well a classifier on the base's embeddings tells a source from all others: AUC with its interval."""

    source: str
    auc: float
    low: float
    high: float


def distances(folder: Path, embed: Callable[[list[str]], Any]) -> list[Distance]:
    """The distance of each source that has enough texts in the sample of a profile; none if there is one source only."""
    import numpy as np
    import polars

    sample = polars.read_parquet(folder / SAMPLE).group_by("source", maintain_order=True).head(_EACH)
    counts = dict(sample["source"].value_counts().iter_rows())
    sources = sorted(name for name, count in counts.items() if count >= _FEWEST)
    if len(sources) < 2:
        return []
    sample = sample.filter(polars.col("source").is_in(sources))
    points, names = embed(sample["said"].to_list()), np.array(sample["source"])
    found = {name: two_sample(points[names == name], points[names != name]) for name in sources}
    return [Distance(source=name, auc=auc, low=low, high=high) for name, (auc, low, high) in found.items()]
