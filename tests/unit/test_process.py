"""Several processes that train together: how one of them ended decides what is told."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

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
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nif [ "$RANK" = 0 ]; then {leader}; else {other}; fi\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    place = find(tmp_path)
    place.home.mkdir()
    run = SimpleNamespace(workspace=place, recipe=SimpleNamespace(name="tiny"), pin=Pin(key=f"sha256:{'0' * 64}"))
    with pytest.raises(fault, match=said) as found:
        run_stage(cast(Any, run), "train", lambda event: None, processes=2)
    assert type(found.value) is fault
