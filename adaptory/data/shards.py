"""Tables too large for memory, as numbered parquet files; and work on their parts side by side."""

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

SHARD = 250_000  # rows
Given = TypeVar("Given")
Made = TypeVar("Made")


class Shards:
    """Writes `<name>-00000.parquet`, ... of SHARD rows or a little more; at least one, if only to hold the columns."""

    def __init__(self, folder: Path, name: str, schema: dict[str, Any]) -> None:
        self.rows = 0
        self._folder, self._name, self._schema = folder, name, schema
        self._waiting: list[Any] = []
        self._held = 0
        self._count = 0

    def add(self, table: Any) -> None:
        self.rows += table.height
        self._held += table.height
        self._waiting.append(table)
        if self._held >= SHARD:
            self._write()

    def close(self) -> None:
        if self._held or not self._count:
            self._write()

    def _write(self) -> None:
        import polars

        table = polars.concat([polars.DataFrame(schema=self._schema), *self._waiting], rechunk=True)
        path = self._folder / f"{self._name}-{self._count:05d}.parquet"
        table.write_parquet(path, compression="zstd", compression_level=1, statistics=False)
        self._waiting, self._held, self._count = [], 0, self._count + 1


def files(folder: Path, name: str) -> list[Path]:
    """The shards of a table, in order."""
    return sorted(folder.glob(f"{name}-[0-9]*.parquet"))


def side_by_side(work: Callable[[Given], Made], parts: Iterable[Given]) -> Iterator[Made]:
    """The results in the order of the parts; a few parts ahead are worked on at the same time.

    Threads: polars, pyarrow and numpy let go of the interpreter while they work.
    """
    workers = max(2, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Made]] = deque()
        try:
            for part in parts:
                ahead.append(pool.submit(work, part))
                if len(ahead) > workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes `target` only if the block ends well: a failed stage leaves the last good output."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        scratch.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
