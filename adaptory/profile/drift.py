"""Does the new data still come from the champion's world? Each question has a number, a limit, and a sentence.

What crosses a limit is not wrong, but a person should know before a model is trained on it: half the rows missing, a
class that doubled, a word that always stands with one label and was never seen before.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from adaptory.profile.profile import SAMPLE, WORDS, Profile, read
from adaptory.recipe import Drift, Frozen

Verdict = Literal["retrain", "needs approval", "nothing new"]
_NEW_WORD_ROWS, _NEW_WORD_SHARE = 0.005, 0.95  # of all rows; of the rows with the word
_RESAMPLES, _CONFIDENCE = 1_000, 0.95


class Finding(Frozen):
    """One comparison with the champion's data."""

    what: str
    measured: float
    low: float | None = None
    high: float | None = None
    limit: float
    crossed: bool
    reason: str


class Comparison(Frozen):
    """The new data beside the champion's."""

    schema_version: str = "drift/v1"
    verdict: Verdict
    reason: str
    data: str
    champion_data: str
    champion_version: int
    findings: tuple[Finding, ...]


def compare(new: Path, old: Path, limits: Drift, embeddings: tuple[Any, Any] | None) -> tuple[Verdict, str, tuple[Finding, ...]]:
    """The verdict on the data profiled in `new` beside that in `old`, its reason, and every finding.

    `embeddings` are those of the samples of both; without them that question is not asked.
    """
    now, then = read(new), read(old)
    if now.content == then.content:
        return "nothing new", "every row is one of the champion's, and none is missing", ()
    findings = [_rows(now, then, limits), _labels(now, then, limits), _lengths(now, then, limits), *_words(new, old, limits)]
    if embeddings:
        findings.append(_embeddings(*embeddings, limits))
    crossed = [finding for finding in findings if finding.crossed]
    if crossed:
        return "needs approval", "; ".join(finding.reason for finding in crossed), tuple(findings)
    change = now.total - then.total
    return "retrain", f"{abs(change):,} rows {'more' if change >= 0 else 'fewer'} than the champion's, and alike", tuple(findings)


def _rows(now: Profile, then: Profile, limits: Drift) -> Finding:
    share = now.total / then.total
    return Finding(
        what="rows", measured=share, limit=limits.rows, crossed=share < limits.rows,
        reason=f"{now.total:,} rows where the champion had {then.total:,} ({share:.2f} of them; at least {limits.rows:g})",
    )  # fmt: skip


def _labels(now: Profile, then: Profile, limits: Drift) -> Finding:
    """Total variation between the shares of the classes; a class that is new or gone counts whole."""
    names = {*now.labels, *then.labels}
    shares = {name: (now.labels.get(name, 0) / now.total, then.labels.get(name, 0) / then.total) for name in names}
    moved = sum(abs(here - there) for here, there in shares.values()) / 2
    worst = max(sorted(names), key=lambda name: abs(shares[name][0] - shares[name][1]))
    here, there = shares[worst]
    return Finding(
        what="labels", measured=moved, limit=limits.labels, crossed=moved > limits.labels,
        reason=f"{moved:.1%} of the rows changed class, {worst} from {there:.1%} to {here:.1%} (at most {limits.labels:.1%})",
    )  # fmt: skip


def _lengths(now: Profile, then: Profile, limits: Drift) -> Finding:
    """Kolmogorov-Smirnov distance of the lengths in words, from their bins."""
    here, there = (np.cumsum(one.words.counts) / max(1, sum(one.words.counts)) for one in (now, then))
    distance = float(np.abs(here - there).max())
    medians = [one.words.quantiles["0.5"] for one in (now, then)]
    return Finding(
        what="lengths", measured=distance, limit=limits.lengths, crossed=distance > limits.lengths,
        reason=f"lengths differ by {distance:.2f} (median {medians[0]:g} words, was {medians[1]:g}; at most {limits.lengths:g})",
    )  # fmt: skip


def _words(new: Path, old: Path, limits: Drift) -> list[Finding]:
    """The part of all words that the champion's data had not; and each frequent new word that stands with one class only."""
    import polars

    here, there = (polars.read_parquet(folder / WORDS) for folder in (new, old))
    fresh = here.join(there, on="word", how="anti")
    share = float(fresh["rows"].sum() / max(1, here["rows"].sum()))
    examples = ", ".join(fresh.head(3)["word"])
    found = [Finding(
        what="vocabulary", measured=share, limit=limits.vocabulary, crossed=share > limits.vocabulary,
        reason=f"{share:.1%} of the words are new{f' ({examples})' if examples else ''} (at most {limits.vocabulary:.1%})",
    )]  # fmt: skip
    total = min(read(new).total, 200_000)
    if here["label"].n_unique() < 2:
        return found
    odd = fresh.filter(polars.col("rows") >= max(10, _NEW_WORD_ROWS * total))
    odd = odd.filter(polars.col("best") >= _NEW_WORD_SHARE * polars.col("rows"))
    return found + [
        Finding(
            what="new word", measured=best / count, limit=_NEW_WORD_SHARE, crossed=True,
            reason=f"the new word {word!r} stands in {count:,} rows, {best / count:.0%} of them {label}: a mistake or a trigger",
        )
        for word, count, best, label in odd.head(5).select("word", "rows", "best", "label").iter_rows()
    ]  # fmt: skip


def _embeddings(new: Any, old: Any, limits: Drift) -> Finding:
    value, low, high = two_sample(new, old)
    return Finding(
        what="embeddings", measured=value, low=low, high=high, limit=limits.embeddings, crossed=low > limits.embeddings,
        reason=f"a classifier tells new texts from the champion's with AUC {value:.2f} [{low:.2f}, {high:.2f}] "
        f"(0.50: not at all; its lower end at most {limits.embeddings:g})",
    )  # fmt: skip


def two_sample(one: Any, other: Any) -> tuple[float, float, float]:
    """How well a linear classifier tells two samples of embeddings apart: cross-validated AUC, and its bootstrap interval.

    0.5 means not at all (Lopez-Paz & Oquab, "Revisiting classifier two-sample tests", ICLR 2017).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    points = np.concatenate([one, other])
    sides = np.array([1] * len(one) + [0] * len(other))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = cross_val_predict(LogisticRegression(C=1.0, max_iter=300), points, sides, cv=folds, method="predict_proba")[:, 1]
    _, places = np.unique(scores, return_inverse=True)  # equal scores stand in one place
    here, there = places[sides == 1], places[sides == 0]
    draw = np.random.default_rng(0)
    picked = [(draw.choice(here, len(here)), draw.choice(there, len(there))) for _ in range(_RESAMPLES)]
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile([_auc(*pair) for pair in picked], [tail, 1 - tail])
    return _auc(here, there), float(low), float(high)


def _auc(here: Any, there: Any) -> float:
    """How often one of `here` stands above one of `there`, by their places; a tie counts half (Mann & Whitney)."""
    highest = max(here.max(), there.max()) + 1
    ours, theirs = np.bincount(here, minlength=highest), np.bincount(there, minlength=highest)
    return float(ours @ (np.cumsum(theirs) - theirs / 2) / (len(here) * len(there)))


def sample(folder: Path, count: int = 400) -> list[str]:
    """Texts to embed: the first of the sample, which is in the order of hashes."""
    import polars

    return list(polars.read_parquet(folder / SAMPLE)["said"].head(count))
