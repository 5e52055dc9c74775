"""A piece: consecutive lines of one file, which can be parsed when and where it suits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from adaptory.data.lines import Refused
from adaptory.errors import DataError

LINE = "line"  # the column of line numbers, beside the source's own
ROWS = 32_768  # rows of a piece, where a format does not cut by bytes


@dataclass(frozen=True)
class Cells:
    """What a piece holds: a table of `line` and the columns asked for, and the lines that are no rows."""

    table: Any
    refused: tuple[Refused, ...]


@dataclass(frozen=True)
class Piece:
    """Consecutive lines of one file."""

    first: int
    last: int
    parse: Callable[[], Cells]
    raw: Callable[[int], bytes]
    whole: bool = True  # False: the last line of the file lacks its end


def check_columns(name: str, found: Sequence[str], needed: Sequence[str]) -> None:
    """Raises DataError unless the source has every column that the recipe names."""
    for column in needed:
        if column not in found:
            raise DataError(
                f"source {name!r} has no column {column!r}; its columns are {', '.join(found)}. "
                f"Correct data.fields, or data.sources.{name}.fields or .columns."
            )


def frame(columns: dict[str, Any], lines: Any = ()) -> Any:
    """A table of texts, one row for each line number."""
    import polars

    numbers = polars.Series(LINE, lines, dtype=polars.UInt32)
    return polars.DataFrame([numbers, *(polars.Series(name, cells, dtype=polars.String) for name, cells in columns.items())])
