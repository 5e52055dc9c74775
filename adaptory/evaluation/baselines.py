"""What a candidate must beat to be worth its electricity: answers that need no fine-tuning.

Each baseline learns from the training split at most, and answers the test texts.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptory.evaluation.scores import Answers, from_chances
from adaptory.recipe import Recipe


def majority(recipe: Recipe, train: Any, texts: Sequence[str], base: Path) -> Answers:
    """Always the most frequent class of the training split."""
    from sklearn.dummy import DummyClassifier

    model = DummyClassifier(strategy="prior").fit(train["text"].to_list(), _numbers(recipe, train))
    return from_chances("majority", "baseline", _spread(recipe, model, model.predict_proba(list(texts))))


def tfidf(recipe: Recipe, train: Any, texts: Sequence[str], base: Path) -> Answers:
    """Logistic regression on TF-IDF of words and word pairs."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, strip_accents="unicode"),
        LogisticRegression(C=4.0, class_weight="balanced", max_iter=1000),
    ).fit(train["text"].to_list(), _numbers(recipe, train))
    return from_chances("tfidf", "baseline", _spread(recipe, model, model.predict_proba(list(texts))))


def untuned(recipe: Recipe, train: Any, texts: Sequence[str], base: Path) -> Answers:
    """The base as it comes: the class whose description has the nearest sentence embedding."""
    from adaptory.evaluation.embeddings import embed

    described = [recipe.evaluation.descriptions[name] for name in recipe.data.label.classes]
    near = embed(base, texts, recipe.training.max_tokens) @ embed(base, described, recipe.training.max_tokens).T
    return Answers("untuned", "baseline", near.argmax(axis=1), near[:, -1] - near[:, 0], None)


def vader(recipe: Recipe, train: Any, texts: Sequence[str], base: Path) -> Answers:
    """The lexicon scorer of Hutto & Gilbert (ICWSM 2014), with the paper's thresholds of +-0.05."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    scorer = SentimentIntensityAnalyzer()
    score = np.array([scorer.polarity_scores(text)["compound"] for text in texts])
    return Answers("vader", "baseline", np.where(score >= 0.05, 2, np.where(score <= -0.05, 0, 1)), score, None)


ALL: dict[str, Callable[[Recipe, Any, Sequence[str], Path], Answers]] = {
    "majority": majority,
    "tfidf": tfidf,
    "untuned": untuned,
    "vader": vader,
}


def _numbers(recipe: Recipe, table: Any) -> list[int]:
    number = {name: place for place, name in enumerate(recipe.data.label.classes)}
    return [number[label] for label in table["label"]]


def _spread(recipe: Recipe, model: Any, chances: Any) -> Any:
    """The model's columns at the places of the recipe's classes: a class it never met gets 0."""
    out = np.zeros((len(chances), len(recipe.data.label.classes)))
    out[:, model.classes_] = chances
    return out
