"""Golden evidence: real runs, and the verdicts that were recorded for them; today's gate says the same, word by word.

A change of the gate that is meant changes these files too: then say in the commit which verdicts are other ones, and why.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptory.gate import Evidence, judge
from adaptory.recipe import Gate

FILES = sorted((Path(__file__).parent / "golden").glob("*.json"))
SITUATIONS = [(file.stem, one) for file in FILES for one in json.loads(file.read_text(encoding="utf-8"))["situations"]]


@pytest.mark.parametrize(("name", "one"), SITUATIONS, ids=[f"{name}: {one['situation']}" for name, one in SITUATIONS])
def test_todays_gate_gives_the_recorded_verdict(name: str, one: dict[str, Any]) -> None:
    file = Path(__file__).parent / "golden" / f"{name}.json"
    evidence = Evidence.model_validate(json.loads(file.read_text(encoding="utf-8"))["evidence"] | one["changes"])
    found = judge(evidence, Gate.model_validate(one["gate"]), one["champion_now"])
    assert found.model_dump(mode="json") == one["verdict"]


def test_the_recorded_verdicts_are_of_every_kind_that_numbers_decide() -> None:
    assert {one["verdict"]["outcome"] for _, one in SITUATIONS} >= {"PASS", "FAIL", "STALE"}
