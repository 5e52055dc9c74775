"""Running a stage in its own process, without losing what it says while it works or when it fails.

A stage that fails for a reason the user can mend writes that reason to the file named by
ADAPTORY_ERROR_FILE; the parent raises it again as if the stage had been a function call. Training and
evaluation print one JSON event per line, for every kind of progress display.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptory import errors
from adaptory.workspace import Workspace

_FILE = "ADAPTORY_ERROR_FILE"
_GRACE = 10.0  # seconds a stage may take to end when it is told to


@contextmanager
def told_errors(environment: dict[str, str]) -> Iterator[Path]:
    """Gives children with this environment a place to tell their error; yields the place."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "error"
        environment[_FILE] = str(place)
        yield place


def tell(error: errors.UserError) -> int:
    """Tells the parent process if one listens, else the person at the terminal; returns the exit code."""
    if place := os.environ.get(_FILE):
        Path(place).write_text(f"{type(error).__name__}\n{error}", encoding="utf-8")
    else:
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def raise_what_it_said(place: Path) -> None:
    """Raises the child's error in this process; does nothing if the child told none."""
    if not place.is_file():
        return
    name, _, message = place.read_text(encoding="utf-8").partition("\n")
    kind = getattr(errors, name, errors.StageError)
    raise kind(message)


def emit(event: dict[str, Any]) -> None:
    """Prints an event for the parent."""
    print(json.dumps(event), flush=True)


@contextmanager
def timed(place: Workspace, stage: str, recipe: str) -> Iterator[None]:
    """Notes in `stages.jsonl` what a stage took, if it ends well."""
    began = time.monotonic()
    yield
    taken = {"stage": stage, "recipe": recipe, "seconds": round(time.monotonic() - began, 2)}
    with (place.home / "stages.jsonl").open("a", encoding="utf-8") as notes:
        notes.write(json.dumps(taken) + "\n")


def run_stage(workspace: Workspace, stage: str, recipe: str, on_event: Callable[[dict[str, Any]], None]) -> None:
    """Runs `adaptory stage <stage> <recipe>` and hands over its events; its process never outlives this call.

    Raises the stage's own error, or StageError with the end of what it printed.
    """
    environment = workspace.environment()
    command = [sys.executable, "-m", "adaptory.cli", "stage", stage, recipe]
    with timed(workspace, stage, recipe), told_errors(environment) as told, tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            command, cwd=workspace.root, env=environment, stdout=subprocess.PIPE, stderr=complaints, text=True
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    on_event(json.loads(line))
            code = process.wait()
        finally:
            _end(process)
        if code != 0:
            raise_what_it_said(told)
            complaints.seek(0)
            last = "".join(complaints.readlines()[-5:]).strip()
            raise errors.StageError(f"stage {stage} of {recipe!r} ended with code {code}: {last or 'it said nothing'}")


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
