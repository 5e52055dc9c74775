"""The stage `validate`: raw bytes to typed rows, and what cannot be used to quarantine."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adaptory.data import readers, rows
from adaptory.data.fetching import raw_files
from adaptory.data.pieces import Piece
from adaptory.data.shards import Shards, side_by_side, whole_folder
from adaptory.errors import DataError
from adaptory.recipe import Recipe
from adaptory.workspace import Workspace

ROWS, QUARANTINE = "rows", "quarantine"


def quarantine_schema() -> dict[str, Any]:
    """The columns of a quarantined line; `row` is its name, if it was readable enough to have one."""
    import polars

    return {
        "source": polars.String, "file": polars.String, "line": polars.UInt32, "row": polars.String,
        "reason": polars.String, "raw": polars.Binary,
    }  # fmt: skip


def validate(workspace: Workspace, recipe: Recipe) -> None:
    """Writes every line of every source as a row or as a quarantined line.

    Raises DataError when more than `data.max_quarantine` of a file is refused, when a file ends in the middle of a
    row, and when no rows are left.
    """
    with whole_folder(workspace.data(recipe.name) / "valid") as out:
        good, bad = (
            Shards(out, ROWS, rows.schema(recipe.task, recipe.data.fields.slices)),
            Shards(out, QUARANTINE, quarantine_schema()),
        )
        for name in recipe.data.sources:
            for path, file in raw_files(workspace, recipe.name, name):
                _file(recipe, name, path, file, good, bad)
        if not good.rows:
            raise DataError("the sources hold no rows; nothing can be learned from them")
        good.close()
        bad.close()


def _file(recipe: Recipe, name: str, path: Path, file: str, good: Shards, bad: Shards) -> None:
    import polars

    source, data = recipe.data.sources[name], recipe.data
    columns = data.fields.read(source)
    reasons: Counter[str] = Counter()
    total, first = 0, None

    def typed(piece: Piece) -> tuple[Piece, rows.Typed]:
        return piece, rows.typed(piece, name, source, file, data, recipe.task)

    for piece, found in side_by_side(typed, _told(readers.pieces(path, name, source, columns), name)):
        if not piece.whole and piece.last in found.unreadable:
            raise DataError(
                f"source {name!r}: {file} ends in the middle of a row (line {piece.last}, {found.refused[-1].reason}); "
                "it was cut off on its way. Fetch it again. The last good dataset version is untouched."
            )
        total += found.table.height + len(found.refused)
        reasons.update(one.reason for one in found.refused)
        first = first or next((one.line for one in found.refused), None)
        good.add(found.table)
        if found.refused:
            lines = [(name, file, one.line, None, one.reason, one.raw) for one in found.refused]
            bad.add(polars.DataFrame(lines, schema=quarantine_schema(), orient="row"))
    if total and reasons.total() / total > data.max_quarantine:
        raise DataError(_refusal(name, file, reasons, total, first, data.max_quarantine))


def _told(pieces: Iterator[Piece], name: str) -> Iterator[Piece]:
    """The pieces; a fault of the whole file names the source."""
    try:
        yield from pieces
    except DataError as fault:
        if str(fault).startswith("source "):
            raise
        raise DataError(f"source {name!r}: {fault}. The last good dataset version is untouched.") from None


def _refusal(name: str, file: str, reasons: Counter[str], total: int, first: int | None, limit: float) -> str:
    worst = "; ".join(f"{reason} ({count} rows)" for reason, count in reasons.most_common(3))
    refused = reasons.total()
    return (
        f"source {name!r}: {refused} of {total} rows of {file} cannot be used ({refused / total:.1%}), and "
        f"data.max_quarantine allows {limit:.1%}. First at line {first}. Reasons: {worst}. "
        "Mend the source, or raise the limit. The last good dataset version is untouched."
    )
