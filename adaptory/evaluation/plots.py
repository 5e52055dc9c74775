"""The pictures of a report, as PNG files: confusion matrix and learning curve."""

import json
from pathlib import Path
from typing import Any

import numpy as np

_INK, _SOFT, _FIRST, _SECOND = "#1f2933", "#9aa5b1", "#1f6feb", "#d1495b"


def confusion(scores: Path, path: Path, model: str = "candidate") -> None:
    """Which class was taken for which: rows per cell, shaded by the share of the true class."""
    import polars

    table = polars.read_parquet(scores).filter(polars.col("model") == model)
    classes = [name.removeprefix("chance_") for name in table.columns if name.startswith("chance_")]
    counts = np.array([
        [table.filter((polars.col("label") == true) & (polars.col("picked") == picked)).height for picked in classes]
        for true in classes
    ])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure(4.6, 3.9)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.5 else _INK
        text = f"{counts[row, column]:,}\n{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("class the candidate picked")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(f"{counts.sum():,} test rows", fontsize=10, loc="left", color=_INK)
    figure.savefig(path)


def learning_curve(events: Path, path: Path) -> None:
    """Training loss per step (thin) and its running mean, and the validation macro F1 after each epoch."""
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
    axes.set_xlim(0, at[-1] * 1.16)
    axes.annotate(
        "training loss", (at[-1], smooth[-1]), xytext=(6, 0), textcoords="offset points", color=_FIRST, fontsize=9, va="center"
    )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("cross-entropy, nats per row")
    for epoch in epochs:
        axes.axvline(epoch["step"], color=_SECOND, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"epoch {epoch['epoch']}: validation\nmacro F1 {epoch['validation_macro_f1']:.3f}",
            (epoch["step"], axes.get_ylim()[1]), xytext=(-6, -6), textcoords="offset points",
            ha="right", va="top", color=_SECOND, fontsize=9,
        )  # fmt: skip
    figure.savefig(path)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
    return figure, axes
