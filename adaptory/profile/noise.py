"""Labels that look wrong: a classifier trained on the other rows disputes them. They are listed, never dropped.

Confident learning (Northcutt, Jiang & Chuang, JAIR 2021) as cleanlab has it, on out-of-fold probabilities of a linear
model of words: a document is never in the fold it is judged by.
"""

from typing import Any

from adaptory.recipe import Recipe

_FEWEST, _MOST = 1_000, 50_000  # rows; below, an out-of-fold model is no judge
_FOLDS = 5


def suspects(table: Any, recipe: Recipe) -> Any | None:
    """A table of row, source, text, label, likely (the label the model would give) and doubt (0..1), worst first.

    None where the question cannot be asked: too few rows, or a class with fewer documents than folds.
    """
    import numpy as np
    import polars

    if table.height < _FEWEST:
        return None
    table = table.head(_MOST)
    classes = recipe.data.classes
    number = {label: place for place, label in enumerate(classes)}
    labels = np.array([number[label] for label in table["label"]])
    chances = _out_of_fold(table, labels, len(classes))
    if chances is None:
        return None
    from cleanlab.filter import find_label_issues

    worst = find_label_issues(labels, chances, return_indices_ranked_by="self_confidence", filter_by="both", n_jobs=1)
    likely = [classes[place] for place in chances[worst].argmax(axis=1)]
    doubt = 1 - chances[worst, labels[worst]]
    found = table[worst].select("row", "source", "text", "label")
    return found.with_columns(polars.Series("likely", likely, dtype=polars.String), polars.Series("doubt", doubt))


def empty() -> Any:
    """No suspects."""
    import polars

    text = ("row", "source", "text", "label", "likely")
    return polars.DataFrame(schema=dict.fromkeys(text, polars.String) | {"doubt": polars.Float64})


def _out_of_fold(table: Any, labels: Any, classes: int) -> Any | None:
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, strip_accents="unicode").fit_transform(table["text"])
    fold = table["group"].rank("dense").to_numpy() % _FOLDS
    chances = np.zeros((table.height, classes))
    for held in (fold == number for number in range(_FOLDS)):
        if not held.any() or len(np.unique(labels[~held])) < classes:
            return None
        # Logistic regression by stochastic descent: as good here as a Newton method, in a tenth of the time.
        model = SGDClassifier(loss="log_loss", alpha=2e-5, max_iter=20, tol=None, random_state=0).fit(words[~held], labels[~held])
        chances[held] = model.predict_proba(words[held])
    return chances
