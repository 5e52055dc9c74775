"""What can be measured of which task."""

from typing import Literal

from adaptory.recipe.data import Task

Metric = Literal[
    "macro_f1", "weighted_f1", "accuracy", "roc_auc", "brier", "ece", "ece_fitted", "precision", "recall", "f1",
    "pearson_r", "spearman_r", "mae", "bleu", "chrf", "exact_match", "placeholders", "stopped", "perplexity",
    "reward_accuracy",
]  # fmt: skip
LOWER: tuple[Metric, ...] = ("brier", "ece", "ece_fitted", "mae", "perplexity")  # metrics of which less is better
OF_A_CLASS: tuple[Metric, ...] = ("precision", "recall", "f1")  # in slices `class=...` only
CALIBRATION: tuple[Metric, ...] = ("roc_auc", "brier", "ece", "ece_fitted")  # of models that give chances
_CLASSES: tuple[Metric, ...] = ("macro_f1", "accuracy", "pearson_r", "weighted_f1", *CALIBRATION)
# What is measured of each task, the main metric first; pearson_r of classes only where a number lies behind them.
METRICS: dict[Task, tuple[Metric, ...]] = {
    "classification": _CLASSES,
    "pair_classification": _CLASSES,
    "regression": ("pearson_r", "spearman_r", "mae"),
    "sft": ("chrf", "bleu", "exact_match", "placeholders", "stopped"),
    "text": ("perplexity",),
    "preference": ("reward_accuracy",),
}
