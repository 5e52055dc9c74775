"""Processes that train: how one of them ended decides what is told, and one that says nothing is told, too."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adaptory import process
from adaptory.errors import DiedError, RecipeError, StageError
from adaptory.process import run_stage
from adaptory.run import Pin
from adaptory.workspace import find


@pytest.mark.parametrize(
    ("leader", "other", "fault", "said"),
    [
        ("until [ -e died ]; do sleep 0.1; done; echo reset >&2; exit 1", "touch died; kill -9 $$", DiedError, "code -9"),
        ("exec sleep 30", "kill -9 $$", DiedError, "ended with code -9"),
        ("exec sleep 30", "echo no such key >&2; exit 1", StageError, "ended with code 1: no such key"),
        ("exec sleep 30", 'printf "RecipeError\\nnot so" > $ADAPTORY_ERROR_FILE; exit 2', RecipeError, "not so"),
        ("kill -9 $$", "exec sleep 30", DiedError, "ended with code -9"),
    ],
)
def test_who_died_first_is_told_and_not_what_the_others_say_of_it(
    tmp_path: Path, leader: str, other: str, fault: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(f'if [ "$RANK" = 0 ]; then {leader}; else {other}; fi', tmp_path, monkeypatch)
    with pytest.raises(fault, match=said) as found:
        run_stage(run, "train", lambda event: None, processes=2)
    assert type(found.value) is fault


STEP, BEAT, LOADS = (f"""echo '{{"event": "{name}", "what": ""}}'""" for name in ("step", "beat", "stage"))


@pytest.mark.parametrize(
    ("script", "times"),
    [
        (f"{STEP}; sleep 2.4; {LOADS}", 1),
        (f"{STEP}; sleep 2.4; {BEAT}; sleep 2.4; {LOADS}", 2),
        (f"{STEP}; {LOADS}; sleep 2.4", 0),
        (f"{LOADS}; sleep 2.4", 0),
    ],
)
def test_a_training_that_falls_silent_between_its_steps_is_told_long_before_it_is_killed(
    script: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Any]] = []

    def hear(event: dict[str, Any]) -> None:
        heard.append(event)
        if "no sign" in event.get("what", ""):
            raise OSError  # a terminal that went away

    monkeypatch.setattr(process, "_NOTICED", 1.0)
    run_stage(run_of(script, tmp_path, monkeypatch), "train", hear)
    told = [event["what"] for event in heard if "no sign" in event.get("what", "")]
    assert len(told) == times
    assert all(re.fullmatch(r"no sign of life for \d+ s; after 120 s it is killed and tried again", one) for one in told)


def run_of(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run whose stages are this script."""
    place = folder / "python"
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(place))
    workspace = find(folder)
    workspace.home.mkdir()
    return SimpleNamespace(workspace=workspace, recipe=SimpleNamespace(name="tiny"), pin=Pin(key=f"sha256:{'0' * 64}"))
