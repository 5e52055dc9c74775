"""Parquet, folders of Hugging Face datasets, gettext catalogues: tables that are parsed already."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adaptory.data.lines import BLOCK
from adaptory.data.pieces import ROWS, Cells, Piece, check_columns, frame
from adaptory.errors import DataError


def arrow(path: Path, name: str, form: str, columns: Sequence[str]) -> Iterator[Piece]:
    """Parquet files, and the Arrow streams in a folder saved by Hugging Face datasets."""
    import polars
    import pyarrow
    from pyarrow import ipc, parquet

    first = 1
    try:
        if form == "parquet":
            file = parquet.ParquetFile(path)
            batches = file.iter_batches(batch_size=ROWS)
            names = file.schema_arrow.names
        else:
            batches = ipc.open_stream(pyarrow.memory_map(str(path)))
            names = batches.schema.names
        check_columns(name, names, columns)
        for batch in batches:
            table = polars.from_arrow(batch)
            yield from _frame_pieces(table, name, columns, first)
            first += table.height
    except (pyarrow.ArrowException, OSError) as fault:
        raise DataError(f"{path.name} is not a whole {form} file: {fault}; fetch it again") from None


def po(path: Path, name: str, columns: Sequence[str]) -> Iterator[Piece]:
    """The finished translations of a gettext catalogue: msgctxt, msgid, msgstr. A plural entry gives two rows."""
    import polars
    import polib

    if path.stat().st_size > 64 * BLOCK:
        raise DataError(f"{path.name}: {path.stat().st_size:,} bytes are no catalogue; the limit is {64 * BLOCK:,}")
    try:
        catalogue = polib.pofile(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as fault:
        raise DataError(f"{path.name} is not a gettext catalogue in UTF-8: {fault}") from None
    rows = []
    for entry in catalogue.translated_entries():
        pairs = [(entry.msgid, entry.msgstr)]
        if entry.msgstr_plural:
            forms = entry.msgstr_plural
            pairs = [(entry.msgid, forms[min(forms)]), (entry.msgid_plural, forms[max(forms)])]
        rows += [(entry.msgctxt, source, target) for source, target in pairs]
    table = polars.DataFrame(rows, schema={"msgctxt": str, "msgid": str, "msgstr": str}, orient="row")
    return _frame_pieces(table, name, columns)


def _frame_pieces(table: Any, name: str, columns: Sequence[str], first: int = 1) -> Iterator[Piece]:
    """A table that is parsed already; its rows count as lines."""
    import polars

    check_columns(name, table.columns, columns)
    if not table.height:
        return
    texts = {column: _as_text(table[column]) for column in columns}
    cells = Cells(frame(texts, polars.int_range(first, first + table.height, eager=True)), ())

    def raw(line: int) -> bytes:
        return json.dumps(table.row(line - first, named=True), ensure_ascii=False, default=str).encode()

    yield Piece(first, first + table.height - 1, lambda: cells, raw)


def _as_text(cells: Any) -> Any:
    import polars

    if cells.dtype.is_nested():
        return [None if cell is None else json.dumps(_plain(cell), ensure_ascii=False) for cell in cells]
    return cells.cast(polars.String, strict=False)


def _plain(cell: Any) -> Any:
    return cell.to_list() if hasattr(cell, "to_list") else cell
