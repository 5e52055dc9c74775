"""Running a stage in its own process, without losing what it says while it works or when it fails.

A stage that fails for a reason the user can mend writes that reason to the file named by
ADAPTORY_ERROR_FILE; the parent raises it again as if the stage had been a function call. Training and
evaluation print one JSON event per line, for every kind of progress display.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptory import errors
from adaptory.workspace import Workspace

if TYPE_CHECKING:
    from adaptory.run import Run  # which needs data, which needs this

_FILE, _RUN = "ADAPTORY_ERROR_FILE", "ADAPTORY_RUN"
_LOADING, _STEPPING = 600.0, 120.0  # seconds of silence after which a training hangs
_NOTICED = 20.0  # seconds of silence between its steps after which it is told that it may
_THINKING = 3 * 3600.0  # of silence after which any other stage does; they tell less of what they do
_GRACE = 30.0  # seconds a stage may take to end when it is told to: a step, and a checkpoint


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


def pinned() -> str | None:
    """What the parent of this stage's process told of the run that it is of."""
    return os.environ.get(_RUN)


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


def run_stage(
    run: "Run", stage: str, on_event: Callable[[dict[str, Any]], None], processes: int = 1, words: Sequence[str] = (),
    slot: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """Runs `adaptory stage <stage> <recipe> <words>` and hands over its events; its processes never outlive this call.

    The stage works on this run or not at all (`run.current`). Raises the stage's own error, StageError with the end of what it
    printed, or DiedError when a signal ended it. A training that says nothing hangs: it is killed, and told so, after
    ADAPTORY_SILENCE seconds (default 600, for a base that loads; 120 between its steps, where it beats every few seconds, and 20
    are told). Other stages may think for three hours.
    """
    workspace, recipe = run.workspace, run.recipe.name
    environment = workspace.environment() | (slot or {}) | {_RUN: run.pin.model_dump_json()}
    command = [sys.executable, "-m", "adaptory.cli", "stage", stage, recipe, *words]
    with timed(workspace, stage, recipe), told_errors(environment) as told, tempfile.TemporaryFile("w+") as complaints:
        # The first process leads: it alone tells events; the others tell only what goes wrong.
        outputs = [subprocess.PIPE] + [subprocess.DEVNULL] * (processes - 1)
        several = [
            subprocess.Popen(command, cwd=workspace.root, env=rank, stdout=out, stderr=complaints, text=True)
            for rank, out in zip(ranks(environment, processes), outputs, strict=True)
        ]
        limit = environment.get("ADAPTORY_SILENCE") or (None if stage in ("train", "choose") else str(_THINKING))
        watch = _Watch(several, limit, on_event)
        try:
            assert several[0].stdout is not None
            for line in several[0].stdout:
                event = _event(line)
                watch.heard(event)
                if event:
                    on_event(event)
            several[0].wait()
        finally:
            watch.stop()
            codes = watch.ended or _codes(several)
            _end(several)
        if watch.hung:
            silent = f"stage {stage} of {recipe!r} said nothing for {watch.limit:g} s"
            raise errors.DiedError(f"{silent} and was killed; run it again, with ADAPTORY_SILENCE if it may be silent for longer")
        # Of several, who was killed: what the others then say of their connections is no reason.
        if code := min(codes) or max(codes):
            raise_what_it_said(told)
            complaints.seek(0)
            last = "".join(complaints.readlines()[-5:]).strip()
            kind = errors.DiedError if code < 0 else errors.StageError  # of a signal: the kernel out of memory, a person
            raise kind(f"stage {stage} of {recipe!r} ended with code {code}: {last or 'it said nothing'}")


def _event(line: str) -> dict[str, Any] | None:
    """The event of a line; None for what a library prints."""
    with suppress(ValueError):
        if isinstance(event := json.loads(line), dict) and "event" in event:
            return event
    return None


def device_count() -> int:
    """How many processes train together: ADAPTORY_PROCESSES, or one per NVIDIA GPU here, or one."""
    if told := os.environ.get("ADAPTORY_PROCESSES"):
        return max(1, int(told))
    return max(1, len(gpus()))


def gpus() -> list[str]:
    """The names of the NVIDIA GPUs that may be used here, as CUDA_VISIBLE_DEVICES or their numbers."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1")]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]  # of a container only its own


def slots() -> list[dict[str, str]]:
    """The environment of each of the trainings that may run side by side here: one per GPU; without any, ADAPTORY_TRIALS
    (default 1) that share the processors."""
    names, several = gpus(), max(1, int(os.environ.get("ADAPTORY_TRIALS", "0")))
    if len(names) > 1:
        told = "ADAPTORY_TRIALS" in os.environ
        return [{"CUDA_VISIBLE_DEVICES": names[place % len(names)]} for place in range(several if told else len(names))]
    # Threads of several processes on the same cores wait for one another: four times slower (docs/log.md).
    share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // several))} if several > 1 else {}
    return [share] * several


def ranks(environment: dict[str, str], processes: int) -> list[dict[str, str]]:
    """The environment of each of several processes that train together, as torchrun would set it."""
    if processes == 1:
        return [environment]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**environment, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


class _Watch(threading.Thread):
    """Kills processes that are silent for too long, and all of them when one fails; tells early of silence between steps."""

    def __init__(
        self, several: "list[subprocess.Popen[str]]", limit: str | None, on_event: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__(daemon=True)
        self._limits = (float(limit), float(limit)) if limit else (_LOADING, _STEPPING)
        self.several, self.limit, self.hung, self._on_event = several, self._limits[0], False, on_event
        self._steps = self._noticed = False
        self._done = threading.Event()
        self._last = time.monotonic()
        self.ended: list[int] = []  # of all, when they were killed
        self.start()

    def heard(self, event: dict[str, Any] | None) -> None:
        self._last, self._noticed = time.monotonic(), False
        if event and event["event"] in ("stage", "patience", "step"):
            self._steps = event["event"] == "step"
            self.limit = self._limits[self._steps]

    def stop(self) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        while not self._done.wait(0.5):
            silent = time.monotonic() - self._last
            self.hung = silent > self.limit
            if self._steps and not self._noticed and _NOTICED < silent <= self.limit:
                self._noticed = True
                told = f"no sign of life for {silent:.0f} s; after {self.limit:g} s it is killed and tried again"
                with suppress(Exception):  # who cannot be told is watched all the same
                    self._on_event({"event": "stage", "what": told})
            if self.hung or any(one.poll() for one in self.several):
                self.ended = _codes(self.several)
                for one in self.several:
                    one.kill()
                return


def _codes(several: "list[subprocess.Popen[str]]") -> list[int]:
    """With what each ended; 0 for those that did not."""
    return [one.poll() or 0 for one in several]


def _end(several: "list[subprocess.Popen[str]]") -> None:
    """Asks what still runs to stop, which may save a checkpoint first; kills it if it does not."""
    for one in several:
        if one.poll() is None:
            one.terminate()
    for one in several:
        try:
            one.wait(_GRACE)
        except subprocess.TimeoutExpired:
            one.kill()
            one.wait()
