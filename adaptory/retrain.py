"""`adaptory retrain`: is anything new? Then the flow, in a process of its own; then the panel.

The library does not import the flows above it; it starts them, as a worker would.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from adaptory import data, params, reach, run, whole, workspace
from adaptory.errors import BusyError, DataError, Preempted, RecipeError, StageError
from adaptory.process import raise_what_it_said, told_errors
from adaptory.recipe import Recipe
from adaptory.registry import approval, read_judged
from adaptory.run import Outcome
from adaptory.storage import open_store
from adaptory.workspace import Workspace

_LAST = "last.json"


def command(name: str, *, accept_drift: bool = False) -> int:
    """Retrains one recipe; returns 0 however the gate decided, since a refusal is a result."""
    place = workspace.find()
    made = params.load(place.recipes_file, name)
    place.activate()
    with alone(place, name):
        if known := nothing_new(place, made):
            _show(place, known)
        else:
            _run_flow(place, name, *(["accept-drift"] if accept_drift else []))
    return 0


@contextmanager
def alone(place: Workspace, name: str) -> Iterator[None]:
    """No other command retrains this recipe in this checkout, or changes its data. Raises BusyError while one does."""
    from filelock import FileLock, Timeout

    place.home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.home / f"retrain-{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(f"another retrain or prepare of {name!r} is under way here; wait for it to end") from None
    try:
        yield
    finally:
        lock.release()


def nothing_new(place: Workspace, made: Recipe) -> Outcome | None:
    """The outcome without any server or training, if exactly these inputs were judged already."""
    if data.pending(place, made):
        return None
    try:
        now = run.current(place, made.name)
    except (DataError, RecipeError):
        return None
    store = open_store(place.store)
    if judged := read_judged(store, made.name, now.key):
        return Outcome.nothing_new(now, judged)
    found = approval.found(now, store)
    return approval.awaiting(now, store, found[0]) if found and found[1] is None else None


def show_last(name: str) -> int:
    """Shows the panel of the recipe's last complete run again."""
    place = workspace.find()
    try:
        outcome = Outcome.model_validate_json((place.runs(name) / _LAST).read_bytes())
    except FileNotFoundError:
        raise DataError(f"no run of {name!r} yet; run: adaptory retrain {name}") from None
    _panel(outcome)
    return 0


def _run_flow(place: Workspace, name: str, *more: str) -> None:
    """Runs the flow and shows its outcome. On Ctrl-C or SIGTERM the flow ends first, then this process."""
    reach.check_prefect(place)
    reach.check_tracking(place)
    where = place.environment().get("PREFECT_API_URL")
    print(f"retrain {name}: {f'Prefect at {where}' if where else 'starting an ephemeral Prefect server'}", file=sys.stderr)
    environment = place.environment()
    with told_errors(environment) as told, _stopped_by_sigterm():
        script = [sys.executable, "-m", "flows.retrain", name, *more]
        flow = subprocess.Popen(script, cwd=place.root, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            shown = _follow(place, flow)
        except KeyboardInterrupt:  # the terminal told all of them
            if flow.poll() is None:
                flow.send_signal(signal.SIGINT)
            flow.wait()
            raise
        except Preempted:
            _interrupt(flow)
            flow.wait()
            raise
        if flow.wait() != 0 or not shown:
            raise_what_it_said(told)
            raise StageError(f"the flow ended with code {flow.returncode}; the reason is above. Run the command again to go on")


def _interrupt(flow: "subprocess.Popen[str]") -> None:
    """Tells the flow and all that it started to end, as Ctrl-C at a terminal does: the flow waits for its stages."""
    import psutil  # type: ignore[import-untyped]

    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(flow.pid)
        for one in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGINT)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Inside, a SIGTERM raises Preempted: by default it would end this process and leave the flow at work behind it."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut the flow's end short
        raise Preempted("stopped by SIGTERM before the end; run the same command to go on")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _follow(place: Workspace, flow: "subprocess.Popen[str]") -> bool:
    """Passes on what the flow prints until it ends; whether it told its outcome, which is shown at once."""
    told = False
    assert flow.stdout is not None
    for line in flow.stdout:
        if line.startswith('{"event": "outcome"'):
            event: dict[str, Any] = json.loads(line)
            del event["event"]
            _show(place, Outcome.model_validate(event))
            told = True
        else:
            print(line, end="", file=sys.stderr)
    return told


def _show(place: Workspace, outcome: Outcome) -> None:
    if outcome.outcome == "NOTHING_NEW":
        print(f"{outcome.recipe}: {outcome.reason}")
        print(f"See it again: adaptory report {outcome.recipe}")
        return
    if outcome.outcome == "NEEDS_APPROVAL":
        print(f"{outcome.recipe}: nothing was trained, a person must look first.")
        print(f"  {outcome.reason.replace('; ', chr(10) + '  ')}")
        print(f"If that is as it should be: adaptory retrain {outcome.recipe} --accept-drift")
        return
    whole.write(place.runs(outcome.recipe) / _LAST, outcome.model_dump_json(indent=1) + "\n")
    _panel(outcome)


def _panel(outcome: Outcome) -> None:
    from adaptory.evaluation import panel

    panel.show(outcome)


