"""The mask X-ray: real rows token by token, as the model reads them; what is learned, what is not, where an answer stops."""

from collections.abc import Sequence

from adaptory.training.objectives import Objective, prepared
from adaptory.training.render import Example, Left, Renderer

XRAY = "xray.txt"
_ROWS = 6


def text(made: Renderer, goal: Objective, rows: Sequence[Example], left: Sequence[Left] = ()) -> str:
    """A page of the shortest, middle and longest rows, and of what did not fit."""
    lengths = sorted(range(len(rows)), key=lambda place: rows[place].length)
    picked = sorted({lengths[round(place * (len(rows) - 1) / (_ROWS - 1))] for place in range(_ROWS)}, key=lengths.index)
    tokens = sum(row.length for row in rows)
    learned = sum(goal.weight(row) for row in rows) if goal.name in ("tokens", "masked") else None
    cut = sum(row.cut > 0 for row in rows)
    lines = [
        f"{len(rows):,} rows, {tokens:,} tokens" + (f", {learned:,.0f} of them learned" if learned is not None else ""),
        f"{cut:,} rows cut at {made.max_tokens} tokens; {len(left):,} left out",
        *(f"  left out: {one.where}: {one.reason}" for one in left[:5]),
        "[token] is learned, token is read only, <stop> ends an answer, ~n is n tokens that were cut off",
    ]
    for place in picked:
        lines += ["", f"row {rows[place].row}", _row(made, goal, rows[place])]
    return "\n".join(lines) + "\n"


def _row(made: Renderer, goal: Objective, row: Example) -> str:
    if goal.name in ("classes", "value"):
        target = f"class {int(row.target)}" if goal.name == "classes" else f"{row.target:g}"
        return f"{_shown(made, row.ids, set())}{f' ~{row.cut}' if row.cut else ''}\n-> {target}"
    if goal.name == "masked":
        batch = prepared(goal, [row], (goal.settings.seed, 0))
        learned = {place for place, label in enumerate(batch.labels[0].tolist()) if label >= 0}
        return _shown(made, batch.ids[0].tolist(), learned)
    if row.second is not None and goal.name == "tokens":
        return f"{_shown(made, row.second, set())}\n-> {_shown(made, row.ids, set(range(len(row.ids))), made.stop)}"
    stop = made.stop if made.task != "text" else None
    if goal.name == "reward":  # a score is read at the last token, and nothing else is learned
        both = ((name, ids or []) for name, ids in (("chosen", row.ids), ("rejected", row.second)))
        return "\n".join(f"{name}: {_shown(made, ids, {len(ids) - 1}, stop)}" for name, ids in both)
    shown = _shown(made, row.ids, set(range(max(row.start, 1), len(row.ids))), stop)
    if goal.sequences == 2 and row.second is not None:
        shown += f"\nrejected: {_shown(made, row.second, set(range(row.second_start, len(row.second))), stop)}"
    return shown


def _shown(made: Renderer, ids: Sequence[int], learned: set[int], stop: int | None = None) -> str:
    parts = []
    for place, token in enumerate(ids):
        piece = made.tokenizer.decode([token]).replace("\n", "\\n").strip() or repr(made.tokenizer.decode([token]))[1:-1]
        if stop is not None and place == len(ids) - 1 and token == stop:
            piece = "<stop>"
        parts.append(f"[{piece}]" if place in learned else piece)
    return " ".join(parts)
