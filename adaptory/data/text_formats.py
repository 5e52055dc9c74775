"""JSONL, TSV and CSV: a line, or a quoted record of several lines, is a row."""

import codecs
import csv
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptory.data.lines import BLOCK, MAX_LINE, Block, Refused, blocks, too_long
from adaptory.data.pieces import LINE, ROWS, Cells, Piece, check_columns, frame
from adaptory.errors import DataError
from adaptory.recipe import Source


def jsonl(path: Path, columns: Sequence[str]) -> Iterator[Piece]:
    """One JSON object to a line; other keys are ignored, numbers and lists become text."""
    return _line_pieces(path, lambda block: _json_cells(block, columns))


def tsv(path: Path, name: str, source: Source, columns: Sequence[str]) -> Iterator[Piece]:
    """Cells between tabs, without quotes."""
    header, first = _header(path, source, lambda line: line.split("\t"))
    check_columns(name, header, columns)
    return _line_pieces(path, lambda block: _tsv_cells(block, header, columns, first))


def _header(path: Path, source: Source, split: Callable[[str], list[str]]) -> tuple[tuple[str, ...], int]:
    """The names of the columns, and the number of the first line that holds a row."""
    if source.columns:
        return source.columns, 1
    for block in blocks(path):
        if isinstance(block, Block):
            try:
                return tuple(split(block.line(block.first).decode())), block.first + 1
            except UnicodeDecodeError as fault:
                raise DataError(f"{path.name}: the line of column names is not UTF-8 at byte {fault.start}") from None
        break
    return (), 1


def _line_pieces(path: Path, parse: Callable[[Block], Cells]) -> Iterator[Piece]:
    """Formats with one row to a line."""
    for block in blocks(path):
        if isinstance(block, Refused):
            yield _refused_piece(block)
        else:
            last = block.first + len(block.starts) - 1
            yield Piece(block.first, last, lambda block=block: parse(block), block.line, block.ended)  # type: ignore[misc]


def _refused_piece(refused: Refused) -> Piece:
    return Piece(refused.line, refused.line, lambda: Cells(frame({}), (refused,)), lambda line: refused.raw)


def _json_cells(block: Block, columns: Sequence[str]) -> Cells:
    """Parsed by polars as a whole; a line that it cannot read costs only itself."""
    import polars

    schema = {column: polars.String for column in columns}
    view = np.frombuffer(block.data + b"\n", dtype=np.uint8)
    sizes = block.ends - block.starts
    # Most broken lines show at their ends; these are parsed one by one, and so keep the others fast.
    odd = (view[block.starts] != ord("{")) | (view[np.maximum(block.ends - 1, 0)] != ord("}")) | (sizes > MAX_LINE)
    odd |= _not_utf8(block)
    found, refused = _parsed(block, ~odd, schema)
    for place in np.flatnonzero(odd & (sizes > 0)):
        alone = np.zeros(len(odd), dtype=bool)
        alone[place] = True
        more, bad = _parsed(block, alone, schema)
        found += more
        refused += bad
    table = polars.concat(found).sort(LINE) if found else frame({column: [] for column in columns})
    table, halves = _nested(block, view, table, columns)
    return Cells(table, tuple(sorted(refused + halves, key=lambda one: one.line)))


def _nested(block: Block, view: Any, table: Any, columns: Sequence[str]) -> tuple[Any, list[Refused]]:
    """The table with lists and objects as they were written, which polars 2.1 gives without escaping again what was escaped; and
    the rows in which they are no text."""
    import polars

    slashed = np.unique(np.searchsorted(block.starts, np.flatnonzero(view == ord("\\")), side="right") - 1)
    refused: dict[int, Refused] = {}
    for column in columns:
        opens = table[column].str.contains(r"^\s*[\[{]").fill_null(value=False).to_numpy()
        places = np.flatnonzero(opens & np.isin(table[LINE].to_numpy() - block.first, slashed))
        if not len(places):
            continue
        cells = table[column].to_list()
        for place in places:
            raw = block.line(line := int(table[LINE][int(place)]))
            value = json.loads(raw.decode())[column]
            if isinstance(value, str):
                continue
            cell = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if cell.isascii() or cell == cell.encode(errors="replace").decode():
                cells[place] = cell
            else:
                refused[line] = Refused(line, "not Unicode: half of a surrogate pair", raw[:MAX_LINE])
        table = table.with_columns(polars.Series(column, cells, dtype=polars.String))
    return table.filter(~polars.col(LINE).is_in(list(refused))), list(refused.values())


