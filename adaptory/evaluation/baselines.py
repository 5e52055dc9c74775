"""What a candidate must beat to be worth its electricity: answers that need no fine-tuning.

Each baseline learns from the training split at most, and answers the test rows.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptory.errors import RecipeError
from adaptory.evaluation import respond
from adaptory.evaluation.scores import Answers, from_chances
from adaptory.recipe import Recipe, baselines_of
from adaptory.training import network, prefix, render

KIND = "baseline"


@dataclass(frozen=True)
class Ask:
    """What a baseline answers, and what it may learn from."""

    recipe: Recipe
    train: Any
    test: Any
    base: Path
    tell: Callable[[int], None]

    def said(self, table: Any) -> list[str]:
        """The text of each row; of a pair both texts."""
        if self.recipe.task != "pair_classification":
            return list(table["text"])
        return [f"{first}\n{second}" for first, second in zip(table["text"], table["text_pair"], strict=True)]


def majority(ask: Ask) -> Answers:
    """Always the most frequent class of the training split."""
    from sklearn.dummy import DummyClassifier

    model = DummyClassifier(strategy="prior").fit(ask.said(ask.train), _numbers(ask.recipe, ask.train))
    return from_chances("majority", KIND, _spread(ask.recipe, model, model.predict_proba(ask.said(ask.test))))


def mean(ask: Ask) -> Answers:
    """Always the mean of the training split's values."""
    return Answers("mean", KIND, score=np.full(ask.test.height, float(ask.train["value"].mean())))


def tfidf(ask: Ask) -> Answers:
    """Logistic (or ridge) regression on TF-IDF of words and word pairs."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    said = ask.said(ask.train)
    # Scripts without spaces have no words that a pattern could find: characters, and what stands side by side, instead.
    spaced = sum(len(text.split()) for text in said) * 12 > sum(map(len, said))
    pieces = {"ngram_range": (1, 2)} if spaced else {"analyzer": "char", "ngram_range": (1, 3)}
    words = TfidfVectorizer(min_df=2, sublinear_tf=True, strip_accents="unicode", **pieces)
    try:
        words.fit(said)
    except ValueError:  # nothing is said twice
        words.set_params(min_df=1, analyzer="char")
    if ask.recipe.task == "regression":
        line = make_pipeline(words, Ridge()).fit(said, ask.train["value"].to_numpy())
        return Answers("tfidf", KIND, score=np.asarray(line.predict(ask.said(ask.test)), dtype=np.float64))
    model = make_pipeline(words, LogisticRegression(C=4.0, class_weight="balanced", max_iter=1000))
    model.fit(said, _numbers(ask.recipe, ask.train))
    return from_chances("tfidf", KIND, _spread(ask.recipe, model, model.predict_proba(ask.said(ask.test))))


def untuned(ask: Ask) -> Answers:
    """The base as it comes: the class whose description has the nearest sentence embedding; or its likelihoods."""
    recipe = ask.recipe
    if recipe.task in ("text", "preference"):
        return respond.respond("untuned", KIND, respond.untuned(ask.base, recipe), recipe, ask.test)
    from adaptory.evaluation.embeddings import embed

    described = [recipe.evaluation.descriptions[name] for name in recipe.data.classes]
    near = embed(ask.base, list(ask.test["text"]), recipe.training.max_tokens)
    near = near @ embed(ask.base, described, recipe.training.max_tokens).T
    return Answers("untuned", KIND, near.argmax(axis=1), near[:, -1] - near[:, 0])


def vader(ask: Ask) -> Answers:
    """The lexicon scorer of Hutto & Gilbert (ICWSM 2014), with the paper's thresholds of +-0.05."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    scorer = SentimentIntensityAnalyzer()
    score = np.array([scorer.polarity_scores(text)["compound"] for text in ask.test["text"]])
    return Answers("vader", KIND, np.where(score >= 0.05, 2, np.where(score <= -0.05, 0, 1)), score)


def zero_shot(ask: Ask) -> Answers:
    """The base as it comes, asked with the same prompt as the candidate; of classes, which one it would rather say."""
    return _asked_for_classes("zero_shot", ask, []) if ask.recipe.data.classes else _prompted("zero_shot", ask, [])


def few_shot(ask: Ask) -> Answers:
    """The base as it comes, shown some training rows of middle length first, the same ones before every question.

    Of classes a language model is shown so many of each; of an encoder's embeddings, the class whose examples lie nearest on
    average is taken (prototypes; Snell et al. 2017).
    """
    if ask.recipe.data.classes:
        return _asked_for_classes("few_shot", ask, _shown(ask)) if _writes(ask.base) else _prototypes(ask)
    return _prompted("few_shot", ask, shown_chats(ask))


