"""S1: what is promoted is exactly what was judged, against the champion it was judged against."""

from pathlib import Path
from typing import Any

import pytest

from adaptory.errors import IntegrityError
from adaptory.gate import Verdict, judge
from adaptory.registry import append, head
from adaptory.registry.promotion import promote
from adaptory.storage import ObjectStore, open_store
from tests.unit.test_gate import CANDIDATE, FLOOR, OLD, around, evidence, gate
from tests.unit.test_ledger import record


class Named:
    """As much of a run or a candidate as the refusals look at."""

    def __init__(self, **facts: Any) -> None:
        self.__dict__.update(facts)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


def attempt(store: ObjectStore, verdict: Verdict, candidate: str = CANDIDATE, compared_with: str | None = None) -> Any:
    proof = evidence(around(0.7), champion=compared_with)
    run: Any = Named(recipe=Named(name="tiny"))
    made: Any = Named(digest=candidate)
    return promote(run, store, made, proof, verdict)


def passed(compared_with: str | None = None) -> Verdict:
    verdict = judge(evidence(around(0.7), champion=compared_with), gate(FLOOR), compared_with)
    assert verdict.outcome == "PASS"
    return verdict


@pytest.mark.parametrize("outcome", ["FAIL", "INCONCLUSIVE", "STALE", "CHAMPION_BROKEN"])
def test_nothing_but_a_pass_promotes(store: ObjectStore, outcome: str) -> None:
    with pytest.raises(IntegrityError, match="does not allow"):
        attempt(store, passed().model_copy(update={"outcome": outcome}))
    assert head(store, "tiny") is None


def test_a_pass_for_another_candidate_does_not_promote_this_one(store: ObjectStore) -> None:
    with pytest.raises(IntegrityError, match="run the gate again"):
        attempt(store, passed(), candidate="sha256:" + "c" * 64)
    assert head(store, "tiny") is None


def test_a_pass_on_other_evidence_does_not_promote(store: ObjectStore) -> None:
    with pytest.raises(IntegrityError, match="run the gate again"):
        attempt(store, passed().model_copy(update={"evidence": "sha256:" + "d" * 64}))
    assert head(store, "tiny") is None


def test_a_comparison_with_an_earlier_champion_is_stale_and_changes_nothing(store: ObjectStore) -> None:
    newer = record(1, None, candidate="sha256:" + "e" * 64)
    assert append(store, newer)
    assert attempt(store, passed()) is None, "compared with nobody, but there is a champion"
    assert attempt(store, passed(OLD), compared_with=OLD) is None, "compared with another one"
    assert head(store, "tiny") == newer


def test_promoting_the_champion_again_writes_no_second_record(store: ObjectStore) -> None:
    first = record(1, None, candidate=CANDIDATE)
    assert append(store, first)
    assert attempt(store, passed()) == first
    assert head(store, "tiny") == first