def _not_utf8(block: Block) -> Any:
    """Which lines are not UTF-8."""
    places: list[int] = []

    def note(fault: UnicodeError) -> tuple[str, int]:
        assert isinstance(fault, UnicodeDecodeError)
        places.append(fault.start)
        return "", fault.end

    # Python's own way to go on after a fault; the name is this thread's, for others decode at the same time.
    handler = f"adaptory.note.{threading.get_ident()}"
    codecs.register_error(handler, note)
    block.data.decode(errors=handler)
    bad = np.zeros(len(block.starts), dtype=bool)
    bad[np.searchsorted(block.starts, places, side="right") - 1] = True
    return bad


def _parsed(block: Block, chosen: Any, schema: dict[str, Any]) -> tuple[list[Any], list[Refused]]:
    """The chosen lines as tables; on a fault they are halved until it is alone."""
    import polars

    places = np.flatnonzero(chosen & (block.ends > block.starts))
    if not len(places):
        return [], []
    if len(places) == 1 and (reason := _json_fault(raw := block.line(line := block.first + int(places[0])))) is not None:
        return [], [Refused(line, reason, raw[:MAX_LINE])] if reason else []
    try:
        table = polars.read_ndjson(_joined(block, chosen), schema=schema)
        if table.height == len(places):
            numbers = polars.Series(LINE, block.first + places, dtype=polars.UInt32)
            return [table.select(numbers, *schema)], []
        fault = f"{table.height} values where one is expected"
    except polars.exceptions.PolarsError as error:
        fault = str(error).splitlines()[0][:200]
    if len(places) == 1:
        return [], [Refused(line, f"not JSON: {fault}", raw)]
    half = np.arange(len(chosen)) < places[len(places) // 2]
    found, refused = _parsed(block, chosen & half, schema)
    more, bad = _parsed(block, chosen & ~half, schema)
    return found + more, refused + bad


def _joined(block: Block, chosen: Any) -> io.BytesIO:
    """The bytes of the chosen lines: of each run of them at once."""
    turns = np.flatnonzero(np.diff(np.concatenate([[0], chosen.view(np.int8), [0]])))
    runs = zip(block.starts[turns[::2]], block.ends[turns[1::2] - 1], strict=True)
    return io.BytesIO(b"\n".join([block.data[start:end] for start, end in runs]))


def _json_fault(raw: bytes) -> str | None:
    """Why a line alone is refused; nothing if it is blank; None if it may be a row."""
    if len(raw) > MAX_LINE:
        return too_long(len(raw))
    if not raw.strip():
        return ""
    try:
        value = json.loads(raw.decode())
    except UnicodeDecodeError as fault:
        return f"not UTF-8 at byte {fault.start}"
    except (ValueError, RecursionError) as fault:
        return f"not JSON: {fault}"
    return None if isinstance(value, dict) else f"a JSON {type(value).__name__} where an object is expected"


def _tsv_cells(block: Block, header: Sequence[str], columns: Sequence[str], first: int) -> Cells:
    places = [header.index(column) for column in columns]
    cells: list[list[str]] = [[] for _ in columns]
    lines: list[int] = []
    refused = []
    for place, (start, end) in enumerate(zip(block.starts, block.ends, strict=True)):
        line, raw = block.first + place, block.data[start:end]
        if not raw or line < first:
            continue
        if len(raw) > MAX_LINE:
            refused.append(Refused(line, too_long(len(raw)), raw[:MAX_LINE]))
            continue
        try:
            row = raw.decode().split("\t")
        except UnicodeDecodeError as fault:
            refused.append(Refused(line, f"not UTF-8 at byte {fault.start}", raw))
            continue
        if len(row) != len(header):
            refused.append(Refused(line, _wrong_count(row, header), raw))
            continue
        lines.append(line)
        for column, index in zip(cells, places, strict=True):
            column.append(row[index])
    return Cells(frame(dict(zip(columns, cells, strict=True)), lines), tuple(refused))


def _wrong_count(row: Sequence[str], header: Sequence[str]) -> str:
    return f"{len(row)} cells where {len(header)} columns are expected"


def csv_(path: Path, name: str, source: Source, columns: Sequence[str]) -> Iterator[Piece]:
    """Records by RFC 4180. Raises DataError for a quote that is never closed: it has swallowed every row after it."""
    header, first = _header(path, source, lambda line: next(csv.reader([line]), []))
    check_columns(name, header, columns)
    csv.field_size_limit(2 * BLOCK)  # lines longer than MAX_LINE are refused by their length; more is a quote left open
    places = [header.index(column) for column in columns]
    rows: list[tuple[int, list[str]]] = []
    raws: dict[int, bytes] = {}
    refused: list[Refused] = []
    for line, raw, row, fault in _records(path):
        if line < first:
            continue
        raws[line] = raw[:MAX_LINE]
        if len(raw) > MAX_LINE:
            refused.append(Refused(line, too_long(len(raw)), raw[:MAX_LINE]))
        elif fault:
            refused.append(Refused(line, fault, raw))
        elif len(row) != len(header):
            refused.append(Refused(line, _wrong_count(row, header), raw))
        else:
            rows.append((line, [row[place] for place in places]))
        if len(raws) >= ROWS:
            yield _csv_piece(columns, rows, raws, refused)
            rows, raws, refused = [], {}, []
    if raws:
        yield _csv_piece(columns, rows, raws, refused)


def _csv_piece(
    columns: Sequence[str], rows: list[tuple[int, list[str]]], raws: dict[int, bytes], refused: list[Refused]
) -> Piece:
    cells = {column: [row[place] for _, row in rows] for place, column in enumerate(columns)}
    made = Cells(frame(cells, [line for line, _ in rows]), tuple(refused))
    return Piece(min(raws), max(raws), lambda: made, raws.__getitem__)


def _records(path: Path) -> Iterator[tuple[int, bytes, list[str], str | None]]:
    """Line number, bytes, cells and fault of every record."""
    feed = _Feed(path)
    reader = csv.reader(feed, strict=True)
    while True:
        feed.start()
        fault, row = None, []
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error) or "field limit" in str(error):
                raise DataError(
                    f"{path.name}: the quote opened in line {feed.first} is never closed, so every row after it would be "
                    "swallowed; the file was cut off or is broken there. Mend or fetch it again"
                ) from None
            fault = f"not CSV: {error}"
        if row or fault:
            yield feed.first, b"\n".join(feed.taken), row, feed.broken or fault


class _Feed:
    """Lines for csv.reader, which remembers the bytes of the record it is at: a quoted cell may hold line ends."""

    def __init__(self, path: Path) -> None:
        self.taken: list[bytes] = []
        self.first = 0
        self.last = 0
        self.broken: str | None = None
        self._lines = self._read(path)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last, raw = next(self._lines)
        if not self.taken:
            self.first = self.last
        self.taken.append(raw)
        try:
            return raw.decode() + "\n"
        except UnicodeDecodeError as fault:
            self.broken = f"not UTF-8 at byte {fault.start + sum(map(len, self.taken[:-1]))}"
            return raw.decode(errors="replace") + "\n"

    def _read(self, path: Path) -> Iterator[tuple[int, bytes]]:
        for block in blocks(path):
            if isinstance(block, Refused):
                self.broken = block.reason
                yield block.line, block.raw[:100].replace(b'"', b"")
            else:
                for place in range(len(block.starts)):
                    yield block.first + place, block.line(block.first + place)

    def start(self) -> None:
        self.taken, self.broken = [], None
