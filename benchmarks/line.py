"""The whole line from nothing, as a newcomer runs it: time per part, memory, and the light commands.

    python -m benchmarks.line        (make bench)

Works in a fresh clone in a temporary folder, with the environment it is started from. The `orchestration` of a
run is its wall time less the time inside the stages that prepare, train and evaluate.
"""

import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
_OURS = ("PREFECT_", "MLFLOW_", "ADAPTORY_")
_PAGE = resource.getpagesize()
ADAPTORY = str(Path(sys.executable).parent / "adaptory")


def timed(folder: Path, *words: str) -> tuple[float, str]:
    """Wall seconds of one command, and what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    began = time.monotonic()
    done = subprocess.run([ADAPTORY, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    return seconds, done.stdout


@contextmanager
def watched_memory() -> Iterator[list[int]]:
    """Yields a list whose only item is the most memory (bytes) that all our descendants held at once, twice a second."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            most[0] = max(most[0], sum(_descendants_rss(os.getpid())))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def _descendants_rss(root: int) -> Iterator[int]:
    parents, sizes = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parents[int(stat.parent.name)], sizes[int(stat.parent.name)] = int(fields[1]), int(fields[21]) * _PAGE
    for pid, size in sizes.items():
        above = parents.get(pid)
        while above and above != root:
            above = parents.get(above)
        if above == root:
            yield size


def median_of(times: int, folder: Path, *words: str) -> float:
    return statistics.median(timed(folder, *words)[0] for _ in range(times))


def stage_seconds(folder: Path) -> dict[str, float]:
    """Seconds inside each stage's own process, as the stages wrote them down."""
    lines = (folder / ".adaptory" / "stages.jsonl").read_text().splitlines()
    found: dict[str, float] = {}
    for line in map(json.loads, lines):
        found[line["stage"]] = found.get(line["stage"], 0.0) + line["seconds"]
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        with watched_memory() as most:
            first, panel = timed(folder, "retrain", "sentiment")
        stages = stage_seconds(folder)
        second, _ = timed(folder, "retrain", "sentiment")
        (folder / ".adaptory" / "stages.jsonl").unlink()
        params = folder / "params.yaml"
        params.write_text(re.sub(r"limit: 0\.60", "limit: 0.61", params.read_text()))
        later, _ = timed(folder, "retrain", "sentiment")
        later_stages = stage_seconds(folder)
        timed(folder, "pull", "sentiment@champion", "model")
        unchanged = median_of(9, folder, "pull", "sentiment@champion", "model")
        helped = median_of(9, folder, "--help")
    print(panel)
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((fact.split(":")[1].strip() for fact in facts if "model name" in fact), "")
    print(f"{platform.machine()} {processor}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    rows = [
        ("first retrain, from nothing", f"{first:.0f} s"),
        *((f"  stage {name}", f"{seconds:.0f} s") for name, seconds in stages.items()),
        ("  orchestration", f"{first - sum(stages.values()):.0f} s"),
        ("  peak memory, all processes", f"{most[0] / 1e9:.1f} GB"),
        ("second retrain, nothing new", f"{second:.1f} s"),
        ("later retrain, a changed gate", f"{later:.0f} s"),
        ("  orchestration", f"{later - sum(later_stages.values()):.0f} s"),
        ("pull, unchanged (median of 9)", f"{unchanged:.2f} s"),
        ("adaptory --help (median of 9)", f"{helped:.2f} s"),
    ]
    for name, value in rows:
        print(f"{name:<36}{value:>10}")


if __name__ == "__main__":
    main()
