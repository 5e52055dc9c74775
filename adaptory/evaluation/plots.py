"""The pictures of a report, as PNG files: confusions, slices, honesty of chances, learning curve, the data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptory.evaluation.calibration import BINS, bins, fitted
from adaptory.evaluation.measures import MEASURES
from adaptory.evaluation.scores import Answers, Truth
from adaptory.gate import Evidence, ModelScores
from adaptory.profile.profile import EDGES, Profile
from adaptory.progress import measured, said
from adaptory.recipe import LOWER, Metric

# What a loss is a mean of, by what the validation measured.
_LOSSES = {
    "macro F1": "cross-entropy, nats per row", "perplexity": "cross-entropy, nats per token",
    "Pearson r": "squared error of standardised values", "accuracy": "loss, nats per pair",
}  # fmt: skip
_INK, _SOFT, _FIRST, _SECOND = "#1f2933", "#9aa5b1", "#1f6feb", "#d1495b"


def confusions(truth: Truth, models: Sequence[tuple[str, Answers]], classes: Sequence[str], path: Path) -> None:
    """Which class was taken for which, one model beside the other: rows per cell, shaded by the share of the true class."""
    assert truth.labels is not None
    figure, many = _figures(1 + 3.6 * len(models), 3.9, len(models))
    for axes, (name, model) in zip(many, models, strict=True):
        assert model.picked is not None
        counts = np.zeros((len(classes), len(classes)), dtype=int)
        np.add.at(counts, (truth.labels, model.picked), 1)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*counts.shape):
            colour = "white" if shares[row, column] > 0.5 else _INK
            text = f"{counts[row, column]:,}\n{shares[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9 if len(classes) < 6 else 6)
        axes.set_xticks(range(len(classes)), classes)
        axes.set_yticks(range(len(classes)), classes)
        axes.set_xlabel(f"class the {name} picked")
        axes.set_ylabel("true class")
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    figure.savefig(path)


def forest(evidence: Evidence, other: ModelScores, against: str, metric: Metric, path: Path) -> None:
    """The difference to another model in every slice, with its interval; of a class, in its F1."""
    lines = [("all rows", evidence.rows, evidence.difference(other.name, metric))]
    for name, found in evidence.of("candidate")[0].slices.items():
        of = "f1" if name.startswith("class=") else metric
        if of in found:
            lines.append((name, evidence.slice_rows.get(name, 0), evidence.difference(other.name, of, name)))
    there = [(name, rows, gap) for name, rows, gap in lines if gap is not None and gap.value is not None]
    figure, axes = _figure(9.0, 0.8 + 0.28 * len(there))
    for place, (name, _, gap) in enumerate(reversed(there)):
        low, value, high = gap.low or 0.0, gap.value or 0.0, gap.high or 0.0
        better = (-high if metric in LOWER and not name.startswith("class=") else low) > 0
        worse = (low if metric in LOWER and not name.startswith("class=") else -high) > 0
        colour = _FIRST if better else _SECOND if worse else _SOFT
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(value, place, "s", color=colour, markersize=6 if place == len(there) - 1 else 4.5)
    axes.axvline(0, color=_INK, linewidth=0.8)
    axes.set_yticks(range(len(there)), [f"{name}  ({rows:,})" for name, rows, _ in reversed(there)])
    axes.set_ylim(-0.6, len(there) - 0.4)
    axes.tick_params(axis="y", length=0)
    side = "better to the left" if metric in LOWER else "better to the right"
    axes.set_xlabel(f"candidate minus {against}: {MEASURES[metric].title}, of a class F1 (rows in brackets; {side})")
    figure.savefig(path)


def reliability(truth: Truth, models: Sequence[tuple[str, Answers]], path: Path) -> None:
    """Of the rows whose likeliest class got such a chance, how many are of it: on the diagonal, chances are honest."""
    assert truth.labels is not None
    figure, axes = _figure(4.9, 3.9)
    axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.8)
    for (name, model), colour in zip(models, (_FIRST, _SECOND), strict=False):
        assert model.chances is not None
        curves = [(name, model.chances, "-")]
        if model.temperature:
            curves.append((f"{name}, temperature {model.temperature:.2f}", fitted(model.chances, model.temperature), ":"))
        for label, chances, style in curves:
            count, sure, right = bins(chances, truth.labels).reshape(-1, 3, BINS).sum(axis=0)
            some = count >= 10
            axes.plot(
                sure[some] / count[some], right[some] / count[some], style, marker="o", markersize=3, color=colour, label=label
            )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("chance of the picked class (bins of 10 rows or more)")
    axes.set_ylabel("share of them that is right")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(path)


def learning_curve(events: Path, path: Path) -> None:
    """Training loss per step (thin) and its running mean, and what the validation measured after each epoch."""
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    epochs = [line for line in lines if line["event"] == "epoch"]
    at, loss = np.array([s["step"] for s in steps]), np.array([s["loss"] for s in steps])
    window = max(1, len(loss) // 25)
    smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
    figure, axes = _figure(6.4, 3.6)
    axes.plot(at, loss, color=_SOFT, linewidth=0.6)
    axes.plot(at[window - 1 :], smooth, color=_FIRST, linewidth=2)
    axes.set_ylim(0, float(np.quantile(loss, 0.995)) * 1.1)
    axes.set_xlim(0, at[-1] * 1.04)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(f"training loss: {_LOSSES.get(epochs[0]['measured'] if epochs else '', '')}".rstrip(": "), color=_FIRST)
    if epochs:
        right = axes.twinx()
        right.spines[["top", "left"]].set_visible(False)
        right.tick_params(colors=_INK, labelsize=9)
        values = [measured(epoch) for epoch in epochs]
        right.plot([epoch["step"] for epoch in epochs], values, color=_SECOND, linewidth=1.2, marker="o", markersize=4)
        right.margins(y=0.25)
        right.set_ylabel(f"validation {epochs[0]['measured']} after each epoch", color=_SECOND)
        beside = -16 if values[-1] < values[0] else 8  # where the curve does not come from
        right.annotate(
            said(epochs[-1]), (epochs[-1]["step"], values[-1]), xytext=(-2, beside), textcoords="offset points", ha="right",
            color=_SECOND, fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )  # fmt: skip
    figure.savefig(path)


def data(now: Profile, then: Profile | None, path: Path) -> None:
    """The share of each class in each source, and how long texts are; the champion's data in grey."""
    figure, (left, right) = _figures(9.0, 3.4, 2)
    classes, sources = list(now.labels), list(now.by_source)[::-1]
    shades = [_SECOND, _SOFT, _FIRST] if len(classes) == 3 else [_FIRST, _SECOND, _SOFT, "#e8a33d", "#2a9d8f", "#8d6cab"]
    start = np.zeros(len(sources))
    if len(classes) == 1:  # a task without classes
        left.barh(sources, [sum(now.by_source[source].values()) for source in sources], color=_FIRST, height=0.7)
        left.set_xlabel("rows")
    for place, name in enumerate(classes if len(classes) > 1 else []):
        share = np.array([now.by_source[source].get(name, 0) / max(1, sum(now.by_source[source].values())) for source in sources])
        left.barh(sources, share, left=start, color=shades[place % len(shades)], label=name, height=0.7)
        start += share
    if len(classes) > 1:
        left.set_xlim(0, 1)
        left.set_xlabel("share of the source's rows")
        left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(4, len(classes)), frameon=False, fontsize=8)
    used = max(place for one in (now, then) if one for place, count in enumerate(one.words.counts) if count) + 1
    edges = np.array([1, *EDGES])[: used + 1]
    for one, colour, label in ((then, _SOFT, "the champion's data"), (now, _FIRST, "this data")):
        if one:
            shares = np.array(one.words.counts[: len(edges) - 1]) / max(1, sum(one.words.counts))
            right.stairs(shares, edges, color=colour, linewidth=2, label=label)
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter("{x:g}")
    right.set_xlabel("words per text")
    right.set_ylabel("share of rows")
    if then:
        right.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def _figures(width: float, height: float, count: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    many = figure.subplots(1, count, squeeze=False)[0]
    for axes in many:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK, labelsize=9)
    return figure, many


def _figure(width: float, height: float) -> tuple[Any, Any]:
    figure, axes = _figures(width, height, 1)
    return figure, axes[0]
