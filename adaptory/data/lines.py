"""A file's bytes as blocks of whole lines: unpacked on the way, numbered, and never more than a block in memory."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from adaptory.errors import DataError

MAX_LINE = 1 << 20  # bytes
BLOCK = 8 << 20  # bytes
# A packed file may grow to the larger of these: text shrinks 3 to 30 times, a bomb a thousand times.
MAX_RATIO, ALWAYS_ALLOWED = 200, 16 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Refused:
    """A line that cannot be used, with all that is needed to find and mend it."""

    line: int
    reason: str
    raw: bytes


@dataclass(frozen=True)
class Block:
    """Whole lines: line number `first + i` is `data[starts[i]:ends[i]]`, without its end."""

    first: int
    data: bytes
    starts: Any
    ends: Any
    ended: bool  # the last line has an end; only the last line of a file may lack it

    def line(self, number: int) -> bytes:
        place = number - self.first
        return self.data[self.starts[place] : self.ends[place]]


def blocks(path: Path) -> Iterator[Block | Refused]:
    """The file in order; a line beyond MAX_LINE that does not fit a block is refused with its first MAX_LINE bytes.

    Raises DataError when a packed file is damaged, cut off, or unpacks to far more than a text would.
    """
    number, carry = 1, b""
    with _opened(path) as file:
        pieces = _pieces(file, path)
        for piece in pieces:
            if number == 1 and not carry:
                piece = piece.removeprefix(_BOM)
            data = carry + piece
            cut = data.rfind(b"\n") + 1
            carry = data[cut:]
            if cut:
                block = _block(number, data[:cut])
                yield block
                number += len(block.starts)
            if len(carry) > BLOCK:
                refused, carry = _skipped(carry, pieces, number)
                yield refused
                number += 1
    if carry:
        yield _block(number, carry)


def _block(first: int, data: bytes) -> Block:
    view = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(view == 10)
    ended = bool(len(ends)) and ends[-1] == len(data) - 1
    if not ended:
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1])
    ends = ends - ((ends > starts) & (view[np.maximum(ends - 1, 0)] == 13))
    return Block(first, data, starts, ends, ended)


def _skipped(begin: bytes, pieces: Iterator[bytes], number: int) -> tuple[Refused, bytes]:
    """Reads on to the end of a huge line; what follows it is the rest."""
    size, rest = len(begin), b""
    for piece in pieces:
        end = piece.find(b"\n")
        size += len(piece) if end < 0 else end
        if end >= 0:
            rest = piece[end + 1 :]
            break
    return Refused(number, too_long(size), begin[:MAX_LINE]), rest


def too_long(size: int) -> str:
    """Why a line of this many bytes is refused."""
    return f"line of {size} bytes; the limit is {MAX_LINE}"


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, unpacked if its first bytes say that it is packed: names can lie."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        with gzip.open(path) as unpacked:
            yield unpacked  # type: ignore[misc]
    elif magic == b"\x28\xb5\x2f\xfd":
        import pyarrow

        with pyarrow.input_stream(str(path), compression="zstd") as stream:
            yield stream
    else:
        with path.open("rb") as plain:
            yield plain


def _pieces(file: IO[bytes], path: Path) -> Iterator[bytes]:
    size = 0
    limit = max(ALWAYS_ALLOWED, MAX_RATIO * path.stat().st_size)
    while True:
        try:
            piece = file.read(BLOCK)
        except (EOFError, OSError, zlib.error) as fault:
            raise DataError(
                f"{path.name} is damaged or was cut off after {size:,} unpacked bytes: {fault}; fetch it again"
            ) from None
        if not piece:
            return
        size += len(piece)
        if size > limit:
            raise DataError(
                f"{path.name}: {path.stat().st_size:,} bytes unpack to more than {limit:,} ({MAX_RATIO} times and more); "
                "that is no text, and the file is refused"
            )
        yield piece
