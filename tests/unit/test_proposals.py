"""A candidate that waits for a person: of approve and reject the first word stands, and is carried out once."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adaptory.errors import AlreadyExists, IntegrityError, ReleaseError, ServerError
from adaptory.registry import approval, head, history, promotion, proposals
from adaptory.registry.projection import wanted
from adaptory.registry.promotion import retire
from adaptory.storage import ObjectStore, open_store
from tests.promotions import FaultyStore, Judged, promoted


def proposed(store: ObjectStore, folder: Path, number: int, **how: Any) -> proposals.Proposal:
    one = Judged(folder, number, head(store, "tiny"), **how)
    return proposals.propose(one.run, store, one.candidate, one.evidence, one.verdict)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


def test_a_proposal_changes_no_champion_and_proposing_again_changes_nothing(store: ObjectStore, tmp_path: Path) -> None:
    first = proposed(store, tmp_path, 1)
    assert proposed(store, tmp_path, 1) == first
    assert history(store, "tiny") == [] and proposals.waiting(store, "tiny") == first
    assert wanted([], first) == {"candidate": first.draft.candidate}


def test_only_a_pass_can_be_proposed(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="does not allow"):
        proposed(store, tmp_path, 1, good=False)


def test_an_approval_is_carried_out_once_and_names_who_said_it(store: ObjectStore, tmp_path: Path) -> None:
    one = proposed(store, tmp_path, 1)
    said = proposals.decide(store, one, "approve", by=" Ada ", reason="good")
    for _ in range(2):
        made = proposals.promote_approved(store, one, said)
        assert made is not None and (made.approved_by, made.version, made.kind) == ("Ada", 1, "promote")
    assert len(history(store, "tiny")) == 1
    assert proposals.waiting(store, "tiny") is None


def test_the_first_word_stands(store: ObjectStore, tmp_path: Path) -> None:
    one = proposed(store, tmp_path, 1)
    proposals.decide(store, one, "reject", by="Grace", reason="no")
    late = proposals.decide(store, one, "approve", by="Ada")
    assert (late.word, late.by) == ("reject", "Grace")
    with pytest.raises(ReleaseError, match="Grace rejected this candidate: no"):
        proposals.promote_approved(store, one, late)
    assert history(store, "tiny") == []


def test_of_many_words_at_once_one_stands(store: ObjectStore, tmp_path: Path) -> None:
    one, said = proposed(store, tmp_path, 1), []

    def speak(number: int) -> None:
        said.append(proposals.decide(store, one, ("approve", "reject")[number % 2], by=f"p{number}", reason="r"))

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(one.word, one.by) for one in said}) == 1


def test_an_approval_that_comes_too_late_is_stale(store: ObjectStore, tmp_path: Path) -> None:
    promoted(store, tmp_path, 1)
    one = proposed(store, tmp_path, 2)
    promoted(store, tmp_path, 3)
    assert proposals.waiting(store, "tiny") is None
    assert proposals.promote_approved(store, one, proposals.decide(store, one, "approve", by="Ada")) is None
    assert len(history(store, "tiny")) == 2
    run: Any = SimpleNamespace(recipe=SimpleNamespace(name="tiny"), key=one.draft.key)
    assert approval.found(run, store) is None, "the next run compares with the champion of now"


def test_another_record_of_the_same_champion_does_not_make_it_stale(store: ObjectStore, tmp_path: Path) -> None:
    promoted(store, tmp_path, 1)
    promoted(store, tmp_path, 2)
    one = proposed(store, tmp_path, 3)
    retire(store, "tiny", 1, by="Ada", reason="old")
    made = proposals.promote_approved(store, one, proposals.decide(store, one, "approve", by="Ada"))
    assert made is not None and (made.number, made.version) == (4, 3)


@pytest.mark.parametrize(("word", "by", "reason"), [("reject", "Ada", ""), ("reject", "Ada", "  "), ("approve", " ", "x")])
def test_a_word_without_a_name_or_a_rejection_without_a_reason_is_none(
    store: ObjectStore, tmp_path: Path, word: Any, by: str, reason: str
) -> None:
    one = proposed(store, tmp_path, 1)
    with pytest.raises(ReleaseError, match="needs"):
        proposals.decide(store, one, word, by=by, reason=reason)
    assert proposals.decision(store, one) is None


@pytest.mark.parametrize("how", ["lost", "unanswered"])
def test_whichever_change_fails_the_same_commands_finish_it(tmp_path: Path, how: str) -> None:
    for at in range(1, 40):
        store = open_store(str(tmp_path / f"{how}-{at}"))
        faulty: Any = FaultyStore(store, at, how)
        one = Judged(tmp_path, 1, None)

        def whole(where: Any, one: Judged = one) -> Any:
            proposal = proposals.propose(one.run, where, one.candidate, one.evidence, one.verdict)
            return proposals.promote_approved(where, proposal, proposals.decide(where, proposal, "approve", by="Ada", reason="r"))

        try:
            whole(faulty)
            assert at > 12, "every change was tried"
            return
        except ServerError:
            pass
        made = whole(store)
        assert made is not None and len(history(store, "tiny")) == 1
    raise AssertionError("it never came to an end")


def test_f12_the_newest_proposal_is_the_last_one_made_whatever_the_clocks_say(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = iter(["12", "11", "11"])
    monkeypatch.setattr(promotion, "_now", lambda: f"2026-03-29T{next(hours)}:00:00+00:00")
    first, second = proposed(store, tmp_path, 1), proposed(store, tmp_path, 2)
    assert first.draft.time > second.draft.time, "a clock was set back, or the second machine's is slow"
    assert proposals.waiting(store, "tiny") == second
    assert [one for one, _ in proposals.proposals(store, "tiny")] == [first, second]
    assert proposed(store, tmp_path, 1) == first, "proposing again changes nothing"


def test_a_word_whose_rival_then_failed_is_said_again(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 answers 409 while another writer is at it."""
    promoted(store, tmp_path, 1)
    create, answers = store.create, iter([True, False, True, False])

    def contended(key: str, data: bytes) -> None:
        if next(answers):
            raise AlreadyExists(key)
        create(key, data)

    monkeypatch.setattr(store, "create", contended)
    one = proposed(store, tmp_path, 2)
    assert proposals.waiting(store, "tiny") == one
    assert proposals.decide(store, one, "approve", by="Ada").by == "Ada"
