"""S1: what is promoted is exactly what was judged, against the champion it was judged against."""

from pathlib import Path
from typing import Any

import pytest

from adaptory.errors import IntegrityError, ReleaseError, ServerError
from adaptory.gate import Verdict, judge
from adaptory.registry import append, head, history, proposals
from adaptory.registry.promotion import override, promote, retire, rollback
from adaptory.storage import ObjectStore, open_store
from tests.promotions import FaultyStore, Judged, promoted
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


def test_going_back_twice_never_returns_to_what_was_left(store: ObjectStore, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        promoted(store, tmp_path, number)
    found = [rollback(store, "tiny", None, by="Ada", reason="worse").version for _ in range(2)]
    assert found == [2, 1]
    with pytest.raises(ReleaseError, match="no other champion stands before it"):
        rollback(store, "tiny", None, by="Ada", reason="worse")
    assert rollback(store, "tiny", 3, by="Ada", reason="it was right").version == 3


def test_a_flow_that_is_tried_again_goes_back_once(store: ObjectStore, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        promoted(store, tmp_path, number)
    first, second = (rollback(store, "tiny", None, by="Ada", reason="worse", flow_run="run-1") for _ in range(2))
    assert first == second and len(history(store, "tiny")) == 4


def test_a_reply_that_is_lost_on_the_way_back_is_told_as_one_that_may_stand(store: ObjectStore, tmp_path: Path) -> None:
    for number in (1, 2):
        promoted(store, tmp_path, number)
    faulty: Any = FaultyStore(store, 1, "lost")
    with pytest.raises(ServerError, match="The record may stand: look at adaptory history tiny before you go back again"):
        rollback(faulty, "tiny", None, by="Ada", reason="worse")


def test_a_candidate_that_was_retired_is_never_promoted_again(store: ObjectStore, tmp_path: Path) -> None:
    promoted(store, tmp_path, 1)
    bad = promoted(store, tmp_path, 2)
    rollback(store, "tiny", None, by="Ada", reason="it insults people")
    one = Judged(tmp_path, 2, head(store, "tiny"))
    assert one.candidate.digest == bad.candidate
    retire(store, "tiny", bad.version, by="Ada", reason="it insults people")
    again = Judged(tmp_path, 2, head(store, "tiny"))
    facts: Any = (again.run, store, again.candidate, again.evidence, again.verdict)
    for attempt in (
        lambda: promote(*facts),
        lambda: proposals.propose(*facts),
        lambda: override(*facts, by="Ada", reason="x", expires="2027-01-01"),
    ):
        with pytest.raises(ReleaseError, match="this candidate is v2, which was retired: it insults people"):
            attempt()
    assert [one.version for one in history(store, "tiny")][-1] == 1