def shown_chats(ask: Ask) -> list[dict[str, str]]:
    """The turns of the training rows that few_shot shows."""
    chats = [json.loads(chat) for chat in ask.train.sort("row")["messages"].head(100)]
    some = sorted(chats, key=lambda chat: len(json.dumps(chat)))[len(chats) // 2 :][: ask.recipe.evaluation.shots]
    # What a system is told stands once, before everything else.
    return [turn for chat in some for turn in chat if turn["role"] != "system"]


def copy(ask: Ask) -> Answers:
    """What was asked, as it is: what a translation must beat."""
    texts = tuple(json.loads(chat)[-2]["content"] for chat in ask.test["messages"])
    return Answers("copy", KIND, texts=texts, stopped=np.ones(len(texts), dtype=bool))


def longer(ask: Ask) -> Answers:
    """The longer answer is the better one: what raters are often found to prefer."""
    sizes = [len(chosen) - len(rejected) for chosen, rejected in zip(ask.test["chosen"], ask.test["rejected"], strict=True)]
    return Answers("longer", KIND, score=np.array(sizes, dtype=np.float64))


ALL: dict[str, Callable[[Ask], Answers]] = {
    one.__name__: one for one in (majority, mean, tfidf, untuned, vader, zero_shot, few_shot, copy, longer)
}


def possible(recipe: Recipe, base: Path) -> list[str]:
    """The baselines that only ask this base, with as much as the recipe says."""
    known: list[str] = [name for name in ("untuned", "zero_shot", "few_shot") if name in baselines_of(recipe.task)]
    if recipe.task == "classification":
        described = set(recipe.data.classes) <= set(recipe.evaluation.descriptions)
        able = {"untuned": described, "zero_shot": _writes(base), "few_shot": True}
        return [name for name in known if able[name]]
    return known


def _prototypes(ask: Ask) -> Answers:
    from adaptory.data import some_rows
    from adaptory.evaluation.embeddings import embed

    recipe, length = ask.recipe, ask.recipe.training.max_tokens
    centres = []
    for name in recipe.data.classes:
        shown = some_rows(ask.train.filter(ask.train["label"] == name), recipe.evaluation.shots)
        if not shown.height:
            raise RecipeError(f"the baseline 'few_shot' has no training row of the class {name!r} to show; leave it out")
        centres.append(embed(ask.base, list(shown["text"]), length).mean(axis=0))
    near = embed(ask.base, list(ask.test["text"]), length) @ np.array(centres).T
    return Answers("few_shot", KIND, near.argmax(axis=1), near[:, -1] - near[:, 0])


def _writes(base: Path) -> bool:
    """Whether the base is a language model that can be prompted."""
    from adaptory.training import network

    return render.kind_of(network.config_of(base)) == "causal"


def _shown(ask: Ask) -> list[tuple[str, str]]:
    """Texts with their classes, so many of each, the classes taking turns."""
    from adaptory.data import some_rows

    of_each = [
        [(text, name) for text in some_rows(ask.train.filter(ask.train["label"] == name), ask.recipe.evaluation.shots)["text"]]
        for name in ask.recipe.data.classes
    ]
    return [pair for turn in zip(*of_each, strict=False) for pair in turn]


def _asked_for_classes(name: str, ask: Ask, shown: list[tuple[str, str]]) -> Answers:
    """Each class as the answer to a prompt, as likely as the base finds it: nothing is written, so nothing can be misread."""
    recipe = ask.recipe
    if not _writes(ask.base):
        raise RecipeError(f"the baseline {name!r} of classes prompts a language model, and this base is none; use 'untuned'")
    words = recipe.data.classes
    template = recipe.evaluation.prompt or "Text: {text}\nWhich of these fits best: {classes}? Answer with that word only."

    def question(text: str) -> str:
        return template.replace("{classes}", ", ".join(words)).replace("{text}", text)

    turns = [
        {"role": role, "content": said}
        for text, label in shown
        for role, said in (("user", question(text)), ("assistant", label))
    ]
    one = respond.untuned(ask.base, recipe.model_copy(update={"task": "sft"}))
    prompts = [one.made.prompt([*turns, {"role": "user", "content": question(text)}]) for text in ask.test["text"]]
    options = [one.made.response(word)[:-1] for word in words]
    most, longest = network.positions(one.model), max(map(len, prompts)) + max(map(len, options))
    if most is not None and longest > most:
        raise RecipeError(f"the baseline {name!r} asks with up to {longest:,} tokens, and the base reads {most:,}; show fewer")
    found = prefix.likelihoods(one.model, one.made, prompts, options, one.goal.settings.precision)
    chances = np.exp(found - found.max(axis=1, keepdims=True))
    return from_chances(name, KIND, chances / chances.sum(axis=1, keepdims=True))


def _prompted(name: str, ask: Ask, shown: list[dict[str, str]]) -> Answers:
    one = respond.untuned(ask.base, ask.recipe)
    prompts = [one.made.prompt([*shown, *json.loads(chat)[:-1]]) for chat in ask.test["messages"]]
    return respond.written(name, KIND, one, prompts, ask.recipe, ask.tell)


def _numbers(recipe: Recipe, table: Any) -> list[int]:
    number = {name: place for place, name in enumerate(recipe.data.classes)}
    return [number[label] for label in table["label"]]


def _spread(recipe: Recipe, model: Any, chances: Any) -> Any:
    """The model's columns at the places of the recipe's classes: a class it never met gets 0."""
    out = np.zeros((len(chances), len(recipe.data.classes)))
    out[:, model.classes_] = chances
    return out
